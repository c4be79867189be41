"""A region's home with keys, log, notice, policy and subjects' table: all but a store of purchases.

Made in a few milliseconds and without the privacy engine.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.consent_service.forms import FormSettings
from client.consent_service.notices import offered
from client.consent_service.registrar import ConsentRegistrar
from client.engine.home import KEY_ROLES, RegionHome
from client.engine.ledger_store import make_ledger
from client.engine.log_state import LogState
from client.engine.policy import RegionPolicy
from client.engine.subjects import SubjectKeys, make_storage_key, open_subject_keys
from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.audit.witness.store import WitnessStore
from common.consent import FEDERATED_ANALYTICS, FEDERATED_TRAINING, RECOMMENDATIONS
from common.durable_file import write_durably
from common.envelope import sign_record
from common.keys import build_registry, generate_key
from common.timestamps import format_time, now_ms
from tests.support.memory_signer import MemorySigner

FEDERATION = "small.example"
REGION = "region-1"
GRACE_S = 3600
DAY_MS = 24 * 3600 * 1000
SERVER_LOG = MemorySigner("server's log")
ALL = {FEDERATED_TRAINING: True, RECOMMENDATIONS: True, FEDERATED_ANALYTICS: True}


def notice_record(**changes: object) -> dict[str, object]:
    """A valid notice, with some fields replaced."""
    return {
        "v": "fedpref-notice/1",
        "notice_id": "pn-1",
        "lang": "en",
        "controller": "shop.example",
        "purposes": list(ALL),
        "recipients": "the regions",
        "retention": "10 years",
        "storage": "here",
        "contact": "privacy@shop.example",
        "text": "May we?",
        "supersedes": None,
        "in_force_from": format_time(now_ms() - DAY_MS),
        **changes,
    }


def make_region_home(
    root: Path,
    *,
    notices: Sequence[dict[str, object]] = (),
    lasts_s: int | None = None,
    others: Sequence[tuple[str, str, MemorySigner]] = (),
    witness_quorum: int = 0,
) -> RegionHome:
    """Makes the home; its log has the registry, the notices and the policy.

    Other parties' keys are given by party and role.
    """
    home = RegionHome(root=root, region=REGION, federation=FEDERATION)
    root.mkdir(parents=True, mode=0o700)
    home.keys.mkdir(mode=0o700)
    write_durably(home.keys / "passphrase", secrets.token_hex(16).encode())
    signers = {
        role: generate_key(home.keys / f"{role}.pem", home.passphrase()) for role in KEY_ROLES
    }
    home.write_identity()
    root_key = MemorySigner("root")
    now = now_ms()
    registry = sign_record(
        build_registry(
            federation=FEDERATION,
            registry_version=1,
            issued_at=format_time(now - DAY_MS),
            prev=None,
            threshold=1,
            witness_quorum=witness_quorum,
            root_public_keys=[root_key.public_key],
            keys=[
                {
                    "key_id": signer.key_id,
                    "public_key": signer.public_key.hex(),
                    "party": party,
                    "role": role,
                    "not_before": format_time(now - DAY_MS),
                    "not_after": format_time(now + 400 * DAY_MS),
                    "revoked_at": None,
                }
                for party, role, signer in [
                    *((REGION, role, signer) for role, signer in signers.items()),
                    ("server", "log", SERVER_LOG),
                    *others,
                ]
            ],
        ),
        root_key,
    )
    home.registry.mkdir()
    write_durably(home.registry / "1.json", registry, mode=0o644)
    make_storage_key(home.stored_key)
    policy = RegionPolicy(
        region=REGION,
        purpose=FEDERATED_TRAINING,
        epsilon_cap_per_year="8",
        delta_max="0.000001",
        noise_multiplier_min="0.1",
        clipping_norm_max="1",
        rounds_max=64,
        quorum_min=1,
        quality_threshold="0.98",
        consent_age_max_s=600,
        withdrawal_in_round="finish",
        notice_grace_s=GRACE_S,
        modes=["local"],
    )
    write_durably(home.policy, canonical_json.encode(policy.to_record()))
    FormSettings(
        legal_basis="eu-gdpr:A6-1-a",
        jurisdiction="DE",
        withdrawal="https://shop.example/consent",
        data=("pd:PurchasesAndSpendingHabit",),
        lasts_s=lasts_s,
    ).write(root)
    records = [
        *(notices or [notice_record()]),
        {
            "v": "fedpref-policy/1",
            "region": REGION,
            "policy_sha256": policy.digest,
            "policy": policy.to_record(),
            "in_force_from": format_time(now),
        },
    ]
    with AuditLog.open(home.log, origin=home.origin, signer=signers["log"], create=True) as log:
        log.append([registry, *(make_entry(each, signers["controller"]) for each in records)])
    make_ledger(home.ledger)
    WitnessStore.open(home.witness, create=True).close()
    with open_subject_keys(home.subjects, home.stored_key):
        pass
    return home


def round_record(
    number: int, consent_size: int, at_ms: int, run: str = "run-1"
) -> dict[str, object]:
    """What is read of a round entry, and no more."""
    return {
        "v": "fedpref-round/1",
        "run": run,
        "round": number,
        "charge_id": f"charge-{run}-{number}",
        "end": format_time(at_ms),
        "consent": {"origin": f"{FEDERATION}/{REGION}", "size": consent_size, "root": "0" * 64},
        "train": {"root": "0" * 64, "nonce": "0" * 64, "n_bucket": "1-1", "at": format_time(at_ms)},
    }


@dataclass(frozen=True)
class OpenHome:
    """An open home, as a process that owns the log has it."""

    home: RegionHome
    log: AuditLog
    state: LogState
    subjects: SubjectKeys
    registrar: ConsentRegistrar

    def log_round(self, number: int, *, consent_size: int | None = None, later_ms: int = 0) -> int:
        """Logs a round that takes consents as they are now; gives its index."""
        size = self.log.size if consent_size is None else consent_size
        record = round_record(number, size, now_ms() + later_ms)
        (index,) = self.log.append([make_entry(record, self.home.signer("trainer"))])  # type: ignore[arg-type]
        self.state.refresh()
        return index


@contextmanager
def open_home(home: RegionHome, *, lang: str = "en") -> Iterator[OpenHome]:
    """Opens a home; its registrar's form is of the notice in force."""
    with (
        AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log,
        open_subject_keys(home.subjects, home.stored_key) as subjects,
    ):
        state = LogState(log, home.read_registry(), home.region)
        state.refresh()
        settings = FormSettings.read(home.root)
        registrar = ConsentRegistrar(
            log=log,
            state=state,
            subjects=subjects,
            signer=home.signer("consent"),
            form=settings.form(offered(state.notices, now_ms())[lang]),
            lasts_s=settings.lasts_s,
        )
        yield OpenHome(home, log, state, subjects, registrar)
