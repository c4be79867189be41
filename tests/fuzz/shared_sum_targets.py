"""Targets: what regions and coordinator tell each other in a double-masked sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from client.engine.request import ExecuteRequest
from common import canonical_json
from common.canonical_json import JsonValue
from common.double_masking.codec import (
    deliveries_from_json,
    deliveries_to_json,
    reveal_from_json,
    reveal_to_json,
    shares_from_json,
    shares_to_json,
)
from common.double_masking.records import KEYS, SHARES, SURVIVORS, open_statement
from common.double_masking.shamir import combine, split
from common.errors import FormatError
from tests.fuzz.target import Target, same
from tests.support.masking_execution import NOW_MS, Federation

_KINDS = (KEYS, SHARES, SURVIVORS)


def _both_ways(
    read: Callable[[JsonValue], object], write: Callable[..., JsonValue]
) -> Callable[[bytes], None]:
    """What is read is whole: written again, it is read as the same."""

    def check(data: bytes) -> None:
        found = read(canonical_json.decode(data))
        same(read(write(found)), found)

    return check


def _federation() -> Federation:
    federation = Federation(3, n_values=8)
    federation.share(federation.pin(), federation.regions)
    return federation


def _shares() -> Iterator[bytes]:
    federation = Federation(3, n_values=8)
    keys, threshold = federation.pin()
    given = federation.parties[federation.regions[0]].run.share(keys, threshold=threshold)
    yield canonical_json.encode(shares_to_json(given))


def _deliveries() -> Iterator[bytes]:
    federation = _federation()
    deliveries = federation.coordinator.deliveries(federation.regions[0])
    yield canonical_json.encode(deliveries_to_json(deliveries))


def _reveals() -> Iterator[bytes]:
    federation = _federation()
    there = federation.regions
    agreements = federation.agree(federation.mask(there), there)
    reveal = federation.parties[there[0]].run.unmask(agreements)
    yield canonical_json.encode(reveal_to_json(reveal))


def _request(data: bytes) -> None:
    header = canonical_json.decode(data)
    if not isinstance(header, dict):
        raise FormatError("It is no object.")
    request = ExecuteRequest.parse(header)
    same(
        {
            "run": request.run,
            "round": request.server_round,
            "attempt": request.attempt,
            "step": request.step,
            "content": request.content,
        },
        header,
    )


def _requests() -> Iterator[bytes]:
    for step, content in (("pin", None), ("agree", ["a", "b", "c"])):
        header: dict[str, JsonValue] = {"run": "r", "round": 1, "attempt": 1, "step": step}
        yield canonical_json.encode({**header, "content": content})


def _record(data: bytes) -> None:
    """A record is of one kind, about this execution, and signed; nothing else passes."""
    federation = _SIGNED
    kind = _KINDS[data[0] % 3]
    statement = open_statement(
        data[1:], kind, federation.execution, federation.registry, at_ms=NOW_MS
    )
    same(statement.envelope, data[1:])
    same(statement.region in federation.regions, True)


def _records() -> Iterator[bytes]:
    federation = _SIGNED
    region = federation.regions[0]
    yield b"\x00" + federation.coordinator._keys[region]
    yield b"\x01" + federation.coordinator._shares[region][0].envelope
    yield b"\x02" + federation.coordinator._agreements[region]


def _shamir(data: bytes) -> None:
    """Three shares of 66 bytes each give a secret, or are refused."""
    if len(data) != 3 * 66:
        raise FormatError("It is not three shares.")
    shares = {place: data[66 * (place - 1) : 66 * place] for place in (1, 2, 3)}
    same(len(combine(shares, threshold=3)), 32)


def _shamir_seeds() -> Iterator[bytes]:
    yield b"".join(split(bytes(range(32)), shares=3, threshold=3))


_SIGNED = Federation(3, n_values=8)
_SIGNED.to_agreement()

TARGETS = (
    Target("execute-request", _request, _requests, runs=1000),
    Target("execution-record", _record, _records, head_bytes=1, runs=500),
    Target("execution-shares", _both_ways(shares_from_json, shares_to_json), _shares, runs=500),
    Target(
        "execution-deliveries",
        _both_ways(deliveries_from_json, deliveries_to_json),
        _deliveries,
        runs=500,
    ),
    Target("execution-reveal", _both_ways(reveal_from_json, reveal_to_json), _reveals, runs=1000),
    Target("shamir-shares", _shamir, _shamir_seeds, runs=1000),
)
