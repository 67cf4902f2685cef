"""Code that changes while it is served: watched as ``runserver`` does it, by Django's reloader."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from django.utils import autoreload

OnChange = Callable[[Path], None]


class _Reloader(autoreload.StatReloader):
    """Tells of a change since ``began`` (seconds since the epoch) instead of ending the process.

    Django's misses what is saved between a module's import and its first look at the file. A template or a translation
    that is loaded anew is no change.
    """

    def __init__(self, on_change: OnChange, began: float) -> None:
        super().__init__()
        self._on_change = on_change
        self._began = began

    def tick(self) -> Iterator[None]:
        times: dict[Path, float] = {}
        while True:
            for path, changed_at in self.snapshot_files():
                # A time to come, of another machine's clock, would be news for every process anew.
                before = times.get(path, self._began if changed_at <= time.time() else changed_at)
                times[path] = changed_at
                if changed_at > before:
                    self.notify_file_changed(path)
            time.sleep(self.SLEEP_TIME)
            yield

    def notify_file_changed(self, path: str | PathLike[str]) -> None:
        results: list[tuple[Any, Any]] = autoreload.file_changed.send(sender=self, file_path=path)
        if not any(handled for _, handled in results):
            self.stop()
            self._on_change(Path(path))


def watch(on_change: OnChange, began: float) -> None:
    """Call ``on_change(path)`` once, on a thread of its own, when a loaded file has changed since ``began``."""
    reloader = _Reloader(on_change, began)
    # A daemon: it sleeps between its looks, and nothing waits for it at the end.
    threading.Thread(
        target=reloader.run, args=(threading.main_thread(),), name="visionagents-reload", daemon=True
    ).start()


def wait_for_change(error: BaseException, began: float, give_up: Callable[[], bool]) -> Path | None:
    """Return a file that has changed since ``began``, when code was loaded that failed; None once ``give_up()``.

    Watched are the files that were loaded, and those beside each that had a part in it.
    """
    changed: list[Path] = []
    reloader = _Reloader(changed.append, began)
    for folder in {Path.cwd(), *_folders(error)}:
        reloader.watch_dir(folder, "*.py")
    for _ in reloader.tick():
        if changed or give_up():
            break
    return changed[0] if changed else None


def _folders(error: BaseException | None) -> Iterator[Path]:
    while error is not None:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError) and error.filename:
            files.append(error.filename)
        yield from (Path(file).parent.resolve() for file in files if Path(file).exists())
        error = error.__cause__ or error.__context__
