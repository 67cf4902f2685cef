"""Asking again who a cookie belongs to, and what they may, for many at once.

A full look takes four queries and builds the user anew. Of hundreds who are asked about every few seconds, next to none
has changed: so what their identity follows from is compared first, in a few queries for all of them together. That is
known only of Django's own sessions, users and permissions; everybody else gets the full look each time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from django.conf import settings
from django.utils import timezone

from ..store import database
from ..utils.bounded import keep
from ..utils.tasks import shared

_MOST = 2048
_AT_ONCE = 500
"""Keys in one query: databases take a limited number of parameters."""


class _Known(NamedTuple):
    who: Any
    user_id: Any
    stamp: Hashable


_known: dict[str, _Known] = {}
"""By the key of the session, those asked about last at the end."""


async def again(key: str, since: float, look: Callable[[str], Any]) -> Any:
    """Return what ``look(key)`` returns, an identity or None; or what it did before, where nothing has changed.

    ``look`` queries, and is called in a reader's thread. What was compared ``since`` (monotonic) is fresh enough.
    """
    return await shared(("user", key), since, partial(_again, key, since, look))


async def _again(key: str, since: float, look: Callable[[str], Any]) -> Any:
    before = _known.pop(key, None)
    if before is not None:
        _known[key] = before
        compare = partial(database.read, _stamps, {each: known.user_id for each, known in _known.items()})
        now = await shared("stamps", since, compare)
        if now.get(key) == before.stamp:
            return before.who
        _known.pop(key, None)
    who, stamp = await database.read(_look, key, look)
    if stamp is not None:
        keep(_known, key, _Known(who, who.user_id, stamp), most=_MOST)
    return who


def _look(key: str, look: Callable[[str], Any]) -> tuple[Any, Hashable]:
    who = look(key)
    if who is None or not _are_djangos():
        return who, None
    # What changes between the stamp and the look after it is noticed the next time.
    stamp = _stamps({key: who.user_id}).get(key)
    again = look(key)
    return again, None if again is None or again.user_id != who.user_id else stamp


def _are_djangos() -> bool:
    """Whether all that an identity follows from is in Django's own tables."""
    from django.contrib.auth import get_user_model
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import PermissionsMixin

    user: Any = get_user_model()
    return (
        settings.SESSION_ENGINE == "django.contrib.sessions.backends.db"
        and list(settings.AUTHENTICATION_BACKENDS) == ["django.contrib.auth.backends.ModelBackend"]
        and issubclass(user, AbstractBaseUser)
        and issubclass(user, PermissionsMixin)
        and all(
            getattr(user, name) is getattr(base, name)
            for base, name in (
                (PermissionsMixin, "has_perm"),
                (AbstractBaseUser, "get_session_auth_hash"),
                (AbstractBaseUser, "is_authenticated"),
            )
        )
        and any(field.name == "is_active" for field in user._meta.concrete_fields)
    )


def _stamps(sessions: dict[str, Any]) -> dict[str, Hashable]:
    """Return for each of these sessions, of which the users are known, what decides who that is and what they may."""
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Group

    user: Any = get_user_model()
    model = import_module(settings.SESSION_ENGINE).SessionStore.get_model_class()
    alive = model.objects.filter(expire_date__gt=timezone.now())
    kept = dict(_rows(alive, "session_key", sessions, "session_data"))
    ids = set(sessions.values())
    names = ("is_active", "is_superuser", "password", user.USERNAME_FIELD)
    users = {pk: values for pk, *values in _rows(user._default_manager, "pk", ids, *names)}
    own, groups = _pairs(user, "user_permissions", ids), _pairs(user, "groups", ids)
    theirs = _pairs(Group, "permissions", {group for found in groups.values() for group in found})
    return {
        key: (
            kept[key],
            tuple(users[user_id]),
            frozenset(own[user_id]),
            frozenset((group, frozenset(theirs[group])) for group in groups[user_id]),
        )
        for key, user_id in sessions.items()
        if key in kept and user_id in users
    }


def _pairs(model: Any, name: str, keys: Iterable[Any]) -> defaultdict[Any, set[Any]]:
    """Return what these rows of ``model`` are tied to by a field to many."""
    field = model._meta.get_field(name)
    mine, other = f"{field.m2m_field_name()}_id", f"{field.m2m_reverse_field_name()}_id"
    found: defaultdict[Any, set[Any]] = defaultdict(set)
    for key, value in _rows(field.remote_field.through._default_manager, mine, keys, other):
        found[key].add(value)
    return found


def _rows(rows: Any, name: str, keys: Iterable[Any], *names: str) -> Iterator[Any]:
    wanted = list(keys)
    for start in range(0, len(wanted), _AT_ONCE):
        yield from rows.filter(**{f"{name}__in": wanted[start : start + _AT_ONCE]}).values_list(name, *names)
