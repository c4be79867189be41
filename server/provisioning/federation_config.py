"""``federation.toml``: what a federation is made of, as its founders declare it."""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from common.aggregation_rules import NoiseMode, RuleName
from common.clusters_table import ClustersTable
from common.errors import InputError
from common.kit import JURISDICTION
from common.loopback import LoopbackAddress
from common.questions_plan import NamesTable, QuestionsFile, QuestionTable
from common.strategies import FACTORS, StrategyChoice
from common.system_users import USER_NAME
from common.timestamps import parse_time
from common.toml_file import parse_toml, read_toml
from common.validate import DECIMAL, PARTY
from server.config import RUN_NAME, SERVER_PARTY

_MAX_BYTES = 1 << 20
_CALLED = "The federation's declaration"
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_LOCATION = re.compile(r"-?[0-9]{1,3}(?:\.[0-9]{1,6})?,-?[0-9]{1,3}(?:\.[0-9]{1,6})?")


def _region_name(text: str) -> str:
    if PARTY.fullmatch(text) is None or text == SERVER_PARTY:
        raise ValueError(f"must be up to 64 of a-z, 0-9, dot, dash, and not {SERVER_PARTY!r}")
    return text


def _host(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if _HOST.fullmatch(text) is None or len(text) > 253:
            raise ValueError("must be a host name or an IP address") from None
    return text


def _user(text: str) -> str:
    if USER_NAME.fullmatch(text) is None:
        raise ValueError("must be the name of a system user")
    return text


def _loopback(text: str) -> str:
    try:
        return str(LoopbackAddress.parse(text))
    except InputError as error:
        raise ValueError(error.message) from error


def _positive(text: str) -> str:
    if DECIMAL.fullmatch(text) is None or not Decimal(text) > 0:
        raise ValueError("must be a decimal number above 0, in quotes")
    return text


def _time(text: str) -> str:
    try:
        parse_time(text)
    except InputError as error:
        raise ValueError(error.message) from error
    return text


RegionName = Annotated[str, AfterValidator(_region_name)]
Host = Annotated[str, AfterValidator(_host)]
User = Annotated[str, AfterValidator(_user)]
Loopback = Annotated[str, AfterValidator(_loopback)]
PositiveDecimal = Annotated[str, AfterValidator(_positive)]
Time = Annotated[str, AfterValidator(_time)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FederationTable(_Table):
    """``[federation]``.

    Attributes:
        name: The federation's name; it begins the name of every log.
        catalogue: The public catalogue (Parquet), relative to the declaration's folder.
        quorum: The fewest regions that a round may be made of.
        witness_quorum: How many other parties must cosign a log's checkpoint for it to count.
        officers: How many root keys are made.
        threshold: How many of them must sign a version of the key registry.
        epsilon_per_year: The ε that all scheduled runs of a calendar year may come to, at the
            largest δ of them: what the regions' own caps are expected to have room for. Without it
            nothing is scheduled.
        keys_valid_days: For how long enrolled keys are valid.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,126}[a-z0-9]$")
    catalogue: str = Field(default="catalogue.parquet", min_length=1)
    quorum: int = Field(ge=1, le=10_000)
    witness_quorum: int = Field(ge=0, le=10_000)
    officers: int = Field(default=3, ge=1, le=32)
    threshold: int = Field(default=2, ge=1, le=32)
    epsilon_per_year: PositiveDecimal | None = None
    keys_valid_days: int = Field(default=366, ge=1, le=3660)

    @model_validator(mode="after")
    def _more_than_half(self) -> FederationTable:
        if not self.officers < 2 * self.threshold <= 2 * self.officers:
            raise ValueError("threshold must be more than half of officers, and at most all")
        return self


class ServerTable(_Table):
    """``[server]``: the coordinator's machine.

    Attributes:
        hosts: Its names and addresses, for the certificate; regions connect to the first.
        port: The regions' port: the fleet API over TLS and nothing else.
        bind: The address that port is bound to; all of the machine's by default.
        admin_port: The control and runtime APIs, on the loopback interface only.
        certificate_days: For how long the certificate is valid.
        request_bytes_max: The most bytes of one request of a region: an array travels in pieces of
            at most a few MiB.
        connections_max: The most connections at the regions' port at once.
        superlink_user: Who the SuperLink runs as, where root starts it.
        coordinator_user: Likewise the coordinator's processes, which own keys and log.
        metrics: The loopback address of its Prometheus endpoint; none without it.
    """

    hosts: tuple[Host, ...] = Field(min_length=1, max_length=32)
    port: Port = 9443
    bind: Host = "0.0.0.0"  # noqa: S104 - regions connect from elsewhere; only fleet calls are served
    admin_port: Port = 9444
    certificate_days: int = Field(default=397, ge=1, le=825)
    request_bytes_max: int = Field(default=64 << 20, ge=1 << 20, le=1 << 30)
    connections_max: int = Field(default=512, ge=8, le=100_000)
    superlink_user: User = "fedpref-superlink"
    coordinator_user: User = "fedpref-coordinator"
    metrics: Loopback | None = None

    @model_validator(mode="after")
    def _two_ports(self) -> ServerTable:
        if self.port == self.admin_port:
            raise ValueError("port and admin_port must differ")
        return self

    @property
    def address(self) -> str:
        """Where regions connect."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class RegionTable(_Table):
    """``[[regions]]``: one region that is invited.

    Attributes:
        name: Its party name.
        jurisdiction: Its country code, ISO 3166-1 alpha-2.
        location: Where it is, as latitude and longitude, for maps; may be left out.
    """

    name: RegionName
    jurisdiction: str = Field(pattern=rf"^{JURISDICTION.pattern}$")
    location: str = Field(default="", pattern=rf"^({_LOCATION.pattern})?$")


class WitnessTable(_Table):
    """``[[witnesses]]``: a party without a log that cosigns everybody's checkpoints.

    Attributes:
        name: Its party name; its request to enrol its key comes with the enrolments.
        url: Where it takes checkpoints.
    """

    name: RegionName
    url: str = Field(pattern=r"^https?://", max_length=512)


# What only a run of questions says; and what only a run that trains says.
_OF_QUESTIONS = frozenset({"names", "clusters", "anyway"})
_OF_MODELS = frozenset({"rounds", "strategy", "tolerated", "model", "seed"})


class RunTable(_Table):
    """``[run.NAME]``: one model to be trained, or questions to be asked.

    With ``[[run.NAME.question]]`` tables it is a run of questions: their file's fields
    (`common.questions_plan.QuestionsFile`) stand in this table, and those of a model stay unsaid.

    Attributes:
        epsilon: ε of the whole run for any one customer.
        delta: δ.
        rounds: How many rounds; by default what the planning size suggests.
        strategy: How the model is trained; ``auto`` for what the rule chooses.
        aggregation: By which rule the regions' updates become one.
        tolerated: How many hostile regions a robust rule withstands.
        noise: Whose noise protects.
        honest_survivors_min: How many honest regions distributed noise is calibrated to.
        model: The model's name, which a region's policy may give a budget of its own.
        train_from: Begin of the training window.
        train_until: Its end, exclusive.
        planned_customers: Public planning size, over all regions: no count of anybody's customers.
        round_timeout_s: How long a round waits for regions, in seconds.
        seed: Of the public initial factors.
        question: What is asked, in order.
        names: Public names that questions are made of.
        clusters: By what customers are grouped, and where that begins.
        anyway: Ask even where noise would swamp an answer.
    """

    epsilon: PositiveDecimal
    delta: PositiveDecimal = "0.000001"
    rounds: int | None = Field(default=None, ge=2, le=1000)
    strategy: StrategyChoice = FACTORS
    aggregation: RuleName = "sum"
    tolerated: int = Field(default=0, ge=0, le=10_000)
    noise: NoiseMode = "local"
    honest_survivors_min: int = Field(default=0, ge=0, le=10_000)
    model: str = Field(default="preference-model", pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")
    train_from: Time
    train_until: Time
    planned_customers: int = Field(ge=1, le=2**53 - 1)
    round_timeout_s: int = Field(default=600, ge=1, le=604_800)
    seed: int = Field(default=0, ge=0, le=2**53 - 1)
    question: tuple[QuestionTable, ...] = Field(default=(), max_length=1000)
    names: NamesTable | None = None
    clusters: ClustersTable | None = None
    anyway: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> RunTable:
        stated = self.model_fields_set
        surplus = stated & (_OF_MODELS if self.question else _OF_QUESTIONS)
        if surplus:
            kind = "questions" if self.question else "a model"
            raise ValueError(f"a run of {kind} has no {', '.join(sorted(surplus))}")
        if self.question:
            self.questions()
        return self

    def questions(self) -> QuestionsFile:
        """What is asked.

        Raises:
            ValueError: It does not go together.
        """
        return QuestionsFile(
            aggregation=self.aggregation,
            question=self.question,
            names=self.names or NamesTable(),
            clusters=self.clusters or ClustersTable(),
        )


class WaitsTable(_Table):
    """``[waits]``: the coordinator's bounds on waiting; see `server.config.ServerConfig`."""

    nodes_wait_s: Seconds = 120.0
    describe_timeout_s: Seconds = 60.0
    witness_timeout_s: Seconds = 60.0
    mask_timeout_s: Seconds = 120.0
    superlink_timeout_s: Seconds = 120.0
    outside_witness_timeout_s: Seconds = 10.0


class FederationConfig(_Table):
    """The whole declaration; unknown fields are refused.

    Attributes:
        federation: The federation.
        server: The coordinator's machine.
        regions: The regions that are invited.
        witnesses: The outside witnesses.
        run: The models to be trained and the questions to be asked, by name.
        waits: The coordinator's bounds on waiting.
    """

    federation: FederationTable
    server: ServerTable
    regions: tuple[RegionTable, ...] = Field(min_length=1, max_length=10_000)
    witnesses: tuple[WitnessTable, ...] = Field(default=(), max_length=64)
    run: dict[Annotated[str, Field(pattern=rf"^{RUN_NAME.pattern}$")], RunTable] = Field(
        default_factory=dict, max_length=1000
    )
    waits: WaitsTable = Field(default_factory=WaitsTable)

    @model_validator(mode="after")
    def _consistent(self) -> FederationConfig:
        names = [each.name for each in self.regions] + [each.name for each in self.witnesses]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ValueError(f"{min(repeated)!r} is declared twice")
        if self.federation.quorum > len(self.regions):
            raise ValueError(
                f"federation.quorum is {self.federation.quorum}, but there are "
                f"{len(self.regions)} regions"
            )
        return self

    def region(self, name: str) -> RegionTable:
        """A region by its name.

        Raises:
            InputError: There is none.
        """
        for each in self.regions:
            if each.name == name:
                return each
        raise InputError(
            f"The federation has no region {name!r}.",
            remedy=f"Its regions are {', '.join(each.name for each in self.regions)}; "
            "fedpref-server join invites another.",
        )


def read_federation(path: Path) -> FederationConfig:
    """Reads a declaration.

    Raises:
        InputError: It is missing, too long, no TOML, or a field is wrong: names file and field.
    """
    values = read_toml(
        path,
        _CALLED,
        max_bytes=_MAX_BYTES,
        remedy="Write one: [federation], [server], [[regions]] and [run.NAME].",
    )
    return _validated(values, path)


def parse_federation(data: bytes, path: Path) -> FederationConfig:
    """Reads a declaration's text; ``path`` is for messages. Raises as `read_federation` does."""
    return _validated(parse_toml(data, path, _CALLED, max_bytes=_MAX_BYTES), path)


def _validated(values: dict[str, Any], path: Path) -> FederationConfig:
    try:
        return FederationConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        problem = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{_CALLED} {path}: {field}: {problem}.",
            remedy="Correct the field; unknown fields are refused.",
        ) from error
