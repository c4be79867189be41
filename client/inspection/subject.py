"""The region that is inspected: its settings, its home, and the machine they are on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.engine.home import HOME_NAME, RegionHome
from client.inspection.findings import Findings, Kind
from client.inspection.machine import Machine
from client.installation.composed_settings import ENGINE_USER
from client.settings import RegionSettings, SettingsError, settings_file
from client.settings_tables import User
from common.errors import FedprefError
from common.system_users import find_user


@dataclass(frozen=True)
class Inspected:
    """A region under inspection.

    Attributes:
        folder: The region's folder, or its home where that is all there is.
        settings_path: Where its settings are, or would be.
        settings: Its settings; None if they are missing or wrong.
        home: Its home; None if there is none.
        machine: The machine.
        at_ms: When the inspection began, in milliseconds since the epoch.
    """

    folder: Path
    settings_path: Path
    settings: RegionSettings | None
    home: RegionHome | None
    machine: Machine
    at_ms: int

    def setting(self, field: str) -> str:
        """A field's place, to name it in a problem."""
        return f"{self.settings_path}, {field}"

    def process_user(self, stated: User | None, usual: str) -> int | None:
        """As whom a process of the region will run; None if root would have to make the user first.

        Started by root, each has its own user; started by anyone else, all are that user's.

        Args:
            stated: Whom the settings name, if anyone.
            usual: Who it is otherwise.
        """
        if not self.machine.is_root():
            return self.machine.user()
        found = find_user(usual if stated is None else stated)
        return None if found is None else found.uid

    @property
    def engine_user(self) -> int:
        """Whose files the home's are to be."""
        if self.settings is None:
            return self.machine.user()
        user = self.process_user(self.settings.engine.user, ENGINE_USER)
        return self.machine.user() if user is None else user

    def is_hidden(self, path: Path) -> bool:
        """Whether a file is another user's alone, as the node's are to the engine's user."""
        try:
            with path.open("rb"):
                return False
        except PermissionError:
            return not self.machine.is_root()
        except OSError:
            return False

    @contextmanager
    def as_engine(self) -> Iterator[None]:
        """Reads the home as the engine would, where this process may."""
        with self.machine.acting_as(self.engine_user):
            yield


def open_subject(
    folder: Path, settings: Path | None, machine: Machine, findings: Findings
) -> Inspected:
    """Finds a region's settings and home; what is wrong with them is a problem each.

    Args:
        folder: The region's folder or its home.
        settings: Its settings, if they are elsewhere.
        machine: The machine.
        findings: Takes the problems.
    """
    path = settings_file(folder if settings is None else settings)
    read = _read_settings(path, findings)
    home = _read_home(folder, read, findings)
    if home is not None and read is not None:
        _compare(path, read, home, findings)
    return Inspected(folder, path, read, home, machine, machine.now_ms())


def _read_settings(path: Path, findings: Findings) -> RegionSettings | None:
    try:
        return RegionSettings.read(path)
    except SettingsError as error:
        for each in error.problems:
            findings.add(
                Kind.SETTINGS,
                f"{path}, {each.field}",
                f"{_sentence(each.message)}.",
                "Correct the field; docs/examples/region.toml has every field, explained.",
            )
    except FedprefError as error:
        findings.add(Kind.SETTINGS, path, error.message, error.remedy)
    return None


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:].rstrip(".")


def _read_home(
    folder: Path, settings: RegionSettings | None, findings: Findings
) -> RegionHome | None:
    candidates = [folder, folder / HOME_NAME]
    if settings is not None:
        candidates.insert(0, settings.home.root)
    for candidate in candidates:
        try:
            (candidate / "home.json").stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            findings.add(
                Kind.FILES,
                candidate,
                f"It cannot be entered: {error.strerror}.",
                "Run the check as root, or as the engine's user.",
            )
            return None
        with findings.catching(Kind.FILES, candidate / "home.json"):
            return RegionHome.read(candidate)
        return None
    findings.add(
        Kind.FILES,
        candidates[0] / "home.json",
        f"There is no region's home in {folder}.",
        "Install the region: fedpref-region install.",
    )
    return None


def _compare(path: Path, settings: RegionSettings, home: RegionHome, findings: Findings) -> None:
    for field, stated, known in (
        ("[region] name", settings.region.name, home.region),
        ("[region] federation", settings.region.federation, home.federation),
    ):
        if stated != known:
            findings.add(
                Kind.SETTINGS,
                f"{path}, {field}",
                f"It is {stated}; the home beside it is of {known}.",
                f"Write {known}, or put the settings where they belong.",
            )
