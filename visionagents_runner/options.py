"""`ServeOptions`: how the REST API behaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ninja import NinjaAPI

Permission = Callable[..., "Awaitable[bool | None] | bool | None"]
"""Called with the request and, where it names them, ``call_id``, ``session_id`` and ``body``.

It allows by returning None or True, and refuses by returning False (403) or raising ninja's ``HttpError``.
"""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of the REST API; a permission left out means the default rule of `permissions`.

    Raises:
        ValueError: ``cors_allow_origins`` holds ``*`` together with ``cors_allow_credentials``.
        TypeError: an option of vision-agents' ServeOptions that has another name here, or a value of a wrong type.
    """

    cors_allow_origins: Iterable[str] = ()
    """Origins whose pages may call the API: ``{"https://app.example"}``."""

    cors_allow_methods: Iterable[str] = ("*",)
    """Methods that they may use."""

    cors_allow_headers: Iterable[str] = ("*",)
    """Headers that they may send."""

    cors_allow_credentials: bool = False
    """Whether their requests may carry cookies; not together with the origin ``*``."""

    can_start_session: Permission | None = None
    """Replaces the rule for starts, and for being on a call."""

    can_close_session: Permission | None = None
    """Replaces the rule for closes."""

    can_view_session: Permission | None = None
    """Replaces the rule for seeing a session, its events and its transcript."""

    can_view_metrics: Permission | None = None
    """Replaces the rule for metrics and costs."""

    can_speak: Permission | None = None
    """Replaces the rule for having an agent say or answer something."""

    api: NinjaAPI | None = None
    """A ready NinjaAPI that replaces the default one whole; the worker still starts and stops with the server."""

    fast_api: Any = None
    """Not taken: pass ``api=`` (a NinjaAPI)."""

    def __post_init__(self) -> None:
        if self.fast_api is not None:
            raise TypeError("ServeOptions(fast_api=...) has no meaning under Django: pass api= (a NinjaAPI) instead")
        for name in ("cors_allow_origins", "cors_allow_methods", "cors_allow_headers"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise TypeError(f"ServeOptions({name}=...) takes a collection of strings: write {{{value!r}}}")
            object.__setattr__(self, name, tuple(value))
        if self.cors_allow_credentials and "*" in self.cors_allow_origins:
            raise ValueError(
                "cors_allow_origins={'*'} with cors_allow_credentials=True would let every web page act for your "
                "users: name the origins"
            )
        for name in ("can_start_session", "can_close_session", "can_view_session", "can_view_metrics", "can_speak"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"ServeOptions({name}=...) takes a callable")
