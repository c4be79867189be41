"""The coordinator's configuration, and the home folder that holds everything it needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common import canonical_json
from common.analytics.answers import ARRAYS_NAME, FACTS_NAME
from common.errors import InputError, UsageError
from common.key_store import KeyStore
from common.keys import Registry, Signer
from common.plan import RunPlan

SERVER_PARTY = "server"
RUN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
_MAX_PLAN_BYTES = 1 << 20
_RUNS = "runs"


class ServerConfig(BaseModel):
    """What Flower's run configuration tells the ServerApp; anything else in it is refused.

    Attributes:
        server_home: The coordinator's home folder.
        run: Which of the home's runs, by its name; empty for a home of one run.
        nodes_wait_s: For how long to wait for the plan's regions before the first round; with
            fewer than the quorum then, the run fails.
        describe_timeout_s: For how long a node may take to say which region it is.
        witness_timeout_s: For how long regions may take to publish or cosign checkpoints.
        mask_timeout_s: For how long the regions of a secure sum may take, all together, to send
            their masked updates, each time they are asked; who does not is left out.
        superlink_timeout_s: For how long the SuperLink may be out of reach, and for how long the
            content of a reply that a node has announced may take to come.
        outside_witness_timeout_s: For how long an outside witness may take for each answer.
        last_round: After which round to pause, with nothing published; 0 for the run's end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    server_home: Path = Field(alias="server-home")
    run: str = Field(alias="run", default="", max_length=48, pattern=rf"^({RUN_NAME.pattern})?$")
    nodes_wait_s: float = Field(alias="nodes-wait-s", default=120.0, gt=0, le=86_400)
    describe_timeout_s: float = Field(alias="describe-timeout-s", default=60.0, gt=0, le=3600)
    witness_timeout_s: float = Field(alias="witness-timeout-s", default=60.0, gt=0, le=3600)
    mask_timeout_s: float = Field(alias="mask-timeout-s", default=120.0, gt=0, le=86_400)
    superlink_timeout_s: float = Field(alias="superlink-timeout-s", default=120.0, gt=0, le=86_400)
    outside_witness_timeout_s: float = Field(
        alias="outside-witness-timeout-s", default=10.0, gt=0, le=3600
    )
    last_round: int = Field(alias="last-round", default=0, ge=0, le=1_000_000)

    @classmethod
    def read(cls, run_config: Mapping[str, object]) -> ServerConfig:
        """Reads Flower's run configuration.

        Raises:
            InputError: A key is unknown or missing, or a value is out of range; names it.
        """
        try:
            config = cls.model_validate(dict(run_config))
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"The run configuration's {'.'.join(map(str, first['loc']))} is not accepted: "
                f"{first['msg']}.",
                remedy="The keys are server-home, run, nodes-wait-s, describe-timeout-s, "
                "witness-timeout-s, mask-timeout-s, superlink-timeout-s, "
                "outside-witness-timeout-s and last-round.",
            ) from error
        if not config.server_home.is_absolute():
            raise InputError(
                f"The run configuration's server-home {str(config.server_home)!r} is not an "
                "absolute path.",
                remedy="Name the coordinator's home folder from the root.",
            )
        return config


