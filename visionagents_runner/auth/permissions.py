"""Who asks, and whether they may.

The answer comes from the request itself, never from middleware, because one of the two mounts of the API runs without
any: an API key, a session cookie, looked up when it matters, or the peer, for a request from the same machine. Whoever
presents a key may do what the key may, and nothing else: a key that is void is refused, also on the same machine.

What somebody may do and which sessions they may see are two questions. The second one is always that of viewing:
`ServeOptions.can_view_session`, asked about each session, or else the default rule; whoever is let in to do something
else by a callable of the project sees no more for it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.apps import apps
from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import close_old_connections
from django.http import Http404, HttpRequest
from django.utils.crypto import constant_time_compare
from django.utils.functional import SimpleLazyObject
from ninja.errors import HttpError

from ..models.key import Scope, digest_of
from ..quotas import Who, address_of_request, check_guess, identity_behind, note_valid, one_look_up
from ..store import calls, database
from ..utils.request_headers import find_cookie
from . import keys, stamps
from .local_requests import SAFE_METHODS, Facts, is_token_of_this_machine, origin_allowed, site_scheme, why_not_local

if TYPE_CHECKING:
    from ..options import Permission, ServeOptions
    from ..registry import AgentRegistry

logger = logging.getLogger(__name__)

APP = "visionagents_runner"
VIEW_ALL = f"{APP}.view_agentsession"

_ARGUMENTS = ("call_id", "session_id", "body")


class Action(Enum):
    """What somebody wants to do: the option that may replace the rule, the permission, and the words for it."""

    START = ("can_start_session", "start_agentsession", "start agent sessions")
    CLOSE = ("can_close_session", "close_agentsession", "close agent sessions")
    VIEW = ("can_view_session", "view_agentsession", "view agent sessions")
    METRICS = ("can_view_metrics", "view_metrics", "view metrics")
    TRANSCRIPT = ("can_view_session", "view_transcript", "read what was said in agent sessions")
    SPEAK = ("can_speak", "speak_agentsession", "speak into agent sessions")

    def __init__(self, option: str, codename: str, words: str) -> None:
        self.option = option
        self.permission = f"{APP}.{codename}"
        self.words = words


ALL_PERMISSIONS = tuple(action.permission for action in Action)


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who proved who they are, and which of the permissions that were asked about they have."""

    user_id: Any
    name: str
    permissions: frozenset[str] = frozenset()
    key: keys.Key | None = None
    """The API key that proved it; then the permissions are those that its scopes stand for."""


