"""The first words of `runagent` and `serveagents`, before Django, the project and its agents are loaded.

On a busy machine that takes many seconds, of which nobody would know what they are for. The app's configuration imports
this, the first module of ours that a command of Django's loads.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

_COMMANDS = frozenset({"runagent", "serveagents"})
_PROGRAMS = frozenset({"manage.py", "django-admin", "__main__.py"})


def announce() -> None:
    """Say that the project is loaded, if this process is one of these commands at a terminal."""
    program, *arguments = sys.argv or [""]
    if (
        os.path.basename(program) in _PROGRAMS
        and arguments
        and arguments[0] in _COMMANDS
        and not {"-h", "--help", "--no-splash"} & set(arguments)
        and multiprocessing.parent_process() is None  # not a worker of several, which has its parent's arguments
    ):
        say("Django and the project")


def say(what: str) -> None:
    """Say what is loaded now, in the form of the lines that follow it; only to somebody who watches."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"  {'loading':<9} {what}", file=sys.stderr, flush=True)
