"""Builds small, honest audit bundles with real keys, and lets a test play the dishonest operator.

`Federation` acts out a run of two regions and a server: every record is made and signed as in
production, and the other parties and an outside witness cosign each checkpoint. A test's
``alter`` may change any record just before it is signed, so that all that
follows is consistent with the lie; afterwards it may also change the logs themselves. `write` then
signs checkpoints, cosignatures and manifest anew, as all parties together could.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common import canonical_json
from common.audit.checkpoint import Checkpoint, add_cosignature, parse_note, sign_note
from common.audit.merkle import leaf_hash, root_hash
from common.audit.sparse_merkle import SparseMerkleTree, position
from common.envelope import Envelope, Signature, pae, sign_record
from common.keys import key_id
from common.parameters import arrays_digest, save_arrays
from common.timestamps import format_time, parse_time

FEDERATION = "test.example"
RUN = "run-1"
REGIONS = ("region-1", "region-2")
SERVER = "server"
OUTSIDE = "witness"
REGION_ROLES = ("log", "consent", "trainer", "permit", "controller", "witness")
SERVER_ROLES = ("log", "aggregator", "witness")
ROLE_OF_KIND = {
    "notice": "controller",
    "policy": "controller",
    "consent": "consent",
    "permit": "permit",
    "query": "permit",
    "answer": "trainer",
    "charge": "trainer",
    "round": "trainer",
    "release": "trainer",
    "mask": "trainer",
    "unmask": "trainer",
    "aggregate": "aggregator",
    "model": "aggregator",
    "manifest": "aggregator",
}
DISCARDED = "discarded-for-withdrawal"
# ε after 1 to 5 rounds at NOISE and DELTA, as dp-accounting's PLD gives it, rounded up.
EPSILONS = ("1.765649", "2.582274", "3.233198", "3.797417", "4.305842")
EPOCH_MS = 1_767_225_600_000  # 2026-01-01
DAY_MS = 86_400_000
NOISE, DELTA, CAP = "2.5", "1e-6", "8"
CHARGE_ROW = (
    "attempt",
    "charge_id",
    "clipping_norm",
    "mechanism",
    "model",
    "noise_multiplier",
    "permit_id",
    "purpose",
    "round",
    "run",
    "sampling_probability",
    "steps",
    "time",
)

JsonRecord = dict[str, Any]
Alter = Callable[[str, JsonRecord], None]


class MemorySigner:
    """A signing key made from a label: the same label gives the same key."""

    def __init__(self, label: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(label.encode()).digest())
        self.public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = key_id(self.public_key)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def ulid(label: str) -> str:
    """A ULID made from a label."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    value = int.from_bytes(hashlib.sha256(label.encode()).digest()[:16], "big")
    return "".join(alphabet[value >> 5 * place & 31] for place in reversed(range(26)))[:26]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def record_of(entry: bytes) -> JsonRecord:
    """The record of an envelope, read without any of the code under test."""
    return json.loads(base64.b64decode(json.loads(entry)["payload"]))


def envelope_of(payload: bytes, kind: str, *signers: MemorySigner) -> bytes:
    """An envelope over any payload, canonical or not."""
    payload_type = f"application/vnd.fedpref.{kind}+json"
    message = pae(payload_type, payload)
    signatures = tuple(Signature(signer.key_id, signer.sign(message)) for signer in signers)
    return Envelope(payload_type, payload, signatures).encode()