class Session(Protocol):
    """What decides whether somebody may see a session."""

    @property
    def id(self) -> Any: ...

    @property
    def call_id(self) -> str: ...

    @property
    def started_by_id(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Access:
    """The outcome for somebody who may do what they asked for."""

    user_id: Any = None
    name: str = ""
    """For the history of a session, not for decisions."""
    sees_all: bool = False
    """Otherwise only the sessions that they started themselves; the others do not exist for them."""
    source: str = "api"
    """Where a session that they start comes from."""
    view: Rule | None = None
    """The project's own rule for viewing, which then says what else they see; `sees_all` does not count."""

    def owns(self, started_by_id: Any) -> bool:
        return self.user_id is not None and started_by_id == self.user_id

    async def sees(self, request: HttpRequest, session: Session) -> bool:
        """Whether they may see that session: their own, and what the rule for viewing shows them."""
        if self.view is None or self.owns(session.started_by_id):
            return self.sees_all or self.owns(session.started_by_id)
        provide_user(request)
        try:
            await self.view.ask(request, call_id=session.call_id, session_id=str(session.id))
        except HttpError:
            return False
        return True

    @property
    def sees_every_call(self) -> bool:
        """Whether no call can be hidden from them, whatever is on it."""
        return self.sees_all and self.view is None

    async def sees_call(self, request: HttpRequest, sessions: Collection[Session]) -> bool:
        """Whether a call with these live sessions is open to them: they see every one, or one is their own.

        That one hears the whole call, and is theirs to read.
        """
        if self.sees_every_call or any(self.owns(session.started_by_id) for session in sessions):
            return True
        if len(sessions) >= calls.MOST_ON_CALL:
            return False  # there may be more, which were not looked at
        for session in sessions:
            if not await self.sees(request, session):
                return False
        return True


_LOCAL = Access(name="local", sees_all=True)
_BY_RULE = Access(name="api", sees_all=True)
"""Of somebody whom a callable let in, which was asked about that very session."""


async def authorize(
    request: HttpRequest,
    runner: AgentRegistry,
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
        if rule.takes_request and hasattr(request, "receive_body"):
            await request.receive_body()  # it may look at the bytes, for a signature say
        _check_cookie_origin(request, runner.options)
        provide_user(request)
        if call_id is None and find_call_id is not None and "call_id" in rule.names:
            call_id = await find_call_id()
        if session_id is not None:
            session_id = session_id.lower()  # as it is kept: a rule must not know a session by two names
        await rule.ask(request, call_id=call_id, session_id=session_id, body=body)
        if action is not Action.START:
            return _BY_RULE
        return await _starter(request, runner)

    view = rule_for(runner, Action.VIEW)
    credential = keys.bearer(request)
    with_token = is_token_of_this_machine(credential, runner)
    if credential is not None and not with_token:
        return replace(await _by_key(request, action), view=view)
    problem = await why_not_local(request, runner, with_token=with_token)
    # On the hot path, a local read, the cookie does not matter; a start keeps who asked for it.
    if problem is None and action is not Action.START:
        return _LOCAL if view is None else replace(_LOCAL, view=view)
    wanted = (action.permission, VIEW_ALL)
    who = await (_by_cookie(request, wanted) if with_token else identify(request, wanted))
    if problem is None:
        return replace(_LOCAL if who is None else Access(who.user_id, who.name, sees_all=True), view=view)
    if who is None:
        raise HttpError(401, f"Sign in, or send an API key, to {action.words}{problem}")
    _check_cookie_origin(request, runner.options)
    # Everybody who is signed in may view what they started themselves.
    if action is not Action.VIEW and action.permission not in who.permissions:
        raise HttpError(403, f"You need the permission {action.permission} to {action.words}")
    return Access(who.user_id, who.name, sees_all=VIEW_ALL in who.permissions, view=view)


async def _starter(request: HttpRequest, runner: AgentRegistry) -> Access:
    """Return who starts a session that a callable of `ServeOptions` let them start, and what else they see."""
    view = rule_for(runner, Action.VIEW)
    who = await identify_leniently(request, (VIEW_ALL,))
    credential = keys.bearer(request)
    with_token = is_token_of_this_machine(credential, runner)
    is_local = (credential is None or with_token) and await why_not_local(
        request, runner, with_token=with_token
    ) is None
    if who is None:
        return Access(name=_BY_RULE.name, sees_all=is_local, view=view)
    source = who.key.source if who.key else _BY_RULE.source
    return Access(who.user_id, who.name, sees_all=is_local or VIEW_ALL in who.permissions, source=source, view=view)


async def _by_key(request: HttpRequest, action: Action) -> Access:
    who = await identify(request, (action.permission, VIEW_ALL, Action.START.permission))
    assert who is not None
    assert who.key is not None
    # What a key may start, it may look at; everything else needs a scope of its own.
    follows = action is Action.VIEW and Action.START.permission in who.permissions
    if action.permission not in who.permissions and not follows:
        scope = next(scope.value for scope in Scope if scope.permission == action.permission)
        raise HttpError(403, f"The API key va_{who.key.prefix} needs the scope {scope} to {action.words}")
    return Access(who.user_id, who.name, sees_all=VIEW_ALL in who.permissions, source=who.key.source)


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
            HttpError: it refuses; its own, or 403, or 404 for Django's Http404.
            TypeError: it returned something else than None, True or False.
        """
        try:
            answer = await self._answer(request, about)
        except PermissionDenied as refusal:
            raise HttpError(403, str(refusal) or "Permission denied") from refusal
        except Http404 as refusal:
            raise HttpError(404, "Not Found") from refusal
        if answer is None or answer is True:
            return
        if answer is False:
            raise HttpError(403, "You may not do this")
        raise TypeError(
            f"{self.function!r} of ServeOptions returned {type(answer).__name__}: return None or True to allow, "
            "False to refuse, or raise ninja.errors.HttpError"
        )

    async def _answer(self, request: HttpRequest, about: dict[str, Any]) -> Any:
        arguments = (request,) if self.takes_request else ()
        named = {name: about.get(name) for name in self.names}
        if self.is_async:
            try:
                return await self.function(*arguments, **named)  # type: ignore[misc]
            except HttpError:
                raise
            except Exception:
                # Outside of Django's handler nobody else renews a connection that an async query found broken.
                await sync_to_async(_close_old_connections)()
                raise
            except (SystemExit, KeyboardInterrupt) as error:
                raise self._exited(error) from error
        else:
            # In a thread: it may query, which is not allowed on the event loop, and would hold up every call.
            try:
                answer = await database.call(self.function, *arguments, **named)
            except (SystemExit, KeyboardInterrupt) as error:
                raise self._exited(error) from error
            return await answer if inspect.isawaitable(answer) else answer

    def _exited(self, error: BaseException) -> RuntimeError:
        return RuntimeError(f"{self.function!r} of ServeOptions raised {error!r}")  # it would end the loop: all calls


def rule_for(runner: AgentRegistry, action: Action) -> Rule | None:
    """Return the callable that replaces the default rule for ``action``, if one was given."""
    function: Permission | None = getattr(runner.options, action.option)
    if function is None and action is Action.SPEAK:
        function = runner.options.can_close_session
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
    close_old_connections()


# Identity


async def identify(request: HttpRequest, permissions: Iterable[str]) -> Identity | None:
    """Return who asks, and which of ``permissions`` they have; None if nothing in the request proves it.

    An API key counts before a cookie. It is no ambient authority: no page can have a browser send it, so the Origin of
    a request with a key does not matter.

    Raises:
        HttpError: 401, the request presents a key that is void, or none of ours.
    """
    try:
        key = await keys.key_of(request)
    except keys.InvalidKey as error:
        raise HttpError(401, str(error)) from None
    if key is not None:
        return Identity(key.owner_id, key.label, key.permissions.intersection(permissions), key)
    return await _by_cookie(request, tuple(permissions))


async def _by_cookie(request: HttpRequest, permissions: tuple[str, ...]) -> Identity | None:
    key = _session_key(request)
    if key is None:
        return None
    since = judged_since(request)
    if since is not None:  # who is asked about again was let in once
        who: Identity | None = await stamps.again(key, since, partial(_user_of_session, permissions=ALL_PERMISSIONS))
        return who and replace(who, permissions=who.permissions.intersection(permissions))
    digest = digest_of(key)
    check_guess(digest, address_of_request(request))
    async with one_look_up(digest):
        found = await database.read(_user_of_session, key, permissions)
    if found is not None:
        note_valid(digest, f"user:{found.user_id}")
    return found


async def identify_leniently(request: HttpRequest, permissions: Iterable[str]) -> Identity | None:
    """`identify` where a callable of the project decides: a token may mean something to it, and nothing here."""
    wanted = tuple(permissions)
    try:
        return await identify(request, wanted)
    except HttpError:
        return await _by_cookie(request, wanted)


def who_asks(request: HttpRequest, access: Access) -> Who:
    """Return whose share of `quotas` a request takes from, which ``access`` has let in."""
    identity = identity_of(request) if access.user_id is None else f"user:{access.user_id}"
    if keys.bearer(request) is not None:
        identity = identity_of(request)
    return Who(identity, address_of_request(request))


def identity_of(request: HttpRequest) -> str | None:
    """Return who the credentials of a request that was let in stand for.

    A bearer's token that means something to a callable of `ServeOptions` only is somebody too. It must not pass for a
    key, of which it may have the prefix.
    """
    credential = keys.bearer(request)
    known = likely_identity(request)
    return known if credential is None or known is not None else f"key:{digest_of(credential)[:12]}"


def likely_identity(request: HttpRequest) -> str | None:
    """Return whose share a request will take from in all likelihood, as far as that is known without asking."""
    credential = keys.bearer(request) or _session_key(request)
    return None if credential is None else identity_behind(digest_of(credential))


def _session_key(request: HttpRequest) -> str | None:
    if not apps.is_installed("django.contrib.auth"):
        return None
    by_table = settings.SESSION_ENGINE in {
        "django.contrib.sessions.backends.db",
        "django.contrib.sessions.backends.cached_db",
    }
    if by_table and not apps.is_installed("django.contrib.sessions"):
        return None
    name = settings.SESSION_COOKIE_NAME
    if "COOKIES" in request.__dict__:
        return request.COOKIES.get(name) or None
    scope = getattr(request, "scope", None)
    if scope is None:
        headers = [request.META.get("HTTP_COOKIE", "")]
    else:
        headers = [value.decode("latin1") for key, value in scope["headers"] if key == b"cookie"]
    return find_cookie(headers, name) or None


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
        if key is None:
            return AnonymousUser()
        digest = digest_of(key)
        if judged_since(request) is None:  # who is asked about again was let in once
            check_guess(digest, address_of_request(request))
        found = _get_user(import_module(settings.SESSION_ENGINE).SessionStore(key))
        if found is None:
            return AnonymousUser()
        note_valid(digest, f"user:{found.pk}")
        return found

    async def auser() -> Any:
        return await database.read(user)

    request.user = SimpleLazyObject(user)  # type: ignore[assignment]
    request.auser = auser


# Asking again


def judged_since(request: HttpRequest) -> float | None:
    """Return since when (monotonic) an answer may be known that this request is judged by; None: nobody shares it.

    Whoever is judged again and again, as people on a call are, sets ``request.judged_since``.
    """
    return getattr(request, "judged_since", None)


# Origin


def _check_cookie_origin(request: HttpRequest, options: ServeOptions) -> None:
    """Refuse an unsafe request that carries a session cookie and was not sent by a page of ours, or of a listed origin.

    Raises:
        HttpError: 403.
    """
    if request.method in SAFE_METHODS or _session_key(request) is None:
        return
    origin = Facts.of(request).origin
    if origin is None:
        raise HttpError(403, "A request that is allowed by a cookie needs an Origin header")
    if not origin_allowed(origin, site_scheme(request), request.get_host(), options):
        raise HttpError(403, "The page that sent this request is of another origin: cors_allow_origins can list it")
