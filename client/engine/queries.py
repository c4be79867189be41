"""A region's signed query: what is computed of its customers besides training, on whose consent.

A query is a permit of its own kind, for one use. It names what is asked, of whose data, with which
noise and for how much ε; the region's policy must allow it, the region signs it with its ``permit``
key, and the log has it before anything is computed. Each of its parts is one noisy sum
(`client.training.bounded_sums`) that one charge pays for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from client.engine.policy import RegionPolicy
from common.canonical_json import JsonValue
from common.envelope import Envelope, verify_envelope
from common.errors import FedprefError, FormatError, InputError, PolicyError
from common.keys import Registry
from common.noisy_grid import NoisyGrid
from common.parameters import ArraySpec
from common.plan import EPSILON_SLACK, epsilon_bound
from common.privacy import GaussianEvent
from common.timestamps import format_time, parse_time

#: Everyone takes part in a query, once.
SAMPLING_PROBABILITY, STEPS = "1", 1
#: Where answers go: they stay in the region.
Destination = Literal["region"]


@dataclass(frozen=True)
class QueryPart:
    """One noisy sum of a query.

    Attributes:
        number: Its number within the query, from 1: what a round is in a run.
        name: What is asked.
        noise_multiplier: σ / C, as a decimal string.
        clipping_norm: C, the most one customer contributes (L2), as a decimal string.
        grid_exponent: Values are multiples of 2 to this power.
        spec: The array that the answer is.
        parameters: The public constants that what is asked depends on.
    """

    number: int
    name: str
    noise_multiplier: str
    clipping_norm: str
    grid_exponent: int
    spec: ArraySpec
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def event(self) -> GaussianEvent:
        """The privacy event that it is charged as."""
        return GaussianEvent(float(self.noise_multiplier))

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise in each value."""
        return float(self.noise_multiplier) * float(self.clipping_norm)

    @property
    def grid(self) -> NoisyGrid:
        """The grid of its values with the noise in them."""
        return NoisyGrid(self.grid_exponent, self.noise_stddev)


