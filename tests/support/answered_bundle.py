"""A small honest bundle in which a region also answers a query of its own, two parts of it.

Customers 0 and 1 of each region consent to recommendations as well as to training; customer 2 gives
both up after round 1, and customer 3 refuses.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from common import canonical_json
from common.parameters import arrays_digest
from common.timestamps import format_time, parse_time
from tests.support.bundle_builder import (
    DELTA,
    EPOCH_MS,
    EPSILONS,
    FEDERATION,
    NOISE,
    REGIONS,
    Alter,
    JsonRecord,
    bucket,
    digest,
    eligible_root,
    tree_root,
    ulid,
)
from tests.support.customers import CustomersFederation

TRAINING, RECOMMENDATIONS = "fedpref:FederatedTraining", "dpv:ProvideProductRecommendations"
R1 = REGIONS[0]
SCENES, BIAS = "scenes", "regional-bias"
SHAPES = {SCENES: [4, 3], BIAS: [5]}
NAMES = {SCENES: "scenes", BIAS: "regional_popularity"}
QUERY_ID = ulid("query")
# One such charge alone gives ε = EPSILONS[0] = 1.765649.
POLICY_QUERIES = {SCENES: "1.8", BIAS: "1.8"}


def query_record() -> JsonRecord:
    """The query as the region signs it."""
    return {
        "v": "fedpref-query/1",
        "permit_id": QUERY_ID,
        "run": QUERY_ID,
        "region": R1,
        "requested_by": R1,
        "destination": "region",
        "purpose": RECOMMENDATIONS,
        "consented": [RECOMMENDATIONS, TRAINING],
        "model": "local-recommender",
        "catalogue": digest("catalogue"),
        "window": {"start": format_time(EPOCH_MS - 86_400_000), "end": format_time(EPOCH_MS)},
        "engine": digest("engine"),
        "deps": digest("deps"),
        "mechanisms": [
            {
                "name": name,
                "rounds": [number],
                "steps": 1,
                "noise_multiplier": NOISE,
                "clipping_norm": "1",
                "sampling_probability": "1",
                "grid_exponent": -10,
            }
            for number, name in enumerate(SHAPES, start=1)
        ],
        "arrays": [
            {"mechanism": name, "name": NAMES[name], "dtype": "<f4", "shape": shape}
            for name, shape in SHAPES.items()
        ],
        "parameters": {name: {} for name in SHAPES},
        "epsilon_cap": EPSILONS[1],
        "delta": DELTA,
        "issued_at": "",
        "expires": format_time(EPOCH_MS + 86_400_000),
    }


class AnsweringFederation(CustomersFederation):
    """A federation whose first region answers a query after the run.

    Attributes:
        counted: The customers who are in the answers, of those who stay.
    """

    counted: tuple[int, ...] = (0, 1)

    def answer_all(self) -> AnsweringFederation:
        """Acts the run out, then the query and both its answers."""
        self.run()
        query = query_record() | {"issued_at": self.tick()}
        self.log(R1, query)
        for number, name in enumerate(SHAPES, start=1):
            self.answer(query, number, name)
        return self

    def answer(self, query: JsonRecord, number: int, name: str) -> None:
        """Answers one part."""
        start, at = self.tick(), self.tick()
        size = len(self.logs[R1])
        self.checkpoints[R1].add(size)
        self.cosigned_ms[R1, size] = self.clock_ms
        root = tree_root(self.logs[R1]).hex()
        charge = self.charge_part(query, number, name)
        sids = [self.sid(R1, customer) for customer in self.counted if customer < self.customers]
        nonce = digest(f"answer nonce {number}")
        arrays = {NAMES[name]: np.ones(SHAPES[name], dtype="<f4")}
        self.log(
            R1,
            {
                "v": "fedpref-answer/1",
                "run": query["run"],
                "round": number,
                "attempt": 1,
                "region": R1,
                "mechanism": name,
                "consent": {"origin": f"{FEDERATION}/{R1}", "size": size, "root": root},
                "included": {
                    "root": eligible_root(nonce, sids),
                    "nonce": nonce,
                    "n_bucket": bucket(len(sids)),
                    "at": at,
                },
                **{each: query[each] for each in ("catalogue", "engine", "deps", "permit_id")},
                "charge_id": charge["charge_id"],
                "values": arrays_digest(arrays),
                "arrays": [{"name": NAMES[name], "dtype": "<f4", "shape": SHAPES[name]}],
                "bytes": int(np.prod(SHAPES[name])) * 4,
                "grid_exponent": -10,
                "dp": {
                    **{
                        each: charge[each]
                        for each in (
                            "noise_multiplier",
                            "clipping_norm",
                            "sampling_probability",
                            "steps",
                            "epsilon_total",
                            "delta",
                            "honest_survivors_min",
                        )
                    },
                    "accountant": "dp-accounting PLD",
                    "mode": "local",
                    "share_stddev": None,
                },
                "start": start,
                "end": self.tick(),
            },
        )

    def charge_part(self, query: JsonRecord, number: int, name: str) -> JsonRecord:
        """Charges one part."""
        seq, _ = self._ledger[R1]
        record: JsonRecord = {
            "v": "fedpref-charge/1",
            "charge_id": ulid(f"charge of a query {number}"),
            "run": query["run"],
            "model": query["model"],
            "purpose": query["purpose"],
            "region": R1,
            "round": number,
            "attempt": 1,
            "mechanism": name,
            "noise_multiplier": NOISE,
            "clipping_norm": "1",
            "sampling_probability": "1",
            "steps": 1,
            "honest_survivors_min": 0,
            "neighboring_relation": "add-or-remove-one-customer",
            "privacy_unit": "customer",
            "delta": DELTA,
            "epsilon_run": EPSILONS[number - 1],
            "epsilon_total": EPSILONS[self.rounds + number - 1],
            "epsilon_cap": "10",
            "ledger_seq": seq + 1,
            "permit_id": query["permit_id"],
            "time": self.tick(),
        }
        self.log(R1, record)
        return record


def answering(alter: Alter | None = None, **options: Any) -> AnsweringFederation:
    """A federation whose consents and policies know of recommendations and queries.

    Args:
        alter: May change a record before it is signed, after that.
        options: Of `Federation`.
    """

    def prepared(party: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-consent/1":
            given = record["state"] == "dpv:ConsentGiven"
            record["purposes"] = {TRAINING: given, RECOMMENDATIONS: given}
        elif record["v"] == "fedpref-policy/1":
            record["policy"]["queries"] = dict(POLICY_QUERIES)
        if alter is not None:
            alter(party, record)
        if record["v"] == "fedpref-policy/1":
            policy = canonical_json.encode(record["policy"])
            record["policy_sha256"] = hashlib.sha256(policy).hexdigest()

    federation = AnsweringFederation(**options)
    federation.alter = prepared
    return federation


def at_ms(record: JsonRecord, name: str) -> int:
    """A time that a record states, in milliseconds since the epoch."""
    return parse_time(str(record[name]))
