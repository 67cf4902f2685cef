"""What a siege is told of to people: tables, and a sentence for each bound that broke."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .siege import CONCEALED_PERCENT, HELD_MS, Siege


def show(siege: Siege, console: Console) -> None:
    table = Table(title=f"Hostile input, seed {siege.seed}, {siege.target.process.name}")
    table.add_column("kind")
    names = (
        "inputs",
        "most held ms",
        "of it CPU",
        "by others ms",
        "p99 late ms",
        "peak MB",
        "left MB",
        "fds",
        "concealed %",
    )
    for name in names:
        table.add_column(name, justify="right")
    for row in siege.rows.values():
        table.add_row(
            row.kind,
            f"{row.tally.inputs:,}",
            f"{row.held_ms:,.0f}",
            f"{row.cpu_ms:,.0f}",
            f"{row.elsewhere_ms:,.0f}",
            f"{row.late_p99_ms:,.0f}",
            f"{row.peak_mb:+.0f}",
            f"{row.left_mb:+.0f}",
            f"{row.descriptors:+d}",
            f"{row.concealed_percent:.2f}",
        )
    console.print(table)
    outcomes = Table(title="What became of them")
    outcomes.add_column("kind")
    outcomes.add_column("outcomes")
    for row in siege.rows.values():
        outcomes.add_row(
            row.kind, ", ".join(f"{name}: {count:,}" for name, count in row.tally.outcomes.most_common(20))
        )
    console.print(outcomes)
    expected = sum(row.expected for row in siege.rows.values())
    concealed = sum(row.concealed for row in siege.rows.values())
    console.print(
        f"Second call: {concealed} of {expected} frames concealed, {100 * concealed / max(1, expected):.3f} % "
        f"(at most {CONCEALED_PERCENT} %)"
    )
    console.print(
        f"Server: {siege.before[0]:.0f} MB and {siege.before[1]} descriptors before, "
        f"{siege.after[0]:.0f} MB and {siege.after[1]} after"
    )
    console.print(f"Memory after each round: {', '.join(f'{each:.0f}' for each in siege.memory)} MB")
    for row in siege.rows.values():
        unheard = ", ".join(f"{name} {count}" for name, count in row.unheard.most_common(5) if count)
        if unheard:
            console.print(f"Concealed during {row.kind}: {unheard}", highlight=False)
    for hold in siege.holds:
        word = "[red]confirmed[/]" if hold.confirmed else "not confirmed" if hold.again else "not repeated"
        console.print(
            f"held {hold.held_ms:,.0f} ms (CPU {hold.cpu_ms:,.0f}, garbage collection {hold.collecting_ms:,.0f}), "
            f"again {hold.repetitions}: "
            f"{hold.attack} {hold.seed}, {word}\n    {hold.where}",
            highlight=False,
        )
    broken = siege.broken()
    for sentence in broken:
        console.print(f"[red]BROKEN[/] {sentence}", highlight=False)
    if not broken:
        once = f", but for {len(siege.holds)} holds that did not come again (above)" if siege.holds else ""
        console.print(f"Every bound was kept: nothing held the loop for {HELD_MS:.0f} ms{once}.")
