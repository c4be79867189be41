"""The permits in a region's home, told by their files: which runs, and until when.

Nothing is verified here; `client.engine.permit` does, before a permit is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.engine.plan_file import read_plan
from common.envelope import Envelope
from common.errors import FormatError, InputError
from common.plan import RunPlan
from common.timestamps import parse_time

_PLAN_ENDING = ".plan.json"


@dataclass(frozen=True, order=True)
class PermitFile:
    """A permit as its file states it; they are in order of time.

    Attributes:
        issued_ms: From when it holds, in milliseconds since the epoch.
        expires_ms: Until when.
        run: The run it is for.
        app: SHA-256 of the app bundle that it names, in hex.
        path: Its file.
        plan_path: The file of the plan that it is for.
    """

    issued_ms: int
    expires_ms: int
    run: str
    app: str
    path: Path
    plan_path: Path

    def holds(self, at_ms: int) -> bool:
        """Whether it holds at a time, as it says."""
        return self.issued_ms <= at_ms <= self.expires_ms

    def plan(self) -> RunPlan:
        """The plan that it is for.

        Raises:
            InputError: Its file is missing or no plan.
        """
        return read_plan(self.plan_path)


def permit_files(folder: Path) -> list[PermitFile]:
    """The permits of a home, the newest first.

    Args:
        folder: The home's folder of permits.

    Raises:
        InputError: One cannot be read: names the file.
    """
    found = []
    for plan_path in folder.glob(f"*{_PLAN_ENDING}"):
        path = plan_path.with_name(plan_path.name.removesuffix(_PLAN_ENDING) + ".json")
        # A plan is written before its permit: alone it permits nothing.
        if path.is_file():
            found.append(_read(path, plan_path))
    return sorted(found, reverse=True)


def _read(path: Path, plan_path: Path) -> PermitFile:
    try:
        record = Envelope.decode(path.read_bytes()).record()
        return PermitFile(
            issued_ms=parse_time(str(record["issued_at"])),
            expires_ms=parse_time(str(record["expires"])),
            run=str(record["run"]),
            app=str(record["app"]),
            path=path,
            plan_path=plan_path,
        )
    except (OSError, FormatError, KeyError) as error:
        raise InputError(
            f"The permit {path} cannot be read: {error}.",
            remedy="Restore it from a backup, or sign a permit for a new run.",
        ) from error
