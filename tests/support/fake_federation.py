"""A server home on disk, and engines that sign, log and seal but release seeded draws.

The engines are faithful at the channel: real keys, real logs, real round entries, the same sealed
bytes for a repeated request. Tests set their hooks to make them misbehave.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from client.app import app as client_app
from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.audit.witness.registry_logs import RegistryLogs
from common.audit.witness.store import WitnessStore
from common.audit.witness.witness import ConflictError, StaleSizeError, Witness
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.engine_channel import register_channel
from common.envelope import Envelope, sign_record
from common.errors import FedprefError
from common.keys import Signer, build_registry, generate_key
from common.parameters import arrays_digest, load_arrays, snap_to_grid
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.timestamps import format_time, now_ms
from server.app import app as server_app
from server.audit_trail import AuditTrail, open_audit_trail
from server.config import ServerHome
from simulations.in_process_grid import ReplyHook, run_in_process
from tests.support.memory_signer import MemorySigner

FEDERATION = "test.example"
NO_DIGEST = "0" * 64
Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


def fake_plan(
    n_regions: int = 3, *, quorum: int = 2, run_id: str = "run-1", round_timeout_s: int = 60
) -> RunPlan:
    """A plan of three rounds over 30 items."""
    return default_plan(
        run_id=run_id,
        federation=FEDERATION,
        scenario="test",
        regions=[f"region-{number}" for number in range(1, n_regions + 1)],
        quorum=quorum,
        catalogue="c" * 64,
        n_items=30,
        train_from="2017-01-01T00:00:00.000Z",
        train_until="2017-12-01T00:00:00.000Z",
        epsilon="1",
        planned_customers=60,
        round_timeout_s=round_timeout_s,
    )


class FakeEngine:
    """One region's engine at the channel.

    Attributes:
        asked: Each (method, round) that was asked.
        before_train: Runs before a train request is answered; may raise or hang.
        tamper_arrays: Changes what is released, before it is digested and signed.
        tamper_record: Changes the round record before it is signed.
        tamper_reply: Changes the reply after it was made.
        tamper_answer: Changes the answer to publish, cosign or keep.
        published: The size published for each round.
        cosigned: The cosignatures that each round's request came with.
        kept: The cosignatures to keep, by size.
    """

    def __init__(
        self,
        plan: RunPlan,
        region: str,
        log: AuditLog,
        trainer: Signer,
        seed: int,
        witness: Witness,
    ) -> None:
        self.plan = plan
        self.region = region
        self.log = log
        self.trainer = trainer
        self.seed = seed
        self.witness = witness
        self.asked: list[tuple[str, object]] = []
        self.before_train: Callable[[int], None] | None = None
        self.tamper_arrays: Callable[[Arrays], Arrays] | None = None
        self.tamper_record: Callable[[Header], None] | None = None
        self.tamper_reply: Callable[[Header, Arrays], tuple[Header, Arrays]] | None = None
        self.tamper_answer: Callable[[str, Header], Header] | None = None
        self.sealed: dict[int, tuple[bytes, int, Arrays]] = {}
        self.published: dict[object, int] = {}
        self.cosigned: dict[object, list[str]] = {}
        self.kept: dict[int, list[str]] = {}

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        self.asked.append((method, header.get("round")))
        if method == "describe":
            return self.describe(), {}
        if method != "train":
            answer = getattr(self, method)(header)
            return (self.tamper_answer(method, answer) if self.tamper_answer else answer), {}
        number = header["round"]
        assert isinstance(number, int)
        self.cosigned[number] = list(header.get("cosignatures", []))  # type: ignore[arg-type]
        if self.before_train is not None:
            self.before_train(number)
        if number not in self.sealed:
            self.sealed[number] = self._train(header, number, arrays)
        entry, index, released = self.sealed[number]
        reply = self._reply(header, entry, index, released)
        return self.tamper_reply(reply, dict(released)) if self.tamper_reply else (reply, released)

    def describe(self) -> Header:
        return {
            "region": self.region,
            "protocol": 1,
            "engine": NO_DIGEST,
            "trainer_key": self.trainer.key_id,
        }

    def publish(self, header: Header) -> Header:
        size = self.published[header["round"]] = self.log.size
        proofs: Header = {
            str(old): [x.hex() for x in self.log.consistency_proof(old, size)] if old else []
            for old in header["since"]  # type: ignore[union-attr]
            if old <= size  # type: ignore[operator]
        }
        note = self.log.checkpoint_at(size).decode()
        return {"status": "ok", "region": self.region, "checkpoint": note, "proofs": proofs}

    def cosign(self, header: Header) -> Header:
        answers = [self._cosign(item) for item in header["checkpoints"]]  # type: ignore[union-attr]
        return {"status": "ok", "region": self.region, "cosignatures": [*answers]}

    def _cosign(self, item: Any) -> Header:
        proof = [bytes.fromhex(node) for node in item["proof"]]
        try:
            line = self.witness.cosign(item["note"].encode(), item["old"], proof)
        except StaleSizeError as error:
            return {"origin": item["origin"], "refused": "stale", "size": error.known_size}
        except ConflictError:
            return {"origin": item["origin"], "refused": "conflict", "size": item["old"]}
        size = int(item["note"].splitlines()[1])
        return {"origin": item["origin"], "size": size, "line": line}

    def keep(self, header: Header) -> Header:
        lines = self.kept[int(str(header["size"]))] = list(header["cosignatures"])  # type: ignore[arg-type]
        return {"status": "ok", "region": self.region, "kept": len(lines)}

    def release(self, number: int) -> Arrays:
        """What the region releases in a round: noise on the grid, the same each time."""
        generator = np.random.default_rng([self.seed, number])
        mechanism = self.plan.mechanism_of(number)
        (spec,) = self.plan.released_arrays(mechanism.name)
        values = generator.normal(scale=2.0, size=spec.shape)
        return {spec.name: snap_to_grid(values, mechanism.grid_exponent)}

    def _train(
        self, header: Header, number: int, arrays: Mapping[str, np.ndarray]
    ) -> tuple[bytes, int, Arrays]:
        released = self.release(number)
        if self.tamper_arrays is not None:
            released = self.tamper_arrays(released)
        record = self._round_record(header, number, arrays_digest(arrays), released)
        if self.tamper_record is not None:
            self.tamper_record(record)
        entry = make_entry(record, self.trainer)
        (index,) = self.log.append([entry])
        return entry, index, released

    def _round_record(self, header: Header, number: int, model_in: str, released: Arrays) -> Header:
        mechanism, now = self.plan.mechanism_of(number), format_time(now_ms())
        return {
            "v": "fedpref-round/1",
            "run": header["run"],
            "round": number,
            "attempt": header["attempt"],
            "region": self.region,
            "mechanism": header["mechanism"],
            "prev_round": None,
            "consent": {"origin": self.log.origin, "size": 0, "root": NO_DIGEST},
            "train": {"root": NO_DIGEST, "nonce": NO_DIGEST, "n_bucket": "8-15", "at": now},
            "model_in": model_in,
            "update": digest_or_none(released),
            "app": NO_DIGEST,
            "engine": NO_DIGEST,
            "deps": NO_DIGEST,
            "plan": header["plan"],
            "permit_id": "0" * 26,
            "charge_id": "0" * 26,
            "dp": {
                "noise_multiplier": mechanism.noise_multiplier,
                "clipping_norm": mechanism.clipping_norm,
                "sampling_probability": mechanism.sampling_probability,
                "steps": 1,
                "accountant": "test",
                "epsilon_total": "1",
                "delta": self.plan.delta,
                "mode": self.plan.mode,
                "honest_survivors_min": self.plan.aggregation.honest_survivors_min,
                "share_stddev": None,
            },
            "start": now,
            "end": now,
            "attestation": None,
        }

    def _reply(self, header: Header, entry: bytes, index: int, released: Arrays) -> Header:
        size = self.log.size
        return {
            "status": "ok",
            "run": header["run"],
            "round": header["round"],
            "attempt": header["attempt"],
            "region": self.region,
            "mechanism": header["mechanism"],
            "update": digest_or_none(released),
            "round_entry": base64.b64encode(entry).decode(),
            "leaf_index": index,
            "checkpoint": self.log.checkpoint_at(size).decode(),
            "inclusion_proof": [node.hex() for node in self.log.inclusion_proof(index, size)],
        }


def digest_or_none(arrays: Arrays) -> str:
    """A digest even of arrays that must never be exchanged."""
    try:
        return arrays_digest(arrays)
    except FedprefError:
        return NO_DIGEST


@dataclass
class FakeFederation:
    """A federation whose server home is on disk and whose engines are open."""

    plan: RunPlan
    home: ServerHome
    engines: dict[str, FakeEngine]
    signers: dict[tuple[str, str], Signer]
    run_config: dict[str, bool | float | int | str] = field(default_factory=dict)

    def run(self, *, reply_hook: ReplyHook | None = None) -> None:
        """Runs the real apps in process."""
        with self.channels():
            run_in_process(
                server_app,
                client_app,
                n_nodes=len(self.engines),
                run_config=self.run_config,
                parallel=len(self.engines),
                reply_hook=reply_hook,
                close_wait_s=0.0,
            )

    @contextmanager
    def channels(self) -> Iterator[None]:
        """Registers the engines for relays in this process."""
        with ExitStack() as stack:
            for index, engine in enumerate(self.engines.values()):
                stack.enter_context(register_channel(index, engine))
            yield

    @contextmanager
    def trail(self) -> Iterator[AuditTrail]:
        """The server's log, read back."""
        with open_audit_trail(self.home, self.plan, self.home.read_registry()) as trail:
            yield trail

    def records(self, kind: str) -> list[Header]:
        """The records of a kind in the server's log."""
        with AuditLog.open_read_only(self.home.log) as log:
            envelopes = [Envelope.decode(data) for _, data in log.entries()]
        return [envelope.record() for envelope in envelopes if envelope.kind == kind]

    def incidents(self) -> list[tuple[object, object, object]]:
        """(round, region, reason) of each incident in the server's log."""
        return [(r["round"], r["region"], r["reason"]) for r in self.records("incident")]

    def events(self) -> list[Header]:
        """The server's events."""
        decoded = [canonical_json.decode(x) for x in self.home.events.read_bytes().splitlines()]
        return [event for event in decoded if isinstance(event, dict)]

    def model(self) -> Arrays:
        """The published model."""
        return dict(load_arrays(self.home.model.read_bytes(), max_bytes=1 << 24))


