"""The other parties of a provisioned federation, as they cosign a region's checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from client.engine.service import PrivacyEngine
from common.audit.checkpoint import add_cosignature, parse_note
from common.canonical_json import JsonValue
from common.keys import Signer, load_key

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
OTHERS = ("server", "witness")


def witness_signer(run: Path, party: str) -> Signer:
    """A party's witness key in a run's folder."""
    home = run / party if party in OTHERS else run / "regions" / party
    return load_key(
        home / "keys" / "witness.pem", (home / "keys" / "passphrase").read_bytes().strip()
    )


def cosignatures(
    run: Path, note: str, parties: Sequence[str] = OTHERS, *, time_s: int | None = None
) -> list[str]:
    """Signature lines of these parties under a checkpoint."""
    at = int(time.time()) if time_s is None else time_s
    return [
        parse_note(
            add_cosignature(note.encode(), party, witness_signer(run, party), time_s=at).encode()
        )
        .signatures[-1]
        .line
        for party in parties
    ]


def publish(engine: PrivacyEngine, header: Mapping[str, JsonValue]) -> Header:
    """Asks for the checkpoint that a round begins with."""
    request: Header = {"run": header["run"], "round": header["round"], "since": []}
    return engine.call("publish", request, {})[0]


def witnessed(
    engine: PrivacyEngine,
    header: Mapping[str, JsonValue],
    parties: Sequence[str] = OTHERS,
    *,
    time_s: int | None = None,
) -> Header:
    """A train request with the cosignatures of the checkpoint published for it."""
    note = str(publish(engine, header)["checkpoint"])
    run = engine.home.root.parent.parent
    lines: list[JsonValue] = [*cosignatures(run, note, parties, time_s=time_s)]
    return {**header, "cosignatures": lines}


def ask(
    engine: PrivacyEngine, header: Mapping[str, JsonValue], arrays: Mapping[str, np.ndarray]
) -> tuple[Header, Arrays]:
    """One whole round: publish, cosign, train."""
    return engine.call("train", witnessed(engine, header), arrays)
