"""The attacks on a deployment of stock Flower, each with what it gets there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from simulations.deployment_attacks.apps import agreed, reader
from simulations.deployment_attacks.bundles import bundle_of
from simulations.deployment_attacks.outcome import Found, Outcome
from simulations.deployment_attacks.stock_federation import (
    NOISE_MULTIPLIER,
    REGIONS,
    StockFederation,
)
from simulations.deployment_attacks.wire import packed, unpacked

#: How large the request is that is too large.
FLOOD_BYTES = 300_000_000
_ANSWER_S = 90.0
_POPULARITY = "popularity"
_ZEROS = packed(np.zeros(agreed.N_ITEMS))
_VICTIM, _HOSTILE = REGIONS


def stolen_ca(stock: StockFederation) -> Outcome:
    """Whoever has the authority's public certificate starts a run and is its coordinator."""
    found = stock.attack("coordinate", nodes=len(REGIONS), asks=[_train()])
    got = [each["node"] for each in _answers(found) if each.get("arrays")]
    return Outcome(
        sorted(got) == sorted(REGIONS),
        f"takes the ServerApp's task with the CA's certificate alone; {len(got)} of "
        f"{len(REGIONS)} regions train for it",
        figures={"regions_that_answered": sorted(got)},
    )


def evil_bundle(stock: StockFederation) -> Outcome:
    """A bundle that reads the region's files and sends them."""
    victim = stock.nodes[_VICTIM]
    wanted = [str(victim.store), str(victim.key)]
    ask = {
        "type": "query",
        "records": {reader.WANTED: {"paths": json.dumps(wanted)}},
        "timeout_s": _ANSWER_S,
        "of": [_VICTIM],
    }
    found = _run_bundle(stock, "evil", bundle_of(reader), ask)
    files = _files(found)
    got = [path for path in wanted if files.get(path) == Path(path).read_bytes()]
    return Outcome(
        got == wanted,
        f"{len(got)} of {len(wanted)} files arrive whole: the store with every purchase, and the "
        "node's private key",
        figures={"files_read": len(got), "bytes": sum(len(files[path]) for path in got)},
    )


def unpermitted_bundle(stock: StockFederation) -> Outcome:
    """The agreed app with one line added: another bundle, which no region has agreed to."""
    other = bundle_of(agreed, config={"noise-multiplier": NOISE_MULTIPLIER}, note="another bundle")
    found = _run_bundle(stock, "unpermitted", other, _train())
    ran = sorted(each["node"] for each in _answers(found) if each.get("arrays"))
    return Outcome(
        ran == sorted(REGIONS),
        f"{len(ran)} of {len(REGIONS)} regions run a bundle that they have never seen",
        figures={"regions_that_ran_it": ran},
    )


def lowered_noise(stock: StockFederation) -> Outcome:
    """The agreed app, with σ set to nothing in the run's configuration."""
    found = stock.attack(
        "coordinate", nodes=len(REGIONS), config={"noise-multiplier": 0.0}, asks=[_train()]
    )
    exact = [
        each["node"]
        for each in _answers(found)
        if each.get("arrays")
        and unpacked(each["arrays"][_POPULARITY]).tolist() == stock.nodes[each["node"]].counts()
    ]
    return Outcome(
        sorted(exact) == sorted(REGIONS),
        f"run_config turns σ = {NOISE_MULTIPLIER:g} into 0: {len(exact)} of {len(REGIONS)} regions "
        "send their exact counts",
        figures={"regions_without_noise": sorted(exact)},
    )


def extra_tensor(stock: StockFederation) -> Outcome:
    """An answer that has a tensor more than was agreed: the purchases themselves."""
    found = _run_bundle(stock, "extra", bundle_of(reader), _train(of=(_VICTIM,)))
    tensors = {name: each for answer in _answers(found) for name, each in answer["arrays"].items()}
    rows = unpacked(tensors[reader.EXTRA]).tobytes() if reader.EXTRA in tensors else b""
    return Outcome(
        rows == stock.nodes[_VICTIM].store.read_bytes(),
        f"a tensor of {len(rows)} bytes arrives beside the update, with the store's rows: nothing "
        "says which tensors may leave",
        figures={"tensors": sorted(tensors), "bytes": len(rows)},
    )


