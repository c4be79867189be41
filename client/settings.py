"""``region.toml``: what a region's operator sets, in one file beside the region's home.

A region's folder has ``region.toml``, ``home`` (what the privacy engine owns), ``node`` (what the
SuperNode owns), ``run`` and ``logs``. Each process reads its own sections; nothing in the file is
sent anywhere, and nothing that the coordinator sends changes it. Unknown tables and fields are
refused, and every wrong field is told of at once.

`[source]` is checked when the store is opened (`RegionSettings.source`): the processes that never
see the store do not load what reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from client.engine.home import HOME_NAME, RegionHome
from client.engine.policy import RegionPolicy
from client.settings_tables import (
    ConsentsTable,
    CoordinatorTable,
    EngineTable,
    FormTable,
    NodeTable,
    NoticeTable,
    ProfilesTable,
    RecommenderTable,
    RegionTable,
    RelayTable,
    Tables,
    User,
    WitnessesTable,
    closest_name,
)
from common.errors import InputError
from common.toml_file import read_toml

if TYPE_CHECKING:
    from client.data.source_config import SourceConfig

FILE_NAME = "region.toml"
MAX_SETTINGS_BYTES = 1 << 20


@dataclass(frozen=True)
class FieldProblem:
    """A field of the settings that is wrong.

    Attributes:
        field: Its place, such as ``[engine] socket``.
        message: What is wrong with it, as a clause.
    """

    field: str
    message: str


class SettingsError(InputError):
    """The settings have wrong fields; the message names the first.

    Args:
        path: The file.
        problems: Every wrong field, at least one.
    """

    def __init__(self, path: Path, problems: Sequence[FieldProblem]) -> None:
        first, more = problems[0], len(problems) - 1
        others = f" {more} more {'fields are' if more > 1 else 'field is'} wrong." if more else ""
        super().__init__(
            f"{path}: {first.field}: {first.message}.{others}",
            remedy="Correct the field; unknown fields are refused. `fedpref-region check` names "
            "every wrong one.",
        )
        self.path = path
        self.problems = tuple(problems)


@dataclass(frozen=True)
class RegionSettings:
    """A region's settings, checked; every path in them is absolute or begins at `folder`.

    Attributes:
        path: The file they were read from.
        region: Whose they are.
        coordinator: Where the SuperLink is, and by which certificate it is known.
        engine: The privacy engine's sockets and users.
        node: The SuperNode's key and port.
        relay: The relay's user.
        recommender: Where the recommender listens; None if it is not among the processes.
        profiles: How profiles are kept current; None if that is not among the processes.
        policy: What the region allows; it holds once the controller has signed it.
        consents: Consents to import when the region is installed; None for none.
        form: What all consents have in common, for the consent service and imports.
        notice: The notice to log when the region is installed; None for none.
        witnesses: Outside witnesses that `fedpref-region check` tries to reach.
        source_table: ``[source]`` as it stands in the file.
    """

    path: Path
    region: RegionTable
    coordinator: CoordinatorTable
    engine: EngineTable
    node: NodeTable
    relay: RelayTable
    recommender: RecommenderTable | None
    profiles: ProfilesTable | None
    policy: RegionPolicy
    consents: ConsentsTable | None
    form: FormTable | None
    notice: NoticeTable | None
    witnesses: WitnessesTable
    source_table: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> RegionSettings:
        """Reads the settings of a region.

        Args:
            folder: The region's folder, its home, or the settings' file itself.

        Raises:
            SettingsError: Fields are missing, unknown or wrong.
            InputError: The file is missing, too long or not TOML.
        """
        path = settings_file(folder).absolute()
        values = read_toml(
            path,
            "The region's settings",
            max_bytes=MAX_SETTINGS_BYTES,
            remedy="Write them; docs/examples/region.toml has every field, explained.",
        )
        problems: list[FieldProblem] = []
        tables: Tables | None = None
        try:
            tables = Tables.model_validate(values, context={"folder": path.parent})
        except ValidationError as error:
            problems += _problems(error, ())
        policy = _policy(values, problems)
        if tables is None or policy is None:
            raise SettingsError(path, problems)
        return cls(
            path=path,
            region=tables.region,
            coordinator=tables.coordinator,
            engine=tables.engine,
            node=tables.node,
            relay=tables.relay,
            recommender=tables.recommender,
            profiles=tables.profiles,
            policy=policy,
            consents=tables.consents,
            form=tables.form,
            notice=tables.notice,
            witnesses=tables.witnesses,
            source_table=tables.source,
        )

    @property
    def folder(self) -> Path:
        """The region's folder; relative paths of the settings begin here."""
        return self.path.parent

    @property
    def home(self) -> RegionHome:
        """The region's home: the folder ``home`` beside the settings, there or not yet."""
        return RegionHome(
            root=self.folder / HOME_NAME,
            region=self.region.name,
            federation=self.region.federation,
        )

    @property
    def run_folder(self) -> Path:
        """Where sockets are made."""
        return self.folder / "run"

    @property
    def logs_folder(self) -> Path:
        """Where processes write their own logs."""
        return self.folder / "logs"

    @property
    def stubs_folder(self) -> Path:
        """Where the refusing stubs for Flower's other kinds of tasks lie: first on the PATH."""
        return self.folder / "bin"

    @property
    def relay_users(self) -> tuple[User, ...]:
        """Whom the engine answers; empty for the engine's own user only."""
        if self.engine.relay_users:
            return tuple(self.engine.relay_users)
        return () if self.relay.user is None else (self.relay.user,)

    def source(self) -> SourceConfig:
        """The region's store: the declaration in ``[source]``, or the file that it names.

        Raises:
            InputError: The declaration is missing or malformed: names file and field.
        """
        from client.data.source_config import load_source_config, source_from_table

        table = dict(self.source_table)
        if set(table) == {"file"}:
            return load_source_config(self.folder / str(table["file"]))
        return source_from_table(table, self.folder, f"{self.path}: [source]")


