"""A federation of fake engines that take part in secure sums, faithfully at the channel.

Tests make one misbehave by its hooks: before its statement is signed, before its mask is made,
after its reply is.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common.audit.entry import make_entry
from common.audit.merkle import leaf_hash
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.secure_aggregation import (
    MaskContext,
    MaskingKey,
    MaskingStatement,
    Roster,
    RoundContext,
    add_pairwise_masks,
    decode_roster,
    from_ring,
    make_statement,
    open_statement,
    shared_secret,
    to_ring,
)
from common.secure_aggregation.mask_entry import entry_parts
from common.timestamps import format_time, now_ms
from tests.support.fake_federation import (
    FEDERATION,
    Arrays,
    FakeEngine,
    FakeFederation,
    Header,
    open_federation,
)


def secure_plan(n_regions: int = 4, *, quorum: int = 3, **changes: Any) -> RunPlan:
    """A confidential plan of three rounds over 30 items."""
    arguments: dict[str, Any] = {
        "run_id": "run-1",
        "federation": FEDERATION,
        "scenario": "test",
        "regions": [f"region-{number}" for number in range(1, n_regions + 1)],
        "quorum": quorum,
        "catalogue": "c" * 64,
        "n_items": 30,
        "train_from": "2017-01-01T00:00:00.000Z",
        "train_until": "2017-12-01T00:00:00.000Z",
        "epsilon": "1",
        "planned_customers": 60,
        "round_timeout_s": 20,
        "rule": "secure-sum",
    }
    return default_plan(**(arguments | changes))


class SecureFakeEngine(FakeEngine):
    """One region's engine in confidential runs.

    Attributes:
        tamper_statement: Changes what is said of the key before it is signed; gives the fields.
        statement_signer: Who signs it instead of the region.
        tamper_offer: Changes the reply to a training request.
        before_mask: Runs before a mask request is answered; may raise or hang.
        tamper_vector: Changes the masked vector before it is digested and logged.
        tamper_entry: Changes the mask entry before it is signed.
        tamper_mask: Changes the answer to a mask request.
        masked: The attempt and the regions of each mask that was made, by round.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tamper_statement: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        self.statement_signer = self.trainer
        self.tamper_offer: Callable[[Header, Arrays], tuple[Header, Arrays]] | None = None
        self.before_mask: Callable[[int], None] | None = None
        self.tamper_vector: Callable[[np.ndarray], np.ndarray] | None = None
        self.tamper_entry: Callable[[Header], None] | None = None
        self.tamper_mask: Callable[[Header, Arrays], tuple[Header, Arrays]] | None = None
        self.masked: dict[int, list[tuple[int, tuple[str, ...]]]] = {}
        self.keys: dict[int, MaskingKey] = {}

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        if method == "mask":
            self.asked.append((method, header.get("round")))
            return self._mask(header)
        reply, answered = super().call(method, header, arrays)
        if method != "train" or reply["status"] != "ok":
            return reply, answered
        number = int(str(header["round"]))
        offer = {**reply, **self._offer(number, arrays_digest(arrays))}
        return self.tamper_offer(offer, answered) if self.tamper_offer else (offer, {})

    def _offer(self, number: int, model_in: str) -> Header:
        key = self.keys.setdefault(number, MaskingKey.generate())
        said: dict[str, Any] = {
            "context": RoundContext.of(self.plan, number, model_in),
            "region": self.region,
            "round_entry": leaf_hash(self.sealed[number][0]).hex(),
            "public_key": key.public,
        }
        if self.tamper_statement is not None:
            said = self.tamper_statement(said)
        statement = make_statement(MaskingStatement(**said), self.statement_signer)
        masks = self.masked.get(number)
        newest: Header | None = None
        if masks:
            newest = {"attempt": masks[-1][0], "regions": [*masks[-1][1]]}
        return {"masking_key": base64.b64encode(statement).decode(), "masked": newest}

    def _mask(self, header: Header) -> tuple[Header, Arrays]:
        number, attempt = int(str(header["round"])), int(str(header["attempt"]))
        if self.before_mask is not None:
            self.before_mask(number)
        roster = decode_roster(header["roster"])
        context = open_statement(roster.envelopes[0]).context
        self.masked.setdefault(number, []).append((attempt, roster.regions))
        vector = self._vector(number, attempt, roster, context)
        if self.tamper_vector is not None:
            vector = self.tamper_vector(vector)
        mechanism = self.plan.mechanism_of(number)
        arrays: Arrays = {**from_ring(vector, self.plan.released_arrays(mechanism.name))}
        reply = self._mask_reply(header, roster, context, arrays)
        return self.tamper_mask(reply, arrays) if self.tamper_mask else (reply, arrays)

    def _vector(
        self, number: int, attempt: int, roster: Roster, context: RoundContext
    ) -> np.ndarray:
        secrets = {
            each.region: shared_secret(self.keys[number], each.public_key)
            for each in roster.statements
            if each.region != self.region
        }
        vector = to_ring(self.sealed[number][2], context.quantiser)
        add_pairwise_masks(
            vector, self.region, secrets, MaskContext(attempt, roster.digest(context))
        )
        return vector

    def _mask_reply(
        self, header: Header, roster: Roster, context: RoundContext, arrays: Arrays
    ) -> Header:
        record: Header = {
            "v": "fedpref-mask/1",
            "run": header["run"],
            "round": header["round"],
            "attempt": header["attempt"],
            "region": self.region,
            "roster": roster.digest(context),
            "members": [*roster.members()],
            "masked": arrays_digest(arrays),
            "bytes": sum(array.nbytes for array in arrays.values()),
            "norm_bound": "1",
            "time": format_time(now_ms()),
        }
        stated = {name: record[name] for name in ("run", "round", "attempt", "region", "roster")}
        stated["masked"] = record["masked"]
        if self.tamper_entry is not None:
            self.tamper_entry(record)
        entry = make_entry(record, self.trainer)
        (index,) = self.log.append([entry])
        size = self.log.size
        return {
            "status": "ok",
            **stated,
            "mask_entry": entry_parts(entry),
            "leaf_index": index,
            "checkpoint": self.log.checkpoint_at(size).decode(),
            "inclusion_proof": [node.hex() for node in self.log.inclusion_proof(index, size)],
        }


class SecureFederation(FakeFederation):
    """A federation whose engines are `SecureFakeEngine`."""

    engines: dict[str, SecureFakeEngine]  # type: ignore[assignment]


@contextmanager
def open_secure(folder: Path, plan: RunPlan, **how: Any) -> Iterator[SecureFederation]:
    """Makes a federation whose engines take part in secure sums."""
    with open_federation(folder, plan, engine_type=SecureFakeEngine, **how) as federation:
        federation.run_config["mask-timeout-s"] = 1.0
        yield federation  # type: ignore[misc]