def replayed_message(stock: StockFederation) -> Outcome:
    """A region's node sends its first update again in the next round, and FedAvg takes it."""
    first = np.arange(agreed.N_ITEMS, dtype=np.float64)
    update = {"arrays": {_POPULARITY: packed(first)}, "metrics": {"num-examples": 1}}
    with (
        stock.in_place_of(_HOSTILE) as hostile,
        stock.start(
            "replay",
            account=hostile.account,
            key=str(hostile.key),
            kind="train",
            update=update,
            times=2,
            seconds=2 * _ANSWER_S,
        ) as replaying,
    ):
        asks = [_train(averages=True), _train(averages=True)]
        rounds = stock.operate(nodes=len(REGIONS), asks=asks).get("rounds", [])
        sent = replaying.found()
    counted = sum(_has_in_average(each, first) for each in rounds)
    return Outcome(
        counted == len(asks) and sent["again"] == 1,
        "the update of round 1 is averaged again as round 2's: a reply says nothing of its round",
        figures={
            "rounds_it_counted_in": counted,
            "answers": [
                {answer["node"]: answer.get("error", "update") for answer in each["answers"]}
                for each in rounds
            ],
        },
    )


def _has_in_average(answered: Found, update: np.ndarray) -> bool:
    others = [
        unpacked(each["arrays"][_POPULARITY])
        for each in answered["answers"]
        if each["node"] != _HOSTILE and each.get("arrays")
    ]
    if len(others) != len(REGIONS) - 1 or "average" not in answered:
        return False
    expected = np.mean([update, *others], axis=0)
    return bool(np.allclose(unpacked(answered["average"][_POPULARITY]), expected))


def wrong_node_key(stock: StockFederation) -> Outcome:
    """A key that nobody registered: its owner registers it, with the CA's certificate."""
    found = stock.attack("register-key", name="stranger")
    return Outcome(
        found["hello_after"] == "accepted",
        f"the key is refused ({found['hello']}), so its owner registers it at the same port, and "
        "is a node",
        figures=found,
    )


def revoked_region(stock: StockFederation) -> Outcome:
    """A region that was taken off the list puts itself back on it."""
    stock.unregister(_VICTIM)
    found = stock.attack(
        "register-key", account=stock.nodes[_VICTIM].account, name=f"{_VICTIM}-again"
    )
    return Outcome(
        found["hello_after"] == "accepted",
        "the revoked region registers a new key itself, and is a node again",
        figures=found,
    )


def oversized_message(stock: StockFederation) -> Outcome:
    """A request without any credentials that is far too large."""
    before = stock.superlink_peak_bytes()
    found = stock.attack("flood", path="/v1/fleet/push-messages", bytes=FLOOD_BYTES)
    grown = stock.superlink_peak_bytes() - before
    return Outcome(
        grown >= FLOOD_BYTES and found["sent_bytes"] >= FLOOD_BYTES,
        f"{FLOOD_BYTES / 1e6:.0f} MB from nobody are taken into memory before anyone asks who "
        f"sends them: the SuperLink grows by {grown / 1e6:.0f} MB",
        figures={"sent_bytes": found["sent_bytes"], "grown_bytes": grown},
    )


def local_user(stock: StockFederation) -> Outcome:
    """Another user of a node's machine takes its task, and answers in its name."""
    # The other region may have been removed by now.
    forged = np.full(agreed.N_ITEMS, -1.0)
    with stock.start(
        "seize-client-task",
        address=stock.nodes[_HOSTILE].runtime,
        ca=None,
        answer={"arrays": {_POPULARITY: packed(forged)}},
        seconds=_ANSWER_S,
    ) as taking:
        found = stock.operate(nodes=1, asks=[_train(of=(_HOSTILE,))])
        took = taking.found()
    believed = [
        each
        for each in _answers(found)
        if each.get("arrays") and np.array_equal(unpacked(each["arrays"][_POPULARITY]), forged)
    ]
    return Outcome(
        bool(believed) and "took" in took,
        "another user takes the task at the node's loopback port, reads the model, and its forged "
        "update counts as the region's",
        figures={"took": took.get("took", took.get("refused"))},
    )


def _train(*, of: tuple[str, ...] = REGIONS, **more: Any) -> Found:
    arrays = {_POPULARITY: _ZEROS}
    return {"type": "train", "arrays": arrays, "timeout_s": _ANSWER_S, "of": list(of), **more}


def _run_bundle(stock: StockFederation, name: str, bundle: bytes, ask: Found) -> Found:
    """What comes of one message in a run of the attacker's own bundle."""
    path = stock.attacker.give(f"{name}.fab", bundle)
    return stock.attack("coordinate", bundle=str(path), nodes=len(REGIONS), asks=[ask])


def _files(found: Found) -> dict[str, bytes]:
    """By path the files that a reading bundle brought."""
    return {
        path: unpacked(answer["arrays"][array]).tobytes()
        for answer in _answers(found)
        for path, array in json.loads(answer["records"][reader.FOUND]["json"]).items()
        if array in answer["arrays"]
    }


def _answers(found: Found) -> list[Found]:
    return [each for asked in found.get("rounds", []) for each in asked["answers"]]