def settings_file(folder: Path) -> Path:
    """Where a region's settings are.

    Args:
        folder: The region's folder, its home, or the settings' file itself.
    """
    if folder.name == HOME_NAME and not (folder / FILE_NAME).exists():
        return folder.absolute().parent / FILE_NAME
    return folder if folder.is_file() else folder / FILE_NAME


def declared_source(home: RegionHome) -> SourceConfig:
    """The store of a home: by the settings beside it, else by the home's own declaration.

    Raises:
        InputError: Settings or declaration are missing or malformed: names file and field.
    """
    from client.data.source_config import load_source_config

    path = settings_file(home.root)
    if home.root.name == HOME_NAME and path.exists():
        return RegionSettings.read(path).source()
    return load_source_config(home.source)


def _policy(values: Mapping[str, Any], problems: list[FieldProblem]) -> RegionPolicy | None:
    """The policy of ``[policy]``, which is that of the region of ``[region]``."""
    stated, region = values.get("policy"), values.get("region")
    name = region.get("name") if isinstance(region, dict) else None
    if not isinstance(stated, dict) or not isinstance(name, str):
        return None  # The tables' own check has named it.
    if "region" in stated:
        problems.append(
            FieldProblem("[policy] region", "the name is that of [region]: leave it out")
        )
        return None
    try:
        return RegionPolicy.model_validate({"region": name, **stated})
    except ValidationError as error:
        # A wrong name has been told of as [region] name.
        wrong = [each for each in _problems(error, ("policy",)) if each.field != "[policy] region"]
        problems += wrong
        return None


def _problems(error: ValidationError, above: tuple[str, ...]) -> list[FieldProblem]:
    return [
        FieldProblem(_place((*above, *map(str, each["loc"]))), _words(each, above))
        for each in error.errors(include_url=False, include_input=False)
    ]


def _place(parts: tuple[str, ...]) -> str:
    if not parts:
        return "(whole file)"
    table, *field = parts
    return f"[{table}]" + (f" {'.'.join(field)}" if field else "")


def _words(problem: ErrorDetails, above: tuple[str, ...]) -> str:
    if problem["type"] == "extra_forbidden":
        parts = (*above, *map(str, problem["loc"]))
        closest = closest_name(parts)
        return "it is not known" + (f"; did you mean {closest}?" if closest else "")
    if problem["type"] == "missing":
        return "it is missing"
    return problem["msg"].removeprefix("Value error, ")
