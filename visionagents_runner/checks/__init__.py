"""System checks: what in a project's settings would keep agents from running, or open them to strangers.

None touches the database or imports the runner (and with it vision-agents), but for those that run under ``--deploy``
alone. All carry the tag ``visionagents_runner``. Importing this package registers them.
"""

from . import (
    calls,
    database,
    deployment,
    dispatch,
    installation,
    limits,
    messaging,
    prices,
    runner,
    settings,
    webhooks,
)

__all__ = [
    "calls",
    "database",
    "deployment",
    "dispatch",
    "installation",
    "limits",
    "messaging",
    "prices",
    "runner",
    "settings",
    "webhooks",
]