@dataclass(frozen=True)
class Query:
    """A query.

    Attributes:
        permit_id: Its id, a ULID; for what the region asks itself, its run's id too.
        region: The region that is asked.
        requested_by: Who asks.
        destination: Where answers go.
        purpose: The purpose whose budget pays for it.
        consented: All that a customer must have consented to, to be counted.
        model: The name of what it is for; the ledger's accounts know it.
        catalogue: Digest of the public catalogue, in hex.
        start_ms: Begin of the window of purchases, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
        engine: Digest of the code that computes it, in hex.
        deps: Digest of the installed distributions and their versions, in hex.
        parts: What is asked, in the order of the numbers.
        epsilon: ε of all parts together, as a decimal string.
        delta: δ, as a decimal string.
        issued_ms: From when it holds, in milliseconds since the epoch.
        expires_ms: Until when.
    """

    permit_id: str
    region: str
    requested_by: str
    destination: Destination
    purpose: str
    consented: tuple[str, ...]
    model: str
    catalogue: str
    start_ms: int
    end_ms: int
    engine: str
    deps: str
    parts: tuple[QueryPart, ...]
    epsilon: str
    delta: str
    issued_ms: int
    expires_ms: int

    @property
    def run(self) -> str:
        """What its charges are booked under, together: one query, one composition."""
        return self.permit_id

    def part(self, name: str) -> QueryPart:
        """The part of a name.

        Raises:
            PolicyError: The query does not ask that.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise PolicyError(f"{self.region}: the query {self.permit_id} does not ask for {name!r}.")

    def to_record(self) -> dict[str, JsonValue]:
        """The ``fedpref-query/1`` record."""
        return {
            "v": "fedpref-query/1",
            "permit_id": self.permit_id,
            "run": self.run,
            "region": self.region,
            "requested_by": self.requested_by,
            "destination": self.destination,
            "purpose": self.purpose,
            "consented": [*self.consented],
            "model": self.model,
            "catalogue": self.catalogue,
            "window": {"start": format_time(self.start_ms), "end": format_time(self.end_ms)},
            "engine": self.engine,
            "deps": self.deps,
            "mechanisms": [
                {
                    "name": part.name,
                    "rounds": [part.number],
                    "steps": STEPS,
                    "noise_multiplier": part.noise_multiplier,
                    "clipping_norm": part.clipping_norm,
                    "sampling_probability": SAMPLING_PROBABILITY,
                    "grid_exponent": part.grid_exponent,
                }
                for part in self.parts
            ],
            "arrays": [
                {
                    "mechanism": part.name,
                    "name": part.spec.name,
                    "dtype": part.spec.dtype,
                    "shape": list(part.spec.shape),
                }
                for part in self.parts
            ],
            "parameters": {part.name: dict(part.parameters) for part in self.parts},
            "epsilon_cap": self.epsilon,
            "delta": self.delta,
            "issued_at": format_time(self.issued_ms),
            "expires": format_time(self.expires_ms),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, JsonValue]) -> Query:
        """Reads a record that `to_record` made.

        Raises:
            FormatError: It is none.
        """
        try:
            query = _parse(record)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"The record is no query: {error!r}.") from error
        if query.to_record() != dict(record):
            raise FormatError("The record has fields that no query has, or in another form.")
        return query


def check_query(query: Query, policy: RegionPolicy) -> None:
    """Checks that a region's policy allows a query, but for the caps of ε: the ledger has those.

    Raises:
        PolicyError: It does not; names the field.
    """
    if query.region != policy.region or query.requested_by != query.region:
        raise PolicyError(f"{policy.region}: it answers its own queries only.")
    if query.purpose not in query.consented:
        raise PolicyError(
            f"{policy.region}: a query for {query.purpose} must ask for consent to that."
        )
    policy.check_query(
        {part.name: (part.noise_multiplier, part.clipping_norm) for part in query.parts},
        epsilon=query.epsilon,
        delta=query.delta,
    )
    _require_epsilon(query)


def _require_epsilon(query: Query) -> None:
    """Checks what a query says it spends: its budget and its readers take it at its word."""
    try:
        spent = epsilon_bound(tuple(part.event for part in query.parts), float(query.delta))
    except InputError as error:
        raise PolicyError(f"{query.region}: the query's noise: {error.message}") from error
    # Written so that a NaN is refused too.
    if not spent <= float(query.epsilon) * (1 + EPSILON_SLACK):
        raise PolicyError(
            f"{query.region}: the parts of query {query.permit_id} spend ε = {spent:.6f} together, "
            f"more than the {query.epsilon} that it states.",
            remedy="Ask anew: the noise is calibrated to the ε that is asked for.",
        )


def open_query(
    data: bytes,
    policy: RegionPolicy,
    registry: Registry,
    *,
    engine: str,
    deps: str,
    now_ms: int,
) -> Query:
    """Verifies a signed query for use now.

    Args:
        data: The signed query.
        policy: The region's policy in force now: a query never outlives it.
        registry: The verified key registry.
        engine: Digest of the code that is running.
        deps: Digest of the installed distributions.
        now_ms: Now, in milliseconds since the epoch.

    Raises:
        PolicyError: Says what does not match.
    """
    query = read_query(data, registry, policy.region, at_ms=now_ms)
    check_query(query, policy)
    if (query.engine, query.deps) != (engine, deps):
        raise PolicyError(
            f"{policy.region}: the query {query.permit_id} was signed for another engine.",
            remedy="Ask anew: a new query is signed for the engine that is installed.",
        )
    if not query.issued_ms <= now_ms <= query.expires_ms:
        raise PolicyError(
            f"{policy.region}: the query {query.permit_id} is valid from "
            f"{format_time(query.issued_ms)} to {format_time(query.expires_ms)}, not now.",
            remedy="Ask anew, or correct the clock.",
        )
    return query


def read_query(data: bytes, registry: Registry, region: str, *, at_ms: int | None = None) -> Query:
    """Reads a query that the region signed.

    Args:
        data: The signed query.
        registry: The verified key registry.
        region: The region.
        at_ms: When its key must be valid, in milliseconds since the epoch; when the query says that
            it was issued if None.

    Raises:
        PolicyError: It is none, or no key of the region's signed it.
    """
    try:
        envelope = Envelope.decode(data)
        keys = {key.key_id: key.public_key for key in registry.keys_of(region, "permit")}
        signers = verify_envelope(envelope, keys)
        if envelope.kind != "query":
            raise FormatError(f"The file is a {envelope.kind}, not a query.")
        query = Query.from_record(envelope.record())
        for key_id in signers:
            valid_ms = query.issued_ms if at_ms is None else at_ms
            registry.find(key_id, party=region, role="permit", at_ms=valid_ms)
    except FedprefError as error:
        raise PolicyError(f"{region}: the query does not verify: {error}") from error
    return query


def _parse(record: Mapping[str, JsonValue]) -> Query:
    window, parameters = _object(record["window"]), _object(record["parameters"])
    mechanisms, arrays = _objects(record["mechanisms"]), _objects(record["arrays"])
    if len(mechanisms) != len(arrays):
        raise ValueError("a part has no array, or several")
    return Query(
        permit_id=str(record["permit_id"]),
        region=str(record["region"]),
        requested_by=str(record["requested_by"]),
        # Anything else does not come out again.
        destination="region",
        purpose=str(record["purpose"]),
        consented=tuple(str(each) for each in _list(record["consented"])),
        model=str(record["model"]),
        catalogue=str(record["catalogue"]),
        start_ms=parse_time(str(window["start"])),
        end_ms=parse_time(str(window["end"])),
        engine=str(record["engine"]),
        deps=str(record["deps"]),
        parts=tuple(
            _part(mechanism, array, parameters)
            for mechanism, array in zip(mechanisms, arrays, strict=True)
        ),
        epsilon=str(record["epsilon_cap"]),
        delta=str(record["delta"]),
        issued_ms=parse_time(str(record["issued_at"])),
        expires_ms=parse_time(str(record["expires"])),
    )


def _part(
    mechanism: Mapping[str, JsonValue],
    array: Mapping[str, JsonValue],
    parameters: Mapping[str, JsonValue],
) -> QueryPart:
    name = str(mechanism["name"])
    return QueryPart(
        number=int(str(_list(mechanism["rounds"])[0])),
        name=name,
        noise_multiplier=str(mechanism["noise_multiplier"]),
        clipping_norm=str(mechanism["clipping_norm"]),
        grid_exponent=int(str(mechanism["grid_exponent"])),
        spec=ArraySpec(
            str(array["name"]),
            str(array["dtype"]),
            tuple(int(str(length)) for length in _list(array["shape"])),
        ),
        parameters=_object(parameters[name]),
    )


def _list(value: JsonValue) -> Sequence[JsonValue]:
    if not isinstance(value, list):
        raise TypeError("a list was expected")
    return value


def _object(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise TypeError("an object was expected")
    return value


def _objects(value: JsonValue) -> list[dict[str, JsonValue]]:
    return [_object(each) for each in _list(value)]