@contextmanager
def open_federation(
    folder: Path,
    plan: RunPlan,
    *,
    nodes_wait_s: float = 30.0,
    witness_quorum: int = 2,
    engine_type: type[FakeEngine] = FakeEngine,
) -> Iterator[FakeFederation]:
    """Makes a federation in a folder, with its engines open."""
    home = ServerHome(folder / "server")
    signers = _make_keys(plan, home, witness_quorum)
    write_durably(home.plan, canonical_json.encode(plan.to_record()))
    with ExitStack() as stack:
        engines = {}
        for seed, region in enumerate(plan.regions):
            log = stack.enter_context(
                AuditLog.open(
                    folder / f"{region}.sqlite",
                    origin=f"{FEDERATION}/{region}",
                    signer=signers[region, "log"],
                    create=True,
                )
            )
            store = stack.enter_context(
                WitnessStore.open(folder / f"{region}-witness.sqlite", create=True)
            )
            witness = Witness(
                store,
                name=region,
                signer=signers[region, "witness"],
                log_keys=RegistryLogs(home.read_registry, but=region),
            )
            engines[region] = engine_type(
                plan, region, log, signers[region, "trainer"], seed, witness
            )
        yield FakeFederation(
            plan=plan,
            home=home,
            engines=engines,
            signers=signers,
            run_config={
                "server-home": str(home.root),
                "nodes-wait-s": nodes_wait_s,
                "describe-timeout-s": 30.0,
            },
        )


