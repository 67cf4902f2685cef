"""What both admins share: nothing is added, changed or deleted here, and no page counts a huge table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import models
from django.db.models import Q, QuerySet
from django.utils.functional import cached_property

from ..conf.settings import get_settings
from ..models import WorkerState
from ..models.worker import seconds_ago
from ..utils.page_headers import ADMIN, guarded

M = TypeVar("M", bound=models.Model)

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.urls import URLPattern

    _Paginator = Paginator[Any]

    class _ModelAdmin(admin.ModelAdmin[M]): ...
else:
    _Paginator = Paginator

    class _ModelAdmin(admin.ModelAdmin):
        def __class_getitem__(cls, model: Any) -> Any:
            return cls


def silent_worker(prefix: str = "") -> Q:
    """Whether a worker that has not said goodbye sent no heartbeat for its time-to-live, by the database's clock."""
    late = Q(**{f"{prefix}heartbeat_at__lt": seconds_ago(get_settings().WORKER_TTL)})
    return late & ~Q(**{f"{prefix}state": WorkerState.STOPPED})


class CappedPaginator(_Paginator):
    """Counts no further than ``limit``, because a count reads every row that it counts."""

    limit = 10_000

    @cached_property
    def count(self) -> int:
        queryset: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return queryset.order_by().values("pk")[: self.limit].count()

    @property
    def is_capped(self) -> bool:
        return self.count >= self.limit


class ReadOnlyAdmin(_ModelAdmin[M]):
    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50

    class Media:
        css: ClassVar = {"all": ("visionagents_runner/admin.css", "visionagents_runner/admin/live.css")}

    @property
    def urls(self) -> list[URLPattern]:
        patterns: list[URLPattern] = super().urls
        for pattern in patterns:
            pattern.callback = guarded(pattern.callback, ADMIN)
        return patterns

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def can_see(self, request: HttpRequest, model: type[models.Model]) -> bool:
        """Whether this user may look at rows of another model, so that a link to them leads somewhere."""
        other = self.admin_site._registry.get(model)
        return other is not None and other.has_view_permission(request)
