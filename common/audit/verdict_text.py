"""A verdict as calm, readable text for a terminal: the answer first, then why."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from common.audit.verify.verdict import LIMITS, Failure, Status, Verdict

_MARKS: dict[Status, tuple[str, str]] = {
    "passed": ("yes", "green"),
    "failed": ("NO", "bold red"),
    "not checked": ("not checked", "yellow"),
    "not in this bundle": ("not in this bundle", "yellow"),
}
# What a bundle that does not hold everything leaves out; the headline must not promise more.
_SCOPES = {
    "one-region": ", as a bundle of one region, without the other regions' consents",
    "cross-border": ", as a bundle that crosses a border, without any consents",
}


def print_verdict(console: Console, verdict: Verdict, place: str) -> None:
    """Prints a verdict.

    Args:
        console: Where to.
        verdict: What was found.
        place: The folder that was verified, as the user named it.
    """
    console.print(_headline(verdict, place))
    console.print(Padding(_steps(verdict), (1, 0)))
    if verdict.failures:
        console.print(_failures(verdict))
    if verdict.root_keys:
        console.print(_root_keys(verdict))
    if verdict.notes:
        console.print(Text("What to know", style="bold"))
    for note in verdict.notes:
        console.print(_bullet(note))
    console.print(Text("\nWhat this evidence cannot prove", style="bold"))
    for limit in LIMITS:
        console.print(_bullet(limit))


def _headline(verdict: Verdict, place: str) -> Text:
    run = f" Run {verdict.run} of {verdict.federation}." if verdict.run else ""
    if verdict.verified:
        scope = _SCOPES.get(verdict.scope, "")
        return Text.assemble(
            ("Verified. ", "bold green"), f"{place} is whole and unaltered{scope}.", run
        )
    if verdict.integrity:
        reason = "What is there is unaltered, but not everything is there"
    else:
        reason = "It does not hold"
    first = verdict.first_failure
    at = f"; first at {first.place}" if first else ""
    return Text.assemble(("Not verified. ", "bold red"), f"{place}: {reason}{at}.", run)


def _steps(verdict: Verdict) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for step in verdict.steps:
        mark, style = _MARKS[step.status]
        counts = ", ".join(f"{number:,} {what}" for what, number in step.counts.items() if number)
        table.add_row(
            str(step.number), step.title, Text(mark, style=style), Text(counts, style="dim")
        )
    summary = Table.grid(padding=(0, 2))
    summary.add_row("Integrity (0–7)", _answer(verdict.integrity))
    summary.add_row("Completeness (8)", _answer(verdict.complete))
    return Group(table, Padding(summary, (1, 0, 0, 0)))


def _answer(holds: bool) -> Text:
    return Text("yes", style="green") if holds else Text("NO", style="bold red")


def _failures(verdict: Verdict) -> RenderableType:
    title = Text(f"What does not hold ({verdict.failures_total})", style="bold")
    lines: list[RenderableType] = [title, *(_failure(failure) for failure in verdict.failures)]
    hidden = verdict.failures_total - len(verdict.failures)
    if hidden:
        lines.append(Text(f"  … and {hidden} more of the same kinds.", style="dim"))
    return Padding(Group(*lines), (0, 0, 1, 0))


def _failure(failure: Failure) -> RenderableType:
    return _bullet(
        Text.assemble(
            (failure.place, "bold"),
            f": {failure.message} ",
            (f"[step {failure.step}, {failure.code}]", "dim"),
        )
    )


def _root_keys(verdict: Verdict) -> RenderableType:
    pinned = all(key.pinned for key in verdict.root_keys)
    title = "Root keys, as you named them" if pinned else "Root keys found in this bundle"
    lines: list[RenderableType] = [Text(title, style="bold")]
    lines += [Text(f"  {key.key_id}") for key in verdict.root_keys]
    if not pinned:
        lines.append(
            Text(
                "  Compare them with the root key ids that you hold from another source: "
                "everything here rests on them. Then verify with --root-key ID."
            )
        )
    return Padding(Group(*lines), (0, 0, 1, 0))


def _bullet(text: str | Text) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_row("  ·", text)
    return row
