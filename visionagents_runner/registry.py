"""The agents of a project by name, with the options of its API, and which of these this process has."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from django.utils.module_loading import import_string

from .conf.settings import SETTING, get_settings
from .exceptions import AgentNotFound, RunnerConfigurationError
from .options import ServeOptions
from .worker.launcher import AgentLauncher

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_standalone: AgentRegistry | None = None


class AgentRegistry:
    """One or several kinds of agents; projects make a `Runner`, which can also run and serve them.

    Args:
        launcher: The only agent, named ``default``.
        serve_options: How the REST API behaves.
        launchers: Several agents by name; a client picks one with ``"agent": name``, the first is the default.

    Raises:
        TypeError, ValueError: neither or both of ``launcher`` and ``launchers``, or a name that makes no sense.
    """

    standalone = False
    """Whether it runs without a Django project (`cli`, `run` or `serve` of a plain script)."""
    stopped = False
    """Whether its worker in this process has drained, so that none is started again."""

    def __init__(
        self,
        launcher: AgentLauncher | None = None,
        serve_options: ServeOptions | None = None,
        *,
        launchers: Mapping[str, AgentLauncher] | None = None,
    ) -> None:
        if (launcher is None) == (launchers is None):
            raise TypeError("Runner takes launcher=AgentLauncher(...) or launchers={name: AgentLauncher(...)}")
        if launchers is None:
            assert launcher is not None
            launchers = {"default": launcher}
        if not launchers:
            raise ValueError("Runner(launchers=...) must name at least one agent")
        for name, each in launchers.items():
            if not isinstance(each, AgentLauncher):
                raise TypeError(
                    f"Runner expects a visionagents_runner.AgentLauncher for {name!r}, not {type(each).__module__}."
                    f"{type(each).__qualname__}: change the import"
                )
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for an agent: use letters, digits, '-', '_' and '.'")
            each.name = name
        if len({id(each) for each in launchers.values()}) < len(launchers):
            raise ValueError("Runner(launchers=...) names one AgentLauncher twice: make one for each name")
        self.launchers = dict(launchers)
        self.options = serve_options or ServeOptions()
        self._made: dict[Callable[..., Any], Any] = {}

    def own(self, make: Callable[[AgentRegistry], T]) -> T:
        """Return what ``make(self)`` returned the first time: the one of a layer above this, which goes with this."""
        if make not in self._made:
            self._made[make] = make(self)
        made: T = self._made[make]
        return made

    @property
    def default_agent(self) -> str:
        return next(iter(self.launchers))

    def launcher(self, name: str | None = None) -> AgentLauncher:
        """Return the launcher of that name, or the default one.

        Raises:
            AgentNotFound: there is none; the message lists those there are.
        """
        try:
            return self.launchers[name or self.default_agent]
        except KeyError:
            raise AgentNotFound(f"There is no agent {name!r}; there are: {', '.join(self.launchers)}") from None

    @property
    def path(self) -> str:
        """Where the project names this runner, for display."""
        return "agent.py" if self.standalone else get_settings().RUNNER


def get_runner() -> AgentRegistry:
    """Return the project's runner, which ``VISIONAGENTS_RUNNER["RUNNER"]`` names. It is imported on first use.

    Raises:
        RunnerConfigurationError: there is none; the message says the fix.
    """
    if _standalone is not None:
        return _standalone
    path = get_settings().RUNNER
    if not path:
        raise RunnerConfigurationError(
            f'No runner is configured: set {SETTING} = {{"RUNNER": "yourproject.agents.runner"}} in your settings'
        )

    try:
        runner: Any = import_string(path)
    except Exception as error:
        # A missing key of the environment, a limit that makes no sense, a slip of the pen: the project's own mistakes.
        raise RunnerConfigurationError(
            f'{SETTING}["RUNNER"] = {path!r} cannot be imported: {type(error).__name__}: {error}{_place(error)}'
        ) from error
    if not isinstance(runner, AgentRegistry):
        raise RunnerConfigurationError(
            f'{SETTING}["RUNNER"] = {path!r} is a {type(runner).__qualname__}, not a visionagents_runner.Runner'
        )
    return runner


def _place(error: Exception) -> str:
    """Return `` (file:line)`` of the innermost line of the project's own, or "" if none had a part in ``error``."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}:{error.lineno})"
    others = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    others += (os.path.dirname(os.path.abspath(__file__)), "<")
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def set_standalone_runner(runner: AgentRegistry) -> None:
    """Make ``runner`` the one of this process, which has no Django project."""
    global _standalone
    runner.standalone = True
    _standalone = runner