@dataclass
class Federation:
    """A federation, its keys and logs, and the run it acts out.

    Attributes:
        customers: Customers per region; of each four, one withdraws after round 1 and one refuses.
        rounds: Rounds of the run.
        planned_rounds: Rounds that the plan has, if they are not those of the run.
        quorum: The fewest regions of an aggregate.
        consent_age_max_s: The regions' policy for the age of consents.
        pause_ms: Time before each round, in milliseconds.
        witness_quorum: How many cosignatures the registry asks for.
        cosigners: The witnesses that cosign every log but their own.
        withdrawal_in_round: The regions' policy, ``finish`` or ``discard``; they keep to it unless
            ``sends_anyway``.
        notice_grace_s: The regions' policy for consents to superseded notices.
        issued_ms: When the next registry version is issued.
        before_round: Acts before a round, once it is due; gets its number.
        in_round: Acts in a region after its charge and before its round entry; gets both.
        alter: May change a record in place before it is signed; gets the party and the record.
    """

    customers: int = 4
    rounds: int = 2
    planned_rounds: int | None = None
    pause_ms: int = 1000
    quorum: int = 2
    consent_age_max_s: int = 600
    alter: Alter | None = None
    witness_quorum: int = 2
    cosigners: tuple[str, ...] = (*REGIONS, SERVER, OUTSIDE)
    withdrawal_in_round: str = "finish"
    issued_ms: int = EPOCH_MS - DAY_MS
    sends_anyway: bool = False
    notice_grace_s: int = 86_400
    before_round: Callable[[Federation, int], None] | None = None
    in_round: Callable[[Federation, str, int], None] | None = None
    clock_ms: int = EPOCH_MS
    logs: dict[str, list[bytes]] = field(default_factory=dict)
    checkpoints: dict[str, set[int]] = field(default_factory=dict)
    keys: dict[tuple[str, str], MemorySigner] = field(default_factory=dict)
    registry: list[bytes] = field(default_factory=list)
    plan: bytes = b""
    model: dict[str, np.ndarray] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.roots = [MemorySigner(f"root {number}") for number in range(3)]
        for party in (*REGIONS, SERVER):
            self.logs[party] = []
            self.checkpoints[party] = set()
            for role in SERVER_ROLES if party == SERVER else REGION_ROLES:
                self.keys[party, role] = MemorySigner(f"{party} {role}")
        self.keys[OUTSIDE, "witness"] = MemorySigner(f"{OUTSIDE} witness")
        # When a checkpoint was cosigned; those not named here, when they are written down.
        self.cosigned_ms: dict[tuple[str, int], int] = {}
        self._chains: dict[str, tuple[int, str]] = {}
        # For each subject that has consented, the notice; and from when each one has lapsed.
        self._granted: dict[str, dict[str, str]] = {region: {} for region in REGIONS}
        self._lapses_ms: dict[str, int] = {}
        self._ledger = dict.fromkeys(REGIONS, (0, "0" * 64))
        self._last_round: dict[str, str | None] = dict.fromkeys(REGIONS)
        self._permits: dict[str, JsonRecord] = {}
        self._notices: dict[str, tuple[str, str]] = {}

    def tick(self, ms: int = 1000) -> str:
        """The next moment, as a timestamp."""
        self.clock_ms += ms
        return format_time(self.clock_ms)

    def signer(self, party: str, kind: str) -> MemorySigner:
        if kind in ("incident", "keys-digest"):
            return self.keys[party, "aggregator" if party == SERVER else "trainer"]
        return self.keys[party, ROLE_OF_KIND[kind]]

    def log(self, party: str, record: JsonRecord) -> bytes:
        """Signs a record with its kind's key and appends it to the party's log."""
        if self.alter is not None:
            self.alter(party, record)
        if record["v"] == "fedpref-charge/1":
            # Whoever lies in a charge makes the ledger's head follow.
            previous = self._ledger[party][1]
            record["ledger_head"] = ledger_head(record, previous)
            self._ledger[party] = (record["ledger_seq"], record["ledger_head"])
        kind = record["v"].removeprefix("fedpref-").removesuffix("/1")
        entry = sign_record(record, self.signer(party, kind))
        self.logs[party].append(entry)
        return entry

    # -- the registry ------------------------------------------------------------------------

    def key_entries(self) -> list[JsonRecord]:
        return [
            {
                "key_id": signer.key_id,
                "public_key": signer.public_key.hex(),
                "party": party,
                "role": role,
                "not_before": format_time(EPOCH_MS - DAY_MS),
                "not_after": format_time(EPOCH_MS + 365 * DAY_MS),
                "revoked_at": None,
            }
            for (party, role), signer in sorted(self.keys.items())
        ]

    def publish_registry(self, keys: list[JsonRecord] | None = None) -> None:
        """Adds a registry version, signed by two of three root keys."""
        previous = hashlib.sha256(self.registry[-1]).hexdigest() if self.registry else None
        record = {
            "v": "fedpref-keys/1",
            "federation": FEDERATION,
            "registry_version": len(self.registry) + 1,
            "issued_at": format_time(self.issued_ms),
            "prev": previous,
            "witness_quorum": self.witness_quorum,
            "root": {
                "threshold": 2,
                "keys": [
                    {"key_id": root.key_id, "public_key": root.public_key.hex()}
                    for root in self.roots
                ],
            },
            "keys": self.key_entries() if keys is None else keys,
        }
        self.registry.append(sign_record(record, *self.roots[:2]))

    # -- the run -----------------------------------------------------------------------------

    def run(self) -> Federation:
        """Acts the whole run out."""
        self.publish_registry()
        self.plan = canonical_json.encode(self.plan_record())
        for region in REGIONS:
            self._prepare(region)
        for number in range(1, self.rounds + 1):
            self.clock_ms += self.pause_ms
            self._round(number)
            if number == 1:
                for region in REGIONS:
                    for customer in range(2, self.customers, 4):
                        self.consent(region, customer, "dpv:ConsentWithdrawn")
        self.log(
            SERVER,
            {
                "v": "fedpref-model/1",
                "run": RUN,
                "model": arrays_digest(self.model),
                "rounds": self.rounds,
                "plan": hashlib.sha256(self.plan).hexdigest(),
                "catalogue": digest("catalogue"),
                "time": self.tick(),
            },
        )
        self.artifacts = {
            "model.safetensors": save_arrays(self.model),
            "metrics.json": b'{"ndcg":"0.1"}',
            "history.json": b"[]",
        }
        return self

    def mechanisms(self) -> list[JsonRecord]:
        return [
            {"name": name, "rounds": rounds, "steps": 1, **parameters(), "grid_exponent": -12}
            for name, rounds in (
                ("popularity", [1]),
                ("factors", [*range(2, (self.planned_rounds or self.rounds) + 1)]),
            )
        ]

    def plan_record(self) -> JsonRecord:
        return {
            "v": "fedpref-plan/1",
            "run_id": RUN,
            "federation": FEDERATION,
            "mode": "local",
            "aggregation": {"rule": "sum", "tolerated": 0, "honest_survivors_min": 0},
            "early_stop": None,
            "regions": [*REGIONS],
            "quorum": self.quorum,
            "purpose": "fedpref:FederatedTraining",
            "model": "preference-model",
            "catalogue": digest("catalogue"),
            "epsilon": CAP,
            "delta": DELTA,
            "mechanisms": self.mechanisms(),
        }

    def _prepare(self, region: str) -> None:
        self.notice(region, supersede=False)
        self.policy(region)
        for customer in range(self.customers):
            refuses = customer % 4 == 3
            self.consent(region, customer, "dpv:ConsentRefused" if refuses else "dpv:ConsentGiven")
        self._permit(region)

    def policy(self, region: str) -> None:
        """Logs the region's policy as it is now."""
        policy = {
            "region": region,
            "purpose": "fedpref:FederatedTraining",
            "epsilon_cap_per_year": "10",
            "delta_max": DELTA,
            "noise_multiplier_min": "0.1",
            "clipping_norm_max": "1",
            "rounds_max": 64,
            "quorum_min": 1,
            "consent_age_max_s": self.consent_age_max_s,
            "withdrawal_in_round": self.withdrawal_in_round,
            "notice_grace_s": self.notice_grace_s,
            "modes": ["local"],
        }
        self.log(
            region,
            {
                "v": "fedpref-policy/1",
                "region": region,
                "policy": policy,
                "policy_sha256": hashlib.sha256(canonical_json.encode(policy)).hexdigest(),
                "in_force_from": self.tick(),
            },
        )

    def notice(self, region: str, *, supersede: bool = True) -> None:
        """Logs a notice, which takes the place of the last one from now on."""
        _, last = self._notices.get(region, ("", None))
        number = len([e for e in self.logs[region] if record_of(e)["v"] == "fedpref-notice/1"])
        record: JsonRecord = {
            "v": "fedpref-notice/1",
            "notice_id": f"pn-{number + 1}",
            "lang": "en",
            "controller": region,
            "purposes": ["fedpref:FederatedTraining"],
            "recipients": "none",
            "retention": "P1Y",
            "storage": "here",
            "contact": "a@b.example",
            "text": "We ask.",
            "supersedes": last if supersede else None,
            "in_force_from": format_time(self.clock_ms),
        }
        entry = self.log(region, record)
        self._notices[region] = (record["notice_id"], hashlib.sha256(entry).hexdigest())
        if record["supersedes"] is not None:
            since_ms = parse_time(record["in_force_from"])
            self._lapses_ms[record["supersedes"]] = since_ms + 1000 * self.notice_grace_s

    def sid(self, region: str, customer: int) -> str:
        return digest(f"sid {region} {customer}")

    def consent_record(self, region: str, customer: int, state: str) -> JsonRecord:
        """The next consent record of a customer."""
        sid = self.sid(region, customer)
        seq, prev = self._chains.get(sid, (0, None))
        notice_id, notice_sha256 = self._notices[region]
        return {
            "v": "fedpref-consent/1",
            "record_id": ulid(f"{sid} {seq + 1}"),
            "sid": sid,
            "seq": seq + 1,
            "prev": prev,
            "state": state,
            "type": "explicit",
            "purposes": {"fedpref:FederatedTraining": state == "dpv:ConsentGiven"},
            "legal_basis": "eu-gdpr:A6-1-a",
            "data": ["pd:PurchasesAndSpendingHabit"],
            "controller": region,
            "jurisdiction": "DE",
            "lang": "en",
            "notice": {"id": notice_id, "sha256": notice_sha256},
            "method": "web-form",
            "evidence": None,
            "minor": False,
            "guardian": None,
            "event_time": self.tick(1),
            "expires": format_time(EPOCH_MS + 90 * DAY_MS) if customer % 4 == 1 else None,
            "withdrawal": "mailto:a@b.example",
        }

    def consent(self, region: str, customer: int, state: str) -> None:
        """Logs a customer's choice."""
        record = self.consent_record(region, customer, state)
        entry = self.log(region, record)
        sid = self.sid(region, customer)
        self._chains[sid] = (record["seq"], hashlib.sha256(entry).hexdigest())
        self._granted[region].pop(sid, None)
        if state == "dpv:ConsentGiven":
            self._granted[region][sid] = record["notice"]["sha256"]

    def eligible(self, region: str, at_ms: int) -> list[str]:
        """Whose consent is in force; no consent of the acted run expires."""
        return [
            sid
            for sid, notice in self._granted[region].items()
            if self._lapses_ms.get(notice, at_ms + 1) > at_ms
        ]

    def _permit(self, region: str) -> None:
        self._permits[region] = {
            "v": "fedpref-permit/1",
            "permit_id": ulid(f"permit {region}"),
            "run": RUN,
            "region": region,
            "purpose": "fedpref:FederatedTraining",
            "model": "preference-model",
            "app": digest("app"),
            "engine": digest("engine"),
            "deps": digest("deps"),
            "plan": hashlib.sha256(self.plan).hexdigest(),
            "mechanisms": self.mechanisms(),
            "epsilon_cap": CAP,
            "delta": DELTA,
            "arrays": [
                {"mechanism": "popularity", "name": "popularity", "dtype": "<f4", "shape": [3]},
                {"mechanism": "factors", "name": "gradient", "dtype": "<f4", "shape": [3, 2]},
            ],
            "issued_at": self.tick(),
            "expires": format_time(EPOCH_MS + DAY_MS),
        }
        self.log(region, self._permits[region])

    def _round(self, number: int) -> None:
        mechanism = "popularity" if number == 1 else "factors"
        start, model_in = self.tick(), arrays_digest(self.model)
        if self.before_round is not None:
            self.before_round(self, number)
        tried = {region: self._region_round(region, number, mechanism) for region in REGIONS}
        parts = [part for part in tried.values() if part is not None]
        name = "popularity" if number == 1 else "item_factors"
        shape = (3,) if number == 1 else (3, 2)
        self.model = self.model | {name: np.full(shape, number, dtype="<f4")}
        self.log(
            SERVER,
            {
                "v": "fedpref-aggregate/1",
                "run": RUN,
                "round": number,
                "attempt": 1,
                "mechanism": mechanism,
                "rule": "sum",
                "mode": "local",
                "regions": parts,
                "refused": [
                    {"region": region, "reason": DISCARDED}
                    for region, part in tried.items()
                    if part is None
                ],
                "quorum": self.quorum,
                "signal": None,
                "model_in": model_in,
                "model_out": arrays_digest(self.model),
                "start": start,
                "end": self.tick(),
            },
        )

    def _region_round(self, region: str, number: int, mechanism: str) -> JsonRecord | None:
        start, at = self.tick(), self.tick()
        size = len(self.logs[region])
        self.checkpoints[region].add(size)
        self.cosigned_ms[region, size] = self.clock_ms
        nonce = digest(f"nonce {region} {number}")
        sids = self.eligible(region, parse_time(at))
        root = tree_root(self.logs[region]).hex()
        charge = self._charge(region, number, mechanism)
        if self.in_round is not None:
            self.in_round(self, region, number)
        gone = set(sids) - set(self.eligible(region, parse_time(at)))
        if gone and self.withdrawal_in_round == "discard" and not self.sends_anyway:
            self.incident(region, number, DISCARDED)
            return None
        permit = self._permits[region]
        shape = (3,) if number == 1 else (3, 2)
        update = {"popularity" if number == 1 else "gradient": np.ones(shape, dtype="<f4")}
        record = {
            "v": "fedpref-round/1",
            "run": RUN,
            "round": number,
            "attempt": 1,
            "region": region,
            "mechanism": mechanism,
            "prev_round": self._last_round[region],
            "consent": {
                "origin": f"{FEDERATION}/{region}",
                "size": size,
                "root": root,
            },
            "train": {
                "root": eligible_root(nonce, sids),
                "nonce": nonce,
                "n_bucket": bucket(len(sids)),
                "at": at,
            },
            "model_in": arrays_digest(self.model),
            "update": arrays_digest(update),
            **{name: permit[name] for name in ("app", "engine", "deps", "plan", "permit_id")},
            "charge_id": charge["charge_id"],
            "dp": {
                **parameters(),
                "steps": 1,
                "accountant": "dp-accounting PLD",
                "epsilon_total": charge["epsilon_total"],
                "delta": DELTA,
                "mode": "local",
                "honest_survivors_min": 0,
                "share_stddev": None,
            },
            "start": start,
            "end": self.tick(),
            "attestation": None,
        }
        entry = self.log(region, record)
        self._last_round[region] = leaf_hash(entry).hex()
        release = {
            "v": "fedpref-release/1",
            "run": RUN,
            "round": number,
            "attempt": 1,
            "region": region,
            "charge_id": charge["charge_id"],
            "update": record["update"],
            "arrays": [
                {"name": name, "dtype": "<f4", "shape": [*array.shape]}
                for name, array in update.items()
            ],
            "bytes": sum(array.nbytes for array in update.values()),
            "grid_exponent": -12,
            "time": record["end"],
        }
        self.log(region, release)
        return {
            "region": region,
            "round_entry": leaf_hash(entry).hex(),
            "update": record["update"],
        }

    def incident(self, party: str, number: int | None, reason: str) -> None:
        """Logs an incident of a round."""
        self.log(
            party,
            {
                "v": "fedpref-incident/1",
                "run": RUN,
                "round": number,
                "region": None if party == SERVER else party,
                "party": party,
                "reason": reason,
                "detail": "It was so.",
                "time": self.tick(),
            },
        )

    def _charge(self, region: str, number: int, mechanism: str) -> JsonRecord:
        seq, _ = self._ledger[region]
        epsilon = EPSILONS[number - 1]
        record = {
            "v": "fedpref-charge/1",
            "charge_id": ulid(f"charge {region} {number}"),
            "run": RUN,
            "model": self._permits[region]["model"],
            "purpose": self._permits[region]["purpose"],
            "region": region,
            "round": number,
            "attempt": 1,
            "mechanism": mechanism,
            **parameters(),
            "steps": 1,
            "honest_survivors_min": 0,
            "neighboring_relation": "add-or-remove-one-customer",
            "privacy_unit": "customer",
            "delta": DELTA,
            "epsilon_run": epsilon,
            "epsilon_total": epsilon,
            "epsilon_cap": "10",
            "ledger_seq": seq + 1,
            "permit_id": self._permits[region]["permit_id"],
            "time": self.tick(),
        }
        self.log(region, record)
        return record

    # -- what an operator can do afterwards ----------------------------------------------------

    def copy(self) -> Federation:
        """A copy whose logs and files can be changed."""
        return copy.deepcopy(self)

    def find(self, party: str, kind: str, number: int = 0) -> int:
        """The index of the n-th entry of a kind."""
        version = f"fedpref-{kind}/1"
        found = [i for i, entry in enumerate(self.logs[party]) if record_of(entry)["v"] == version]
        return found[number]

    def resign(self, party: str, index: int, change: Callable[[JsonRecord], None]) -> None:
        """Changes one logged record and signs it anew with the key it should have."""
        record = record_of(self.logs[party][index])
        change(record)
        kind = record["v"].removeprefix("fedpref-").removesuffix("/1")
        self.logs[party][index] = sign_record(record, self.signer(party, kind))

    def checkpoint(self, party: str, size: int) -> bytes:
        """The checkpoint of a size as the log itself signed it."""
        origin = f"{FEDERATION}/{party}"
        body = Checkpoint(origin, size, tree_root(self.logs[party][:size])).body()
        return sign_note(body, origin, self.keys[party, "log"]).encode()

    def cosign(self, party: str, note: bytes, cosigners: Iterable[str] | None = None) -> bytes:
        """Has the other parties cosign a note of a party's log, in the order of their names."""
        size = Checkpoint.parse(parse_note(note).text).size
        time_s = self.cosigned_ms.get((party, size), self.clock_ms) // 1000
        for witness in sorted(self.cosigners if cosigners is None else cosigners):
            if witness != party:
                signer = self.keys[witness, "witness"]
                note = add_cosignature(note, witness, signer, time_s=time_s).encode()
        return note

    def cosigned(self, party: str, size: int) -> bytes:
        return self.cosign(party, self.checkpoint(party, size))

    def cosigned_notes(self) -> dict[str, dict[int, bytes]]:
        """By party and size, every checkpoint that was cosigned."""
        if not self.cosigners:
            return {}
        return {
            party: {size: self.cosigned(party, size) for size in {len(log), *self.sizes(party)}}
            for party, log in self.logs.items()
        }

    def sizes(self, party: str) -> list[int]:
        return sorted(size for size in self.checkpoints[party] if size <= len(self.logs[party]))

    def witnessed(self) -> dict[str, dict[str, bytes]]:
        """By witness and party, the newest note that the witness holds, with its own line."""
        return {
            witness: {
                party: self.cosign(party, self.checkpoint(party, len(log)), [witness])
                for party, log in self.logs.items()
                if party != witness
            }
            for witness in self.cosigners
        }

    def log_files(self) -> dict[str, bytes]:
        """The logs' files as their bundle has them, with checkpoints signed now."""
        files: dict[str, bytes] = {}
        for party, entries in self.logs.items():
            folder = f"logs/{party}"
            files[f"{folder}/checkpoint"] = self.cosigned(party, len(entries))
            for size in self.sizes(party):
                files[f"{folder}/checkpoints/{size}"] = self.cosigned(party, size)
            for start in range(0, len(entries), 256):
                tile = entries[start : start + 256]
                name = tile_number(start // 256) + ("" if len(tile) == 256 else f".p/{len(tile)}")
                files[f"{folder}/tile/entries/{name}"] = b"".join(
                    len(entry).to_bytes(2, "big") + entry for entry in tile
                )
        return files

    def bundle_files(self) -> dict[str, bytes]:
        """Every file of the bundle but the manifest."""
        registry = {f"registry/{n}.json": data for n, data in enumerate(self.registry, start=1)}
        witnesses = {
            f"witnesses/{witness}/{party}": note
            for witness, notes in self.witnessed().items()
            for party, note in notes.items()
        }
        files = {**registry, "plan.json": self.plan, **self.log_files(), **witnesses}
        return files | self.files

    def manifest(self, files: dict[str, bytes]) -> bytes:
        record: JsonRecord = {
            "v": "fedpref-manifest/1",
            "federation": FEDERATION,
            "run": RUN,
            "scope": "regional",
            "created_at": format_time(self.clock_ms + 1000),
            "files": file_states(files),
            "artifacts": file_states(self.artifacts),
        }
        if self.alter is not None:
            self.alter("manifest", record)
        return sign_record(record, self.keys[SERVER, "aggregator"], max_bytes=1 << 26)

    def write(self, run_folder: Path, files: dict[str, bytes] | None = None) -> Path:
        """Writes a run folder with its bundle; the manifest is signed for what is written."""
        files = self.bundle_files() if files is None else files
        content = {f"bundle/{name}": data for name, data in files.items()}
        content["bundle/manifest.json"] = self.manifest(files)
        shutil.rmtree(run_folder / "bundle", ignore_errors=True)
        for name, data in (content | self.artifacts).items():
            path = run_folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return run_folder


def parameters() -> JsonRecord:
    return {"noise_multiplier": NOISE, "clipping_norm": "1.0", "sampling_probability": "1"}


def ledger_head(record: JsonRecord, previous: str) -> str:
    row = {name: record[name] for name in CHARGE_ROW}
    row |= {"seq": record["ledger_seq"], "previous_head": previous}
    return hashlib.sha256(canonical_json.encode(row)).hexdigest()


def tile_number(number: int) -> str:
    """A tile's number as C2SP tlog-tiles spells it: 1234067 is x001/x234/067."""
    parts = [f"{number % 1000:03d}"]
    while number := number // 1000:
        parts.insert(0, f"x{number % 1000:03d}")
    return "/".join(parts)


def bucket(count: int) -> str:
    low = 1 << (count.bit_length() - 1)
    return f"{low}-{2 * low - 1}"


def eligible_root(nonce: str, sids: Iterable[str]) -> str:
    positions = [position(bytes.fromhex(nonce), bytes.fromhex(sid)) for sid in sids]
    return SparseMerkleTree(positions).root.hex()


def tree_root(entries: list[bytes]) -> bytes:
    return root_hash([leaf_hash(entry) for entry in entries])


def file_states(files: dict[str, bytes]) -> JsonRecord:
    return {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
    }