def _make_keys(
    plan: RunPlan, home: ServerHome, witness_quorum: int
) -> dict[tuple[str, str], Signer]:
    passphrase = secrets.token_hex(16).encode()
    home.keys.mkdir(parents=True, mode=0o700)
    write_durably(home.keys / "passphrase", passphrase)
    signers: dict[tuple[str, str], Signer] = {}
    for role in ("log", "aggregator", "witness"):
        signers["server", role] = generate_key(home.keys / f"{role}.pem", passphrase)
    # The outside witness: a party without a log.
    signers["witness", "witness"] = MemorySigner("witness witness")
    for region in plan.regions:
        for role in ("log", "trainer", "witness"):
            signers[region, role] = MemorySigner(f"{region} {role}")
    home.registry.mkdir(parents=True)
    write_durably(home.registry / "1.json", _sign_registry(signers, witness_quorum))
    WitnessStore.open(home.witness, create=True).close()
    return signers


def _sign_registry(signers: Mapping[tuple[str, str], Signer], witness_quorum: int) -> bytes:
    root, now = MemorySigner("root"), now_ms()
    record = build_registry(
        federation=FEDERATION,
        registry_version=1,
        issued_at=format_time(now),
        prev=None,
        threshold=1,
        witness_quorum=witness_quorum,
        root_public_keys=[root.public_key],
        keys=[
            {
                "key_id": signer.key_id,
                "public_key": signer.public_key.hex(),
                "party": party,
                "role": role,
                "not_before": format_time(now - 1000),
                "not_after": format_time(now + 3_600_000),
                "revoked_at": None,
            }
            for (party, role), signer in signers.items()
        ],
    )
    return sign_record(record, root)
