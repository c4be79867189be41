"""Every answer that may leave a region, made up in its form: to be spoilt by tests."""

from __future__ import annotations

import base64

import numpy as np

from common.canonical_json import JsonValue
from common.double_masking.shamir import SHARE_BYTES

DIGEST = "0123456789abcdef" * 4
ORIGIN = "shop.example/region-1"
NOTE = f"{ORIGIN}\n7\n{base64.b64encode(bytes(32)).decode()}\n\n— {ORIGIN} AAAA\n"
LINE = f"— region-1 {base64.b64encode(bytes(76)).decode()}\n"
OK: dict[str, JsonValue] = {"status": "ok", "region": "region-1"}
CONTEXT: dict[str, JsonValue] = {**OK, "run": "run-1", "round": 2, "attempt": 1}
LOGGED: dict[str, JsonValue] = {"leaf_index": 5, "checkpoint": NOTE, "inclusion_proof": [DIGEST]}
ENTRY = base64.b64encode(b"an envelope").decode()
CIPHERTEXT = base64.b64encode(bytes(2 * SHARE_BYTES + 16)).decode()
SHARE = "ab" * SHARE_BYTES
TRAIN: dict[str, JsonValue] = {
    **CONTEXT,
    **LOGGED,
    "mechanism": "tied-autoencoder",
    "update": DIGEST,
    "round_entry": ENTRY,
}
PARTS: dict[str, JsonValue] = {
    "norm_bound": "12.5",
    "time": "2026-01-01T00:00:00.000Z",
    "key_id": DIGEST,
    "signature": base64.b64encode(bytes(64)).decode(),
}
ARRAYS = {"popularity": np.ones(3, "<f4")}
MASKED = {"popularity": np.ones(3, "<i4")}

#: Every answer that may leave, by method: the header, and arrays where there may be some.
ANSWERS: list[tuple[str, dict[str, JsonValue], dict[str, np.ndarray]]] = [
    (
        "describe",
        {"region": "region-1", "protocol": 1, "engine": DIGEST, "trainer_key": DIGEST},
        {},
    ),
    ("publish", {**OK, "checkpoint": NOTE, "proofs": {"0": [], "5": [DIGEST, DIGEST]}}, {}),
    (
        "cosign",
        {
            **OK,
            "cosignatures": [
                {"origin": "shop.example/server", "size": 3, "line": LINE},
                {"origin": "shop.example/region-2", "size": 3, "refused": "stale"},
            ],
        },
        {},
    ),
    ("keep", {**OK, "kept": 2}, {}),
    ("admit", OK, {}),
    ("report", OK, {}),
    ("train", TRAIN, ARRAYS),
    ("train", {**TRAIN, "masking_key": ENTRY, "masked": None}, {}),
    (
        "train",
        {**TRAIN, "masking_key": ENTRY, "masked": {"attempt": 1, "regions": ["region-1"]}},
        {},
    ),
    ("train", {**TRAIN, "attempted": 0}, {}),
    (
        "mask",
        {**CONTEXT, **LOGGED, "roster": DIGEST, "masked": DIGEST, "mask_entry": PARTS},
        MASKED,
    ),
    ("execute", {**CONTEXT, "step": "pin", "keys": ENTRY}, {}),
    (
        "execute",
        {
            **CONTEXT,
            "step": "share",
            "shares": {
                "statement": ENTRY,
                "commitments": {"region-2": [DIGEST, DIGEST]},
                "ciphertexts": {"region-2": CIPHERTEXT},
            },
        },
        {},
    ),
    (
        "execute",
        {
            **CONTEXT,
            **LOGGED,
            "step": "mask",
            "roster": DIGEST,
            "masked": DIGEST,
            "mask_entry": ENTRY,
        },
        MASKED,
    ),
    ("execute", {**CONTEXT, "step": "agree", "agreement": ENTRY}, {}),
    (
        "execute",
        {
            **CONTEXT,
            "step": "unmask",
            "reveal": {"seed_shares": {"region-1": SHARE}, "key_shares": {"region-2": SHARE}},
        },
        {},
    ),
    ("train", {"status": "refused", "region": "region-1", "reason": "budget-exhausted"}, {}),
    ("train", {"status": "refused", "reason": "engine-unreachable"}, {}),
]
