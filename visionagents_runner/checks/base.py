"""What the checks share."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings

from ..conf.settings import SETTING

TAG = "visionagents_runner"
AppConfigs = Sequence[AppConfig] | None


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def missing_module(path: str) -> str:
    """Why the object at this dotted path cannot be there, or ""; only packages around its module are imported."""
    module, dot, name = path.rpartition(".")
    if not (dot and module and name.isidentifier()):
        return "it is no dotted path"
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        return f"there is no module {error.name!r}"
    except Exception as error:  # whatever a package around it raises while it is imported
        return f"looking for the module {module!r} raised {type(error).__name__}: {error}"
    return "" if found else f"there is no module {module!r}"


def setting_as_written(key: str, default: Any) -> Any:
    """The value as written, wrong ones included."""
    raw = getattr(settings, SETTING, None)
    return raw.get(key, default) if isinstance(raw, Mapping) else default
