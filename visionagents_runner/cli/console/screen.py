"""What the chat prints: in columns on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rich.cells import cell_len
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from ...utils.text import one_line, visible

if TYPE_CHECKING:
    from rich.console import Console

    from ...edge import Words
    from .turn import Figures

M = TypeVar("M", bound=Callable[..., None])

_LABEL_WIDTH = 5
_PIECES = re.compile(r"\n|[^\S\n]+|\S+")


@dataclass(frozen=True, slots=True)
class Glyphs:
    says: str = "›"  # noqa: RUF001
    calls: str = "→"
    done: str = "✓"
    failed: str = "✗"
    dot: str = "·"
    dash: str = "─"
    more: str = "…"

    @classmethod
    def for_encoding(cls, encoding: str) -> Glyphs:
        """Those that ``encoding`` has, or plain ASCII."""
        glyphs = cls()
        try:
            "›→✓✗·─…".encode(encoding)  # noqa: RUF001
        except (LookupError, UnicodeEncodeError):
            return cls(says=">", calls="->", done="ok", failed="failed:", dot="|", dash="-", more="...")
        return glyphs


class Screen(ABC):
    """Where the chat shows itself. Text from outside may hold anything; control characters are written out."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.glyphs = Glyphs.for_encoding(console.encoding)

    @abstractmethod
    def typed(self, text: str) -> None:
        """A line was read."""

    @abstractmethod
    def words(self, speaker: str, words: Words) -> None:
        """Somebody says something; called again with each piece."""

    @abstractmethod
    def line(self, text: str, style: str = "dim") -> None:
        """A line, or several, of the system's own."""

    def tool_called(self, name: str, arguments: str) -> None:
        self.line(f"{self.glyphs.calls} {name}({arguments})")

    def tool_done(self, result: str) -> None:
        self.line(f"{self.glyphs.done} {result}")

    def tool_failed(self, error: str) -> None:
        self.line(f"{self.glyphs.failed} {error}", "red")

    def figures(self, figures: Figures) -> None:  # noqa: B027
        """What the turn took."""

    def prompt(self) -> None:  # noqa: B027
        """It is the person's turn to type."""

    def outside(self, text: str) -> None:  # noqa: B027
        """Whole lines that something else in this process wrote; from any thread."""

    def close(self) -> None:  # noqa: B027
        """Nothing more will be printed."""

    def clean(self, text: str) -> str:
        """Return ``text`` without what would move a terminal's cursor, or break the output's encoding."""
        shown = visible(text.replace("\r\n", "\n").replace("\t", " "))
        return shown.encode(self.console.encoding, "replace").decode(self.console.encoding)

    def name(self, name: str) -> str:
        """Return ``name`` on one line, as `clean` does."""
        return self.clean(one_line(name))

    def _print(self, text: str, style: str = "", *, end: str = "\n") -> None:
        self.console.print(Text(text, style=style), end=end, soft_wrap=True)


class PlainScreen(Screen):
    """One line a message, when it is complete; no control codes."""

    def typed(self, text: str) -> None:
        self._message("you", text)

    def words(self, speaker: str, words: Words) -> None:
        if words.completed and words.text.strip():
            self._message(speaker, words.text)

    def line(self, text: str, style: str = "dim") -> None:
        self._print(self.clean(text).replace("\n", "\n  "))  # a line of a tool's result must not look like a message

    def _message(self, speaker: str, text: str) -> None:
        label = f"{self.name(speaker)}> "
        self._print(label + self.clean(text).strip().replace("\n", "\n" + " " * len(label)))


def _locked(method: M) -> M:
    @wraps(method)
    def locked(self: TerminalScreen, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast("M", locked)


class TerminalScreen(Screen):
    """Columns; words appear as they come.

    The terminal itself edits the line that is being typed, so its mode stays as it was. What arrives while somebody
    types clears that line first; the typed part is still in the terminal's buffer, only not to be seen. What others
    write comes on a thread of its own (`capture`), hence the lock.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._lock = threading.RLock()
        self._column = 0
        self._indent = 0
        self._message_id: str | None = None
        self._begun: set[str] = set()
        self._prompting = False

    @_locked
    def typed(self, text: str) -> None:
        # The terminal has echoed it, line end included.
        self._prompting = False
        self._column = 0
        self._message_id = None

    @_locked
    def words(self, speaker: str, words: Words) -> None:
        delta = words.delta if words.delta is not None else f"\n{words.text}"
        if delta and words.message_id != self._message_id:
            self._begin(speaker, resumed=words.message_id in self._begun)
            self._message_id = words.message_id
            self._begun.add(words.message_id)
        self._flow(self.clean(delta))
        if words.completed:
            self._begun.discard(words.message_id)
            if self._message_id == words.message_id:
                self._message_id = None
                self._fresh_line()

    @_locked
    def line(self, text: str, style: str = "dim") -> None:
        self._fresh_line()
        self._message_id = None
        margin = " " * (_LABEL_WIDTH + 3)
        self._print(margin + self.clean(text).replace("\n", f"\n{margin}"), style)

    @_locked
    def figures(self, figures: Figures) -> None:
        self._fresh_line()
        text = figures.line(dot=self.glyphs.dot, dash=self.glyphs.dash)
        self.console.print(Text(text, style="red" if figures.slow else "dim"), justify="right")

    @_locked
    def prompt(self) -> None:
        if self._prompting:
            return
        self._fresh_line()
        self._message_id = None
        self._print(self._label("you"), "bold", end="")
        self._prompting = True

    @_locked
    def close(self) -> None:
        if self._prompting or self._column:
            self._prompting = False
            self._column = 0
            self.console.print()

    @_locked
    def outside(self, text: str) -> None:
        was_prompting = self._prompting
        self._fresh_line()
        self._message_id = None
        self.console.file.write(text)
        self.console.file.flush()
        if was_prompting:
            self.prompt()

    def _label(self, speaker: str) -> str:
        return f"{self.name(speaker):>{_LABEL_WIDTH}} {self.glyphs.says} "

    def _begin(self, speaker: str, *, resumed: bool) -> None:
        self._fresh_line()
        label = self._label(speaker)
        self._print(label, "bold cyan", end="")
        self._column = self._indent = cell_len(label)
        if resumed:
            self._flow(f"{self.glyphs.more} ")

    def _flow(self, text: str) -> None:
        """Print ``text`` at the cursor, broken between words and indented under its label."""
        for piece in _PIECES.findall(text):
            width = cell_len(piece)
            at_start = self._column <= self._indent
            if piece == "\n" or self._column + width > self.console.width:
                if not at_start:
                    self._print("\n" + " " * self._indent, end="")
                    self._column = self._indent
                at_start = True
            if piece.isspace() and at_start:
                continue
            self._print(piece, end="")
            self._column += width

    def _fresh_line(self) -> None:
        if self._prompting:
            self._prompting = False
            self.console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        elif self._column:
            self.console.print()
        self._column = 0
