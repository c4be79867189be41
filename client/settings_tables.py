"""The tables of ``region.toml``: which fields each has, and what they may be."""

from __future__ import annotations

import difflib
import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from client.engine.policy import RegionPolicy
from common.errors import InputError
from common.loopback import LoopbackAddress
from common.validate import PARTY

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
# A Unix socket's address has 108 bytes with its end mark.
MAX_SOCKET_PATH_BYTES = 107
# The largest user id that is nobody's special one.
_MAX_USER_ID = 2**32 - 2


def split_address(text: str) -> tuple[str, int]:
    """Host and port of an address.

    Args:
        text: ``host:port``, ``192.0.2.1:port`` or ``[2001:db8::1]:port``.

    Raises:
        ValueError: It is none.
    """
    host, separator, port = text.rpartition(":")
    if not separator or re.fullmatch(r"[1-9][0-9]{0,4}", port) is None or int(port) > 65_535:
        raise ValueError("it is not host:port with a port of 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        ipaddress.IPv6Address(host[1:-1])
        return host[1:-1], int(port)
    if not is_host(host):
        raise ValueError("its host is neither a name nor an IP address")
    return host, int(port)


def is_host(text: str) -> bool:
    """Whether a text is a host's name or an IPv4 address."""
    if re.fullmatch(r"[0-9.]+", text):
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            return False
        return True
    return _HOST_NAME.fullmatch(text) is not None


def _address(text: str) -> str:
    split_address(text)
    return text


def _loopback(text: str) -> str:
    split_address(text)
    try:
        LoopbackAddress.parse(text)
    except InputError as error:
        raise ValueError(error.message) from error
    return text


def _host(text: str) -> str:
    if not is_host(text):
        raise ValueError("it is neither a host's name nor an IP address")
    return text


def _party(text: str) -> str:
    if PARTY.fullmatch(text) is None:
        raise ValueError("it is not a party's name (up to 64 of a-z, 0-9, dot, dash, underscore)")
    return text


def _user(value: str | int) -> str | int:
    if isinstance(value, str) and _USER_NAME.fullmatch(value) is None:
        raise ValueError("it is not a user's name; a user id is a number without quotes")
    if isinstance(value, int) and not 0 <= value <= _MAX_USER_ID:
        raise ValueError("it is not a user id")
    return value


def _witness(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ValueError("it is not the address of a witness, such as https://witness.example")
    return text


def _beside(value: object, info: ValidationInfo) -> object:
    """A path, from the folder of the settings."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("it is not a path in quotes")
    folder = (info.context or {}).get("folder", Path())
    return Path(folder) / value


def _socket_path(path: Path) -> Path:
    if len(bytes(path.absolute())) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(
            f"the socket's path {path.absolute()} is longer than {MAX_SOCKET_PATH_BYTES} bytes; "
            "choose a shorter folder"
        )
    return path


def _listening(value: object, info: ValidationInfo) -> object:
    """A socket's path from the folder of the settings, or an address of this machine."""
    if isinstance(value, str) and "/" not in value:
        return _loopback(value)
    found = _beside(value, info)
    return str(_socket_path(found)) if isinstance(found, Path) else found


Address = Annotated[str, AfterValidator(_address)]
OwnAddress = Annotated[str, AfterValidator(_loopback)]
Host = Annotated[str, AfterValidator(_host)]
Party = Annotated[str, AfterValidator(_party)]
User = Annotated[str | int, AfterValidator(_user)]
WitnessAddress = Annotated[str, AfterValidator(_witness)]
PathBeside = Annotated[Path, BeforeValidator(_beside)]
Listening = Annotated[str, BeforeValidator(_listening)]
SocketPath = Annotated[PathBeside, AfterValidator(_socket_path)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class _Table(BaseModel):
    # Defaults are validated too: a relative path of theirs begins where a stated one does.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


def _default_path(text: str) -> Any:
    """A default that becomes a path as a stated one does; hence no type of its own."""
    return Field(default=text)


class RegionTable(_Table):
    """``[region]``: whose settings they are.

    Attributes:
        name: The region's party name, as the key registry spells it.
        federation: The federation's name.
        jurisdiction: Its country, ISO 3166 (two capital letters).
    """

    name: Party
    federation: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
    jurisdiction: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class CoordinatorTable(_Table):
    """``[coordinator]``: where the SuperLink is, and by which certificate it is known.

    Attributes:
        address: Host and port of the regions' port.
        ca: The federation's certificate authority, PEM.
        server_name: The name that the server's certificate must be for; the address's host without.
    """

    address: Address
    ca: PathBeside = _default_path("node/ca.crt")
    server_name: Host | None = None

    @property
    def host(self) -> str:
        """The address's host."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """The address's port."""
        return split_address(self.address)[1]

    @property
    def certified_name(self) -> str:
        """The name that the server's certificate must be for."""
        return self.server_name or self.host


class EngineTable(_Table):
    """``[engine]``: the privacy engine's process.

    Attributes:
        socket: The Unix socket that the relay calls.
        consent_socket: The Unix socket that the consent service calls.
        user: Who runs it if root starts the region; without, `fedpref-engine`. Started by anyone
            else, all processes are that user's.
        relay_users: Whom it answers besides its own user; without, the relay's.
        consent_users: Whom the consent socket answers besides the engine's own user.
        socket_group: The group that may open the sockets, of which those users are members.
        metrics: Loopback address and port of its Prometheus endpoint; without, there is none.
        access_socket: The Unix socket that people come to for sensitive columns; without, there is
            none. Best in a folder of its own: they must get through to it, and to nothing else.
        access_users: Whom it answers besides the engine's own user.
        access_group: The group that may open it, of which those users and the engine's are members.
    """

    socket: SocketPath = _default_path("run/engine.sock")
    consent_socket: SocketPath = _default_path("run/consent.sock")
    user: User | None = None
    relay_users: list[User] = []
    consent_users: list[User] = []
    socket_group: User | None = None
    metrics: OwnAddress | None = None
    access_socket: SocketPath | None = None
    access_users: list[User] = []
    access_group: User | None = None


class NodeTable(_Table):
    """``[node]``: the SuperNode's process.

    Attributes:
        key: Its private key (OpenSSH or PEM, NIST P-384); the public one lies beside it, ``.pub``.
        runtime_port: The loopback port at which the relay takes tasks.
        user: Who runs it if root starts the region; without, `fedpref-node`.
    """

    key: PathBeside = _default_path("node/node_key")
    runtime_port: Port = 9094
    user: User | None = None

    @property
    def public_key(self) -> Path:
        """The public half of the key."""
        return self.key.with_name(f"{self.key.name}.pub")


class RelayTable(_Table):
    """``[relay]``: the process that runs the coordinator's permitted bundles.

    Attributes:
        user: Who runs it if root starts the region; without, `fedpref-relay`.
    """

    user: User | None = None


class RecommenderTable(_Table):
    """``[recommender]``: the recommender's process, for the shop's own programs.

    It runs as the engine's user, whose home it reads. Without the table it is not started.

    Attributes:
        listen: Where it listens: a Unix socket's path, with a slash in it, or a loopback address
            and port.
        group: The group whose members may open the socket beside its owner, who must be one too.
        metrics: Loopback address and port of its Prometheus endpoint; without, there is none.
    """

    listen: Listening = _default_path("run/recommender.sock")
    group: User | None = None
    metrics: OwnAddress | None = None

    @property
    def socket(self) -> Path | None:
        """The Unix socket, if it is one."""
        return Path(self.listen) if "/" in self.listen else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.group is not None and self.socket is None:
            raise ValueError("an address has no group: leave it out, or listen on a socket")
        return self


class ProfilesTable(_Table):
    """``[profiles]``: the process that keeps customers' profiles current.

    It runs as the engine's user, whose home it reads. Without the table it is not started.

    Attributes:
        follow_every_s: How long it waits between two looks for what is new, in seconds.
        metrics: Loopback address and port of its Prometheus endpoint; without, there is none.
    """

    follow_every_s: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = 5.0
    metrics: OwnAddress | None = None


class ConsentsTable(_Table):
    """``[consents]``: consents that customers have given already, imported at installation.

    Attributes:
        file: Parquet or CSV, one customer a row.
        map: Field → the file's column; see `fedpref-region consents import`.
        grant: Purposes that every row grants, if none has a column.
        lang: The language of rows that name none.
        time_zone: The zone of times that state none; without, each must state its own.
    """

    file: PathBeside
    map: dict[str, str] = {}
    grant: list[str] = []
    lang: str = "en"
    time_zone: str = ""


class FormTable(_Table):
    """``[form]``: what all consents of the region have in common.

    Attributes:
        legal_basis: `eu-gdpr:A6-1-a` or `cn-pipl:13-1`.
        withdrawal: Where customers withdraw: an https: or mailto: address.
        data: The categories of personal data, as terms of the Data Privacy Vocabulary.
        lasts_days: After how many days a consent expires; without, it does not.
    """

    legal_basis: Annotated[str, Field(pattern=r"^(eu-gdpr:A6-1-a|cn-pipl:13-1)$")]
    withdrawal: Annotated[str, Field(pattern=r"^(https://|mailto:)", max_length=512)]
    data: list[str] = Field(default=["pd:PurchasesAndSpendingHabit"], min_length=1, max_length=64)
    lasts_days: Annotated[int, Field(ge=1, le=36_500)] | None = None


class NoticeTable(_Table):
    """``[notice]``: what customers are told, logged at installation.

    Attributes:
        file: The notice's TOML file.
    """

    file: PathBeside


class WitnessesTable(_Table):
    """``[witnesses]``: the federation's outside witnesses.

    Attributes:
        addresses: Their submission prefixes. The coordinator asks them; the region only checks that
            they are there, and what their clocks say.
    """

    addresses: list[WitnessAddress] = []


class Tables(_Table):
    """The whole file; ``[policy]`` and ``[source]`` are checked by their own models."""

    region: RegionTable
    coordinator: CoordinatorTable
    engine: EngineTable
    node: NodeTable
    relay: RelayTable = RelayTable()
    recommender: RecommenderTable | None = None
    profiles: ProfilesTable | None = None
    source: dict[str, Any]
    policy: dict[str, Any]
    consents: ConsentsTable | None = None
    form: FormTable | None = None
    notice: NoticeTable | None = None
    witnesses: WitnessesTable = WitnessesTable()

    @model_validator(mode="before")
    @classmethod
    def _with_tables(cls, values: object) -> object:
        """Tables with paths, left out, are such as state nothing: their defaults are resolved."""
        if isinstance(values, dict):
            return {"engine": {}, "node": {}, **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        users = self.engine.relay_users
        if self.relay.user is not None and users and self.relay.user not in users:
            raise ValueError(
                f"[engine] relay_users does not have the relay's user {self.relay.user}, whom the "
                "engine would refuse"
            )
        sockets = [self.engine.socket, self.engine.consent_socket]
        if self.recommender is not None and self.recommender.socket is not None:
            sockets.append(self.recommender.socket)
        if self.engine.access_socket is not None:
            sockets.append(self.engine.access_socket)
        if len(set(sockets)) < len(sockets):
            raise ValueError(
                "two of [engine] socket, its consent_socket and access_socket, and [recommender] "
                "listen are the same file"
            )
        return self


_MODELS: dict[str, type[BaseModel]] = {
    "region": RegionTable,
    "coordinator": CoordinatorTable,
    "engine": EngineTable,
    "node": NodeTable,
    "relay": RelayTable,
    "recommender": RecommenderTable,
    "profiles": ProfilesTable,
    "policy": RegionPolicy,
    "consents": ConsentsTable,
    "form": FormTable,
    "notice": NoticeTable,
    "witnesses": WitnessesTable,
}


def closest_name(parts: tuple[str, ...]) -> str:
    """The known name that comes closest to an unknown table or field; empty if none does.

    Args:
        parts: Its place: the table, and the field within it.
    """
    if len(parts) == 1:
        known = list(Tables.model_fields)
    elif len(parts) == 2 and parts[0] in _MODELS:
        known = list(_MODELS[parts[0]].model_fields)
    else:
        return ""
    return next(iter(difflib.get_close_matches(parts[-1], known, n=1, cutoff=0.6)), "")
