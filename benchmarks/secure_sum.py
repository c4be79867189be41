"""What a secure sum costs beside an open one: 50 regions, a million parameters.

Each side does in it what it does in a round, with real keys, statements and messages: the region
from the request's arrival to its answer, the coordinator from the answers to the values that the
next model is made of. What both do in an open round too, training, sealing, logging, is left out.
"""

from __future__ import annotations

import base64
import math
import time
from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict

from benchmarks.results import Bar, Figure
from client.engine.request import MaskRequest
from common.canonical_json import JsonValue
from common.messages import decode_message, encode_message, parse_message
from common.parameters import ArraySpec, arrays_digest
from common.secure_aggregation import (
    MaskContext,
    MaskingKey,
    Roster,
    RoundContext,
    add_pairwise_masks,
    encode_roster,
    from_ring,
    ring_values,
    shared_secret,
    to_ring,
)
from common.secure_aggregation.quantiser import ring_specs
from server.reply_checks import check_specs
from server.secure_sum import _RingTotal
from tests.support.masked_sum import AT_MS, context, keys, names, registry, roster_of

N_REGIONS = 50
N_PARAMETERS = 1_000_000
_ARRAY = "change_items"
_SPECS = (ArraySpec(_ARRAY, "<f4", (N_PARAMETERS,)),)
_FP32_BYTES = 4

REGION_CPU = Bar("secure sum, 50 regions × 1M parameters: one region", "CPU-s", 1.0)
SERVER_CPU = Bar("secure sum, 50 regions × 1M parameters: coordinator", "CPU-s", 2.0)
OVERHEAD = Bar("secure sum, 50 regions × 1M parameters: bytes beyond fp32", "%", 1.0)

BARS = (REGION_CPU, SERVER_CPU, OVERHEAD)


@dataclass(frozen=True)
class _Sent:
    """A message's content as it travels, and its bytes."""

    content: RecordDict

    @property
    def n_bytes(self) -> int:
        arrays = [a for record in self.content.array_records.values() for a in record.values()]
        headers = [v for record in self.content.config_records.values() for v in record.values()]
        return sum(len(a.data) for a in arrays) + sum(
            len(value) for value in headers if isinstance(value, bytes)
        )


def measure() -> dict[str, Figure]:
    """Measures every bar of this area; takes some ten seconds."""
    regions, of = names(N_REGIONS), context(N_REGIONS)
    held = keys(regions)
    roster = roster_of(of, held)
    request = _Sent(encode_message(_request(of, roster), {}))
    generator = np.random.default_rng(1)
    replies, region_s, plain = [], [], np.zeros(N_PARAMETERS)
    for region in regions:
        steps = generator.integers(-(2**20), 2**20, N_PARAMETERS).astype(np.float32)
        sealed = np.ldexp(steps, of.quantiser.grid_exponent)
        plain += sealed
        began_s = time.process_time()
        replies.append(_answer(region, request, sealed, held[region], of))
        region_s.append(time.process_time() - began_s)
    began_s = time.process_time()
    total = _summed(replies, of)
    server_s = time.process_time() - began_s
    if not np.array_equal(total, plain):
        raise AssertionError("the secure sum is not the plain sum")
    sent = request.n_bytes + max(reply.n_bytes for reply in replies) + _statement_bytes(roster)
    overhead = 100 * (sent / (_FP32_BYTES * N_PARAMETERS) - 1)
    beside = f"roster and proofs are {sent - _FP32_BYTES * N_PARAMETERS:,} B both ways together"
    return {
        REGION_CPU.name: Figure(max(region_s), f"median {sorted(region_s)[N_REGIONS // 2]:.3f}"),
        SERVER_CPU.name: Figure(server_s, f"the plain sum of as many arrays: {_plain_s():.3f}"),
        OVERHEAD.name: Figure(overhead, beside),
    }


def _request(of: RoundContext, roster: Roster) -> dict[str, JsonValue]:
    return {
        "run": of.run,
        "round": of.server_round,
        "attempt": 1,
        "roster": encode_roster(roster),
    }


def _answer(
    region: str, request: _Sent, sealed: np.ndarray, key: MaskingKey, of: RoundContext
) -> _Sent:
    """All that a region does of a secure sum for one request."""
    header, _ = decode_message(request.content)
    asked = MaskRequest.parse(header)
    asked.roster.check(
        of, planned=names(N_REGIONS), least=N_REGIONS, registry=registry(N_REGIONS), at_ms=AT_MS
    )
    secrets = {
        each.region: shared_secret(key, each.public_key)
        for each in asked.roster.statements
        if each.region != region
    }
    vector = to_ring({_ARRAY: sealed}, of.quantiser)
    add_pairwise_masks(vector, region, secrets, MaskContext(asked.attempt, asked.roster.digest(of)))
    arrays = from_ring(vector, _SPECS)
    # As long as the rest of an answer: the entry's signature, the proof that it is logged.
    stated: dict[str, JsonValue] = {
        "masked": arrays_digest({**arrays}),
        "mask_entry": "0" * 300,
        "inclusion_proof": ["0" * 64] * 20,
        "checkpoint": "0" * 400,
        "rest": "0" * 500,
    }
    return _Sent(encode_message(stated, {**arrays}))


def _summed(replies: list[_Sent], of: RoundContext) -> np.ndarray:
    """All that a coordinator does with the answers of a secure sum, but for their entries."""
    total = _RingTotal(N_PARAMETERS)
    for reply in replies:
        limit = sum(_FP32_BYTES * math.prod(spec.shape) + 512 for spec in _SPECS)
        header, received = parse_message(reply.content, max_array_bytes=limit)
        arrays = check_specs(received, ring_specs(_SPECS))
        if arrays_digest(arrays) != header["masked"]:
            raise AssertionError("a masked update is not what its digest states")
        total.add(arrays)
    return np.concatenate(list(ring_values(total.vector, of.quantiser, n_summed=len(replies))))


def _statement_bytes(roster: Roster) -> int:
    """What a region's answer to a training request has for a secure sum, in base64."""
    return max(len(base64.b64encode(each.encode())) for each in roster.envelopes)


def _plain_s() -> float:
    """Processor time of the plain sum of as many arrays of float32."""
    array = np.ones(N_PARAMETERS, np.float32)
    total = np.zeros(N_PARAMETERS)
    began_s = time.process_time()
    for _ in range(N_REGIONS):
        total += array
    return time.process_time() - began_s
