"""Live progress of a run in a terminal, and plain lines where there is none."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_POLL_S = 0.1


class EventFeed:
    """Reads the coordinator's ``events.jsonl`` as it grows.

    Args:
        path: The file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # A resumed run appends to the file: only what is new belongs on the screen.
        self._position = path.stat().st_size if path.exists() else 0

    def new_events(self) -> list[dict[str, object]]:
        """Whole new lines since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        complete = data.rfind(b"\n") + 1
        self._position += complete
        return [json.loads(line) for line in data[:complete].splitlines()]


class RoundTable:
    """What the live display shows: a row a round, a column a region."""

    def __init__(self, regions: Sequence[str]) -> None:
        self._regions = list(regions)
        self._rows: dict[int, dict[str, str]] = {}
        self._started: dict[int, float] = {}

    def apply(self, event: dict[str, object]) -> str | None:
        """Takes one event in; returns a plain line worth printing, if it closes something."""
        kind = event.get("event")
        number = event.get("round")
        if not isinstance(number, int):
            return None
        row = self._rows.setdefault(number, {})
        row["mechanism"] = str(event.get("mechanism", row.get("mechanism", "")))
        region = str(event.get("region", ""))
        if kind == "round-started":
            self._started.setdefault(number, time.monotonic())
        elif kind == "region-replied":
            row[region] = "✓"
        elif kind == "region-refused":
            row[region] = f"✗ {event.get('reason', '')}"
        elif kind == "round-closed":
            seconds = time.monotonic() - self._started.get(number, time.monotonic())
            row["time"] = f"{seconds:.1f} s"
            replied = sum(row.get(name) == "✓" for name in self._regions)
            return (
                f"round {number} ({row['mechanism']}): {replied} of {len(self._regions)} regions, "
                f"{row['time']}"
            )
        return None

    def render(self) -> Table:
        """The table as it stands."""
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for title in ("round", "mechanism", *self._regions, "time"):
            table.add_column(title)
        for number, row in sorted(self._rows.items()):
            cells = [row.get(name, "…") for name in self._regions]
            styled = [Text(cell, style="green" if cell == "✓" else "yellow") for cell in cells]
            table.add_row(str(number), row["mechanism"], *styled, row.get("time", ""))
        return table


@contextmanager
def live_rounds(console: Console, events: Path, regions: Sequence[str]) -> Iterator[None]:
    """Shows rounds and regions while the body runs."""
    feed, rounds = EventFeed(events), RoundTable(regions)
    stop = threading.Event()
    live = Live(console=console, refresh_per_second=8, transient=False)

    def take_in() -> None:
        for event in feed.new_events():
            line = rounds.apply(event)
            if line and not console.is_terminal:
                console.print(f"  {line}")
        if console.is_terminal:
            live.update(Group(rounds.render()))

    def follow() -> None:
        while not stop.wait(_POLL_S):
            take_in()

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    if console.is_terminal:
        live.start()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        take_in()
        if console.is_terminal:
            live.stop()
