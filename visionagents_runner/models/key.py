"""`AgentKey`: what a program presents instead of a person's cookie, ``Authorization: Bearer va_<prefix>_<secret>``."""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models, router, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from .fields import ExactCharField
from .worker import seconds_ago

PREFIX_LENGTH = 10
SECRET_LENGTH = 43
"""Of 62 characters each: 256 bits."""

_PREFIX_ALPHABET = string.digits + string.ascii_lowercase
_SECRET_ALPHABET = string.digits + string.ascii_letters
_USE_SECONDS = 60.0


class Scope(models.TextChoices):
    """One kind of thing that a key may be for."""

    START = "start", _("start sessions, and look at those of its owner")
    CLOSE = "close", _("close sessions")
    VIEW = "view", _("view sessions, also those of others")
    TRANSCRIPT = "transcript", _("read what was said")
    METRICS = "metrics", _("read metrics")
    SPEAK = "speak", _("speak into sessions")

    @property
    def permission(self) -> str:
        """The model permission that lets a person do the same."""
        return f"visionagents_runner.{_CODENAMES[self.value]}"


_CODENAMES = {
    "start": "start_agentsession",
    "close": "close_agentsession",
    "view": "view_agentsession",
    "transcript": "view_transcript",
    "metrics": "view_metrics",
    "speak": "speak_agentsession",
}


def make_prefix() -> str:
    return "".join(secrets.choice(_PREFIX_ALPHABET) for _ in range(PREFIX_LENGTH))


def digest_of(key: str) -> str:
    """Return what is kept of a key.

    A slow hash protects passwords, which can be guessed. A secret of 256 random bits cannot, so one round of SHA-256
    is as safe, and costs a request microseconds instead of a tenth of a second. Each key's unique prefix, which is
    hashed along, is its salt. SECRET_KEY has no part in it: changing that must not void every key.
    """
    return hashlib.sha256(f"visionagents_runner.AgentKey:{key}".encode()).hexdigest()


class AgentKeyQuerySet(models.QuerySet["AgentKey"]):
    def issue(
        self,
        *,
        name: str,
        owner: Any,
        scopes: Iterable[str],
        expires_in: timedelta | None = None,
        expires_at: datetime | None = None,
        by: str = "",
        prefix: str | None = None,
    ) -> tuple[AgentKey, str]:
        """Make a key. Returns its row and the key itself, which nobody can find out ever after.

        Args:
            owner: The user whose sessions it sees; what it starts is theirs.
            expires_in: Its age, by the database's clock, from which on it is void; or ``expires_at``; or it never is.
            by: Who makes it, for the record.

        Raises:
            ValueError: a sentence about what is wrong with the arguments.
        """
        wanted = sorted(set(scopes))
        if not name.strip() or not name.isprintable() or len(name) > 100:
            raise ValueError("A key needs a name of 1 to 100 printable characters, which says what uses it")
        if owner is None:
            raise ValueError("A key needs an owner: the user who answers for it")
        if not wanted:
            raise ValueError(f"A key needs a scope, at least one of {', '.join(Scope.values)}")
        if unknown := set(wanted) - set(Scope.values):
            raise ValueError(f"There is no scope {min(unknown)!r}: there are {', '.join(Scope.values)}")
        if expires_in is not None and expires_in <= timedelta(0):
            raise ValueError("A key cannot expire before it is made")
        prefix = prefix or make_prefix()
        secret = "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(SECRET_LENGTH))
        plain = f"va_{prefix}_{secret}"
        with transaction.atomic(using=router.db_for_write(AgentKey)):
            row = self.create(
                prefix=prefix,
                digest=digest_of(plain),
                name=name.strip(),
                owner=owner,
                scopes=wanted,
                expires_at=expires_at if expires_in is None else Now() + expires_in,
                created_by=by,
            )
            row.refresh_from_db()  # times are the database's
        return row, plain

    def valid(self) -> AgentKeyQuerySet:
        """Keys that count, as far as their own rows tell; one whose owner was deactivated does not."""
        return self.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=Now()), revoked_at__isnull=True)

    def revoke(self, by: str) -> int:
        """Void these for good. Returns how many were not void before."""
        return self.filter(revoked_at__isnull=True).update(revoked_at=Now(), revoked_by=by)

    def touch(self, pks: Collection[int]) -> int:
        """Note that these are in use, at most once a minute each."""
        stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=seconds_ago(_USE_SECONDS))
        return self.filter(stale, pk__in=pks).update(last_used_at=Now())


class AgentKey(models.Model):
    """Rows stay when a key is revoked: they say whose it was, and until when it counted."""

    prefix = ExactCharField(
        max_length=16, unique=True, editable=False, help_text=_("The public part, by which lists and logs name a key.")
    )
    digest = models.CharField(max_length=64, editable=False)
    name = models.CharField(max_length=100, help_text=_("What uses it."))
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        help_text=_("Sessions that it starts are theirs. It is void once they are deactivated or gone."),
    )
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.CharField(max_length=255, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_by = models.CharField(max_length=255, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False, help_text=_("To the minute."))

    objects = AgentKeyQuerySet.as_manager()

    class Meta:
        verbose_name = _("API key")
        ordering = ("-created_at", "-id")
        # Changing one means revoking it; none is deleted, because its row is the record of it.
        default_permissions = ("add", "change", "view")

    def __str__(self) -> str:
        return f"va_{self.prefix} ({self.name})"

    @property
    def owner_counts(self) -> bool:
        """Whether its owner is there and may act."""
        return self.owner is not None and bool(getattr(self.owner, "is_active", True))