@dataclass(frozen=True)
class ServerHome:
    """Paths inside the coordinator's home folder.

    A home of one run has everything in one folder. In a home of many, each run has its plan,
    checkpoint, events and model in ``runs/NAME``; keys, registry, log and what was witnessed are
    shared, so that one log tells of all runs.

    Args:
        root: The folder itself.
        run: The run's name in a home of many; None for a home of one.

    Raises:
        UsageError: The name is none.
    """

    root: Path
    run: str | None = None

    def __post_init__(self) -> None:
        if self.run is not None and RUN_NAME.fullmatch(self.run) is None:
            raise UsageError(
                f"{self.run[:64]!r} is no name of a run.",
                remedy="A name has up to 48 lower-case letters, digits and hyphens.",
            )

    @classmethod
    def at(cls, folder: Path) -> ServerHome:
        """The home whose plan lies in a folder: of one run, or of many, of which it is one's."""
        above = folder.parent.parent
        if folder.parent.name == _RUNS and (above / "registry").is_dir():
            return cls(above, folder.name)
        return cls(folder)

    @property
    def folder(self) -> Path:
        """Where the run's own files are."""
        return self.root if self.run is None else self.root / _RUNS / self.run

    def runs(self) -> tuple[str, ...]:
        """The names of the runs in a home of many, in order; none in a home of one."""
        return tuple(sorted(plan.parent.name for plan in (self.root / _RUNS).glob("*/plan.json")))

    @property
    def plan(self) -> Path:
        """The run plan as canonical JSON."""
        return self.folder / "plan.json"

    @property
    def registry(self) -> Path:
        """The folder of key registry versions, ``1.json`` and on."""
        return self.root / "registry"

    @property
    def keys(self) -> Path:
        """The folder of encrypted private keys and their passphrase."""
        return self.root / "keys"

    @property
    def log(self) -> Path:
        """The coordinator's audit log."""
        return self.root / "log.sqlite"

    @property
    def witness(self) -> Path:
        """What the coordinator has witnessed of the regions' logs, and who cosigned its own."""
        return self.root / "witness.sqlite"

    @property
    def witnesses(self) -> Path:
        """The addresses of the outside witnesses, a JSON list; there may be none."""
        return self.root / "witnesses.json"

    @property
    def checkpoint(self) -> Path:
        """The folder of the newest checkpoint."""
        return self.folder / "checkpoint"

    @property
    def ended(self) -> Path:
        """Of which run, at which size of the coordinator's log, all logs were cosigned at last."""
        return self.folder / "ended.json"

    @property
    def events(self) -> Path:
        """What happens, one JSON object a line, for a display to follow."""
        return self.folder / "events.jsonl"

    @property
    def models(self) -> Path:
        """The folder of published models, each by its digest; shared by all runs."""
        return self.root / "models"

    @property
    def current(self) -> Path:
        """Which published model is the current one."""
        return self.root / "current.json"

    @property
    def process(self) -> Path:
        """Which process coordinates the run, or did last."""
        return self.folder / "process.json"

    @property
    def model(self) -> Path:
        """The published model."""
        return self.folder / "model.safetensors"

    @property
    def answers(self) -> Path:
        """The published answers of a run of questions."""
        return self.folder / ARRAYS_NAME

    @property
    def answers_facts(self) -> Path:
        """What each of them answers, of whom, and with how much noise."""
        return self.folder / FACTS_NAME

    def read_plan(self) -> RunPlan:
        """Reads the run plan.

        Raises:
            InputError: It is missing or malformed.
        """
        try:
            data = self.plan.read_bytes()
        except OSError as error:
            raise InputError(
                f"The run plan {self.plan} cannot be read: {error.strerror}.",
                remedy="Name a coordinator's home folder.",
            ) from error
        return RunPlan.from_record(canonical_json.decode(data, max_bytes=_MAX_PLAN_BYTES))

    def registry_envelopes(self) -> list[bytes]:
        """The key registry's versions, oldest first.

        Raises:
            InputError: There is none, or a file there has no version for a name.
        """
        try:
            files = sorted(self.registry.glob("*.json"), key=lambda path: int(path.stem))
        except ValueError as error:
            raise InputError(f"{self.registry} has a file not named by its version.") from error
        if not files:
            raise InputError(
                f"There is no key registry in {self.registry}.",
                remedy="Copy the federation's registry/*.json there.",
            )
        return [path.read_bytes() for path in files]

    def read_registry(self) -> Registry:
        """Reads and verifies the chain of key registry versions.

        Raises:
            InputError: There is none.
            VerificationError: A version does not verify.
        """
        return Registry.from_envelopes(self.registry_envelopes(), root_key_ids=None)

    def signer(self, role: str) -> Signer:
        """Opens the key of a role, ``log``, ``aggregator`` or ``witness``, wherever it is kept.

        Raises:
            InputError: The key or its passphrase is missing.
        """
        return KeyStore(self.keys, SERVER_PARTY).signer(role)
