"""Requests from a coordinator that nobody trusts."""

from __future__ import annotations

from typing import Any

import pytest

from client.engine.request import CosignRequest, KeepRequest, PublishRequest, TrainRequest
from common.errors import FormatError

TRAIN: dict[str, Any] = {
    "run": "run-1",
    "round": 1,
    "attempt": 1,
    "mechanism": "factors",
    "plan": "0" * 64,
    "cosignatures": ["— server AAAA\n"],
}
PUBLISH: dict[str, Any] = {"run": "run-1", "round": 1, "since": [5, 0, 5]}
ITEM: dict[str, Any] = {"origin": "x/y", "note": "note", "old": 3, "proof": ["0" * 64]}
COSIGN: dict[str, Any] = {"run": "run-1", "checkpoints": [ITEM]}
KEEP: dict[str, Any] = {"run": "run-1", "size": 9, "cosignatures": []}


def test_well_formed_requests() -> None:
    assert TrainRequest.parse(TRAIN).cosignatures == ("— server AAAA\n",)
    assert PublishRequest.parse(PUBLISH).since == (0, 5)
    assert PublishRequest.parse({**PUBLISH, "round": None}).server_round is None
    (item,) = CosignRequest.parse(COSIGN).checkpoints
    assert (item.origin, item.note, item.old_size, item.proof) == ("x/y", b"note", 3, (bytes(32),))
    assert KeepRequest.parse(KEEP).size == 9


@pytest.mark.parametrize(
    ("kind", "request_", "change"),
    [
        *(
            (kind, request, {"run": run})
            for kind, request in (
                (TrainRequest, TRAIN),
                (PublishRequest, PUBLISH),
                (CosignRequest, COSIGN),
                (KeepRequest, KEEP),
            )
            for run in ("", "../x", "x" * 129, 1, None)
        ),
        *((kind, request, {"more": 1}) for kind, request in ((PublishRequest, PUBLISH),)),
        *((TrainRequest, TRAIN, {"cosignatures": bad}) for bad in (None, [1], ["x"] * 65)),
        (TrainRequest, TRAIN, {"cosignatures": ["x" * 1025]}),
        *((PublishRequest, PUBLISH, {"round": bad}) for bad in (0, -1, 1001, True, "1", 1.0)),
        *((PublishRequest, PUBLISH, {"since": bad}) for bad in (None, 1, [-1], [True], ["1"])),
        (PublishRequest, PUBLISH, {"since": [2**53 + 1]}),
        (PublishRequest, PUBLISH, {"since": list(range(257))}),
        *((CosignRequest, COSIGN, {"checkpoints": bad}) for bad in (None, [1], [ITEM] * 257)),
        (CosignRequest, COSIGN, {"more": 1}),
        *((KeepRequest, KEEP, {"size": bad}) for bad in (-1, True, None, 2**53 + 1)),
        (KeepRequest, KEEP, {"cosignatures": "x"}),
        (KeepRequest, KEEP, {"more": 1}),
    ],
)
def test_malformed_requests(kind: Any, request_: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        kind.parse({**request_, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"origin": 1},
        {"note": b"x"},
        {"note": "x" * (16 * 1024 + 1)},
        {"old": -1},
        {"old": True},
        {"proof": "00"},
        {"proof": ["0" * 63]},
        {"proof": ["G" * 64]},
        {"proof": [0]},
        {"proof": ["0" * 64] * 65},
        {"more": 1},
    ],
)
def test_malformed_checkpoints(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        CosignRequest.parse({**COSIGN, "checkpoints": [{**ITEM, **change}]})


@pytest.mark.parametrize("name", ["run", "round", "since"])
def test_a_missing_field(name: str) -> None:
    with pytest.raises(FormatError):
        PublishRequest.parse({key: value for key, value in PUBLISH.items() if key != name})
