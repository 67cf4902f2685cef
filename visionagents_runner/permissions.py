"""Who asks, and whether they may.

The answer comes from the request itself, never from middleware, because one of the two mounts of the API runs without
any: a session cookie, looked up when it matters, or the peer, for a request from the same machine.
"""

from __future__ import annotations

import inspect
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.apps import apps
from django.conf import settings
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from ninja.errors import HttpError

from . import store
from .conf import get_settings

if TYPE_CHECKING:
    from .options import Permission, ServeOptions
    from .runner import Runner

logger = logging.getLogger(__name__)

APP = "visionagents_runner"
VIEW_ALL = f"{APP}.view_agentsession"

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_FORWARDING = frozenset({"forwarded", "via", "x-real-ip"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ARGUMENTS = ("call_id", "session_id", "body")


class Action(Enum):
    """What somebody wants to do: the option that may replace the rule, the permission, and the words for it."""

    START = ("can_start_session", "start_agentsession", "start agent sessions")
    CLOSE = ("can_close_session", "close_agentsession", "close agent sessions")
    VIEW = ("can_view_session", "view_agentsession", "view agent sessions")
    METRICS = ("can_view_metrics", "view_metrics", "view metrics")

    def __init__(self, option: str, codename: str, words: str) -> None:
        self.option = option
        self.permission = f"{APP}.{codename}"
        self.words = words


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who proved who they are, and which of the permissions that were asked about they have."""

    user_id: Any
    name: str
    permissions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Access:
    """The outcome for somebody who may do what they asked for."""

    user_id: Any = None
    name: str = ""
    """For the history of a session, not for decisions."""
    sees_all: bool = True
    """Otherwise only the sessions that they started themselves; the others do not exist for them."""

    def sees(self, started_by_id: Any) -> bool:
        return self.sees_all or (self.user_id is not None and started_by_id == self.user_id)


_LOCAL = Access(name="local")
_BY_RULE = Access(name="api")


async def authorize(
    request: HttpRequest,
    runner: Runner,
    action: Action,
    *,
    call_id: str | None = None,
    session_id: str | None = None,
    body: Any = None,
    find_call_id: Callable[[], Awaitable[str | None]] | None = None,
) -> Access:
    """Return what the asker may see while doing ``action``.

    ``find_call_id`` finds the call of ``session_id``, where the path does not tell, for a callable that names it.

    Raises:
        HttpError: 401 if nobody is identified, 403 if they may not.
    """
    rule = rule_for(runner, action)
    if rule is not None:
        _check_cookie_origin(request, runner.options)
        provide_user(request)
        if call_id is None and find_call_id is not None and "call_id" in rule.names:
            call_id = await find_call_id()
        await rule.ask(request, call_id=call_id, session_id=session_id, body=body)
        if action is not Action.START:
            return _BY_RULE
        who = await identify(request, ())
        return Access(user_id=who.user_id, name=who.name) if who is not None else _BY_RULE

    problem = why_not_local(Facts.of(request), runner)
    # On the hot path, a local read, the cookie does not matter; a start keeps who asked for it.
    if problem is None and action is not Action.START:
        return _LOCAL
    who = await identify(request, (action.permission, VIEW_ALL))
    if problem is None:
        return Access(user_id=who.user_id, name=who.name) if who is not None else _LOCAL
    if who is None:
        raise HttpError(401, f"Sign in to {action.words}{problem}")
    _check_cookie_origin(request, runner.options)
    # Everybody who is signed in may view what they started themselves.
    if action is not Action.VIEW and action.permission not in who.permissions:
        raise HttpError(403, f"You need the permission {action.permission} to {action.words}")
    return Access(user_id=who.user_id, name=who.name, sees_all=VIEW_ALL in who.permissions)


# Callables of ServeOptions


@dataclass(frozen=True, slots=True)
class Rule:
    """A callable of `ServeOptions`, and what of ours it names."""

    function: Permission
    takes_request: bool
    names: frozenset[str]
    is_async: bool

    async def ask(self, request: HttpRequest, **about: Any) -> None:
        """Return if it allows.

        Raises:
            HttpError: it refuses; its own, or 403.
            TypeError: it returned something else than None, True or False.
        """
        arguments = (request,) if self.takes_request else ()
        named = {name: about.get(name) for name in self.names}
        if self.is_async:
            try:
                answer = await self.function(*arguments, **named)  # type: ignore[misc]
            except HttpError:
                raise
            except Exception:
                # Outside of Django's handler nobody else renews a connection that an async query found broken.
                await sync_to_async(_close_old_connections)()
                raise
        else:
            # In a thread: it may query, which is not allowed on the event loop, and would hold up every call.
            answer = await store.read(self.function, *arguments, **named)
            if inspect.isawaitable(answer):
                answer = await answer
        if answer is None or answer is True:
            return
        if answer is False:
            raise HttpError(403, "You may not do this")
        raise TypeError(
            f"{self.function!r} of ServeOptions returned {type(answer).__name__}: return None or True to allow, "
            "False to refuse, or raise ninja.errors.HttpError"
        )


def rule_for(runner: Runner, action: Action) -> Rule | None:
    """Return the callable that replaces the default rule for ``action``, if one was given."""
    function: Permission | None = getattr(runner.options, action.option)
    if function is None:
        return None
    try:
        return _rule(function)
    except TypeError:  # not hashable
        return _rule.__wrapped__(function)


@lru_cache(maxsize=256)
def _rule(function: Permission) -> Rule:
    takes_request, names = False, set()
    for number, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            takes_request |= parameter.kind is parameter.VAR_POSITIONAL
        elif parameter.name in _ARGUMENTS and parameter.kind is not parameter.POSITIONAL_ONLY:
            names.add(parameter.name)
        elif number == 0:
            takes_request = True
    is_async = iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    return Rule(function, takes_request, frozenset(names), is_async)


def _close_old_connections() -> None:
    from django.db import close_old_connections

    close_old_connections()


# Identity


async def identify(request: HttpRequest, permissions: Iterable[str]) -> Identity | None:
    """Return who asks, and which of ``permissions`` they have; None if nothing in the request proves it."""
    return await _by_cookie(request, tuple(permissions))


async def _by_cookie(request: HttpRequest, permissions: tuple[str, ...]) -> Identity | None:
    key = _session_key(request)
    return None if key is None else await store.read(_user_of_session, key, permissions)


def _session_key(request: HttpRequest) -> str | None:
    if not apps.is_installed("django.contrib.auth"):
        return None
    by_table = settings.SESSION_ENGINE in {
        "django.contrib.sessions.backends.db",
        "django.contrib.sessions.backends.cached_db",
    }
    if by_table and not apps.is_installed("django.contrib.sessions"):
        return None
    return request.COOKIES.get(settings.SESSION_COOKIE_NAME) or None


def _user_of_session(key: str, permissions: tuple[str, ...]) -> Identity | None:
    user = _get_user(import_module(settings.SESSION_ENGINE).SessionStore(key))
    if user is None:
        return None
    granted = frozenset(name for name in permissions if user.has_perm(name))
    return Identity(user.pk, str(user.get_username()), granted)


def _get_user(session: Any) -> Any:
    """Return the user of a session, or None.

    Like `django.contrib.auth.get_user`, but it writes nothing: that one gives a session whose key was signed with a
    fallback secret a new id, which would sign the user out, since no middleware sends the new cookie.
    """
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model, load_backend
    from django.core.exceptions import ValidationError
    from django.utils.crypto import constant_time_compare

    try:
        user_id: Any = get_user_model()._meta.pk.to_python(session[SESSION_KEY])
        backend_path = session[BACKEND_SESSION_KEY]
    except (KeyError, ValidationError):
        return None
    if backend_path not in settings.AUTHENTICATION_BACKENDS:
        return None
    user: Any = load_backend(backend_path).get_user(user_id)
    if user is None or not user.is_authenticated:
        return None
    if hasattr(user, "get_session_auth_hash"):
        sent = session.get(HASH_SESSION_KEY) or ""
        hashes = [user.get_session_auth_hash(), *getattr(user, "get_session_auth_fallback_hash", tuple)()]
        if not any(constant_time_compare(sent, known) for known in hashes):
            return None
    return user


def provide_user(request: HttpRequest) -> None:
    """Give ``request`` a lazy ``user`` and an ``auser``, which callables of `ServeOptions` expect, if it has none.

    A cookie counts for them as it does for the default rule.
    """
    if hasattr(request, "user"):
        return

    def user() -> Any:
        from django.contrib.auth.models import AnonymousUser

        key = _session_key(request)
        found = None if key is None else _get_user(import_module(settings.SESSION_ENGINE).SessionStore(key))
        return found or AnonymousUser()

    async def auser() -> Any:
        return await store.read(user)

    request.user = SimpleLazyObject(user)  # type: ignore[assignment]
    request.auser = auser


# Origin


def _check_cookie_origin(request: HttpRequest, options: ServeOptions) -> None:
    """Refuse an unsafe request that carries a session cookie and was not sent by a page of ours, or of a listed origin.

    Raises:
        HttpError: 403.
    """
    if request.method in _SAFE_METHODS or _session_key(request) is None:
        return
    origin = Facts.of(request).origin
    if origin is None:
        raise HttpError(403, "A request that is allowed by a cookie needs an Origin header")
    scheme = "https" if request.is_secure() else "http"
    if not origin_allowed(origin, scheme, request.get_host(), options):
        raise HttpError(403, "The page that sent this request is of another origin: cors_allow_origins can list it")


def origin_allowed(origin: str | None, scheme: str, host: str | None, options: ServeOptions) -> bool:
    """Whether ``origin`` is the one that serves ``scheme`` and ``host``, or is listed by name. None never is.

    For an HTTP request as for a WebSocket handshake, where ws counts as http and wss as https.
    """
    if not origin or origin == "null":
        return False
    if origin != "*" and origin in options.cors_allow_origins:
        return True
    mine = _split_host(host)
    try:
        parts = urlsplit(origin)
        theirs = (parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme))
    except ValueError:
        return False
    if mine is None or parts.path or parts.query or parts.fragment or parts.username is not None:
        return False
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    return parts.scheme == scheme and theirs == (mine[0], mine[1] or _DEFAULT_PORTS.get(scheme))


# Local requests


@dataclass(slots=True)
class Facts:
    """What a request says of where it comes from."""

    scheme: str
    peers: list[str | None] = field(default_factory=list)
    host: str | None = None
    origin: str | None = None
    forwarded: bool = False

    @classmethod
    def of(cls, request: HttpRequest) -> Facts:
        scope = getattr(request, "scope", None)
        if scope is None:
            return cls._of_wsgi(request)
        facts = cls.of_scope(scope)
        if "META" in request.__dict__:
            # Middleware that knows the true peer writes it there; then it knows better than the socket.
            facts.peers.append(request.META.get("REMOTE_ADDR"))
        return facts

    @classmethod
    def of_scope(cls, scope: Mapping[str, Any]) -> Facts:
        """Also for the scope of a WebSocket."""
        facts = cls(scope.get("scheme") or "http", [(scope.get("client") or (None,))[0]])
        for name, value in scope["headers"]:
            if name == b"host":
                facts.host = value.decode("latin1") if facts.host is None else f"{facts.host},"
            elif name == b"origin":
                facts.origin = value.decode("latin1") if facts.origin is None else "null"
            elif name[:1] in b"fvxFVX" and _is_forwarding(name.decode("latin1")):
                facts.forwarded = True
        return facts

    @classmethod
    def _of_wsgi(cls, request: HttpRequest) -> Facts:
        meta = request.META
        return cls(
            request.scheme or "http",
            [meta.get("REMOTE_ADDR")],
            meta.get("HTTP_HOST"),
            meta.get("HTTP_ORIGIN"),
            any(key.startswith("HTTP_") and _is_forwarding(key[5:]) for key in meta),
        )


def why_not_local(facts: Facts, runner: Runner) -> str | None:
    """Return None if this is a local request that needs no sign-in; else the end of a sentence, often empty.

    It says what is in the way only where a local request would count.
    """
    allow = get_settings().ALLOW_LOCAL
    if allow is False or not (allow or runner.standalone or settings.DEBUG):
        return ""
    if not all(map(_is_loopback_address, facts.peers)):
        return ", or ask from the machine that this server runs on"
    if facts.forwarded:
        return ": it comes through a proxy, so it is not known to be a local request"
    if not _names_loopback(facts.host):
        return ", or use localhost in the address: its Host header names another machine"
    if facts.origin is not None and not origin_allowed(facts.origin, facts.scheme, facts.host, runner.options):
        return ": it was sent by a page of another origin, which cors_allow_origins does not list"
    return None


def _is_forwarding(name: str) -> bool:
    name = name.lower().replace("_", "-")
    return name in _FORWARDING or name.startswith("x-forwarded-")


@lru_cache(maxsize=1024)
def _is_loopback_address(address: str | None) -> bool:
    if not address:
        return False
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


@lru_cache(maxsize=1024)
def _names_loopback(host: str | None) -> bool:
    parts = _split_host(host)
    return parts is not None and (parts[0] == "localhost" or _is_loopback_address(parts[0]))


@lru_cache(maxsize=1024)
def _split_host(host: str | None) -> tuple[str, int | None] | None:
    """Return name and port of a Host header, the name in lower case and without brackets; None if it is malformed."""
    from django.http.request import host_validation_re

    match = host_validation_re.fullmatch(host.lower()) if host else None
    if match is None:
        return None
    name, port = match.groups()
    if port is not None and int(port) > 65535:
        return None
    return name.strip("[]"), None if port is None else int(port)
