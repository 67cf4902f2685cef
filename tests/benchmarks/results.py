"""What was measured, and the table of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH = 170


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line: a value of ours beside the same of theirs."""

    row: str
    what: str
    host: str = ""
    """Which of ours: the server, the mount."""
    ours: float | str
    theirs: float | str | None = None
    """None where they have nothing to compare."""
    unit: str = ""
    better: Literal["lower", "higher", "exact"] = "lower"
    requirement: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by theirs."""
        if isinstance(self.ours, str) or self.theirs is None or isinstance(self.theirs, str) or not self.theirs:
            return None
        return self.ours / self.theirs

    @property
    def wins(self) -> bool | None:
        if self.ratio is None or self.better == "exact":
            return None
        return self.ratio <= 1 if self.better == "lower" else self.ratio >= 1

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def table_of(results: list[Result], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("measured", overflow="fold")
    table.add_column("ours on")
    table.add_column("ours", justify="right")
    table.add_column("theirs", justify="right")
    table.add_column("ours / theirs", justify="right")
    table.add_column("better")
    table.add_column("requirement", overflow="fold")
    table.add_column("note", justify="right")
    notes = notes_of(results)
    row = ""
    for result in results:
        if row and result.row != row:
            table.add_section()
        row = result.row
        style = {True: "green", False: "red", None: ""}[result.wins]
        ratio = "" if result.ratio is None else f"{result.ratio:.3g}x"
        table.add_row(
            result.what,
            result.host,
            _value(result.ours, result.unit),
            _value(result.theirs, result.unit),
            f"[{style}]{ratio}[/]" if style and ratio else ratio,
            result.better,
            _requirement(result),
            f"{notes.index(result.note) + 1}" if result.note else "",
        )
    return table


def notes_of(results: list[Result]) -> list[str]:
    """Return what the numbers in the last column stand for."""
    return list(dict.fromkeys(result.note for result in results if result.note))


def print_table(results: list[Result], title: str, console: Console | None = None) -> None:
    console = console or Console()
    if not console.is_terminal and console.width < _WIDTH:
        console = Console(width=_WIDTH, file=console.file)
    console.print(table_of(results, title))
    for number, note in enumerate(notes_of(results), start=1):
        console.print(f"[dim]{number:2}  {note}[/]", highlight=False)


def _value(value: float | str | None, unit: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f} {unit}".rstrip()


def _requirement(result: Result) -> str:
    if result.met is None:
        return result.requirement
    return f"{result.requirement}: " + ("[green]met[/]" if result.met else "[bold red]NOT MET[/]")
