"""Targets: records, the key registry, and the files that keys, plans and policies come in."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from client.engine.policy import RegionPolicy, read_policy
from common import canonical_json
from common.analytics.answers import ARRAYS_NAME, FACTS_NAME, ReleasedAnswers
from common.audit.tiles import decode_bundle, encode_bundle
from common.audit.verify.consent_bytes import ConsentForms
from common.audit.verify.records import check_record
from common.consent_record import parse_consent
from common.envelope import Envelope, Signature, sign_record
from common.errors import FedprefError, FormatError
from common.key_registry import Registry
from common.key_request import open_request
from common.key_store import KeyStore
from common.notice import parse_notice
from common.parameters import save_arrays
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.questions_plan import QuestionsFile
from common.registry_changes import check_draft
from common.registry_draft import Draft
from common.timestamps import parse_time
from server.answers import answers_file
from server.audit_trail import Aggregate, UsedRound
from tests.fuzz.target import Target, memory_folder, same
from tests.support.asked_federation import asked_plan
from tests.support.bundle_builder import Federation
from tests.support.memory_signer import MemorySigner
from tests.support.registry_officers import drafted, request, signed, version
from tests.support.small_registry import ROOT, key_entry, registry_chain


@cache
def federation() -> Federation:
    """An honest run of two regions, whose logs, notes and files are seeds."""
    return Federation(customers=3, rounds=1, cosigners=("region-1", "region-2", "server")).run()


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory_folder())


def scratch() -> Path:
    """A folder for parsers that read files; it goes with the process."""
    return Path(_scratch().name)


def entries(*kinds: str) -> list[bytes]:
    """The logged envelopes of some kinds of record; of all if none is named."""
    return [
        entry
        for log in federation().logs.values()
        for entry in log
        if not kinds or Envelope.decode(entry).kind in kinds
    ]


def payloads(*kinds: str) -> list[bytes]:
    return [Envelope.decode(entry).payload for entry in entries(*kinds)]


def record_from(data: bytes) -> dict[str, canonical_json.JsonValue]:
    value = canonical_json.decode(data)
    if not isinstance(value, dict):
        raise FormatError("It is no object.")
    return value


def _canonical_json(data: bytes) -> None:
    same(canonical_json.encode(canonical_json.decode(data)), data)


def _envelope(data: bytes) -> None:
    envelope = Envelope.decode(data)
    same(envelope.encode(), data)
    same(canonical_json.encode(envelope.record()), envelope.payload)


def _consent(data: bytes) -> None:
    same(canonical_json.encode(parse_consent(canonical_json.decode(data)).to_record()), data)


def _notice(data: bytes) -> None:
    same(canonical_json.encode(parse_notice(canonical_json.decode(data)).to_record()), data)


@cache
def _known_forms() -> ConsentForms:
    forms = ConsentForms()
    for entry in entries("consent"):
        forms.read(entry)
    return forms


def _consent_bytes(data: bytes) -> None:
    """The quick reading never contradicts the general one, whatever forms it has seen before."""
    envelope = Envelope(
        "application/vnd.fedpref.consent+json", data, (Signature("a" * 64, bytes(64)),)
    )
    entry = envelope.encode()
    general: dict[str, canonical_json.JsonValue] | None
    try:
        general = Envelope.decode(entry).record()
        check_record("consent", general)
    except FedprefError:
        general = None
    for forms in (ConsentForms(), _known_forms()):
        quick = forms.read(entry)
        if quick is None:
            continue
        if general is None:
            raise AssertionError("the quick reading accepts what the general one refuses")
        same(quick.payload, data)
        expires = general["expires"]
        same(
            (quick.sid.hex(), quick.seq, quick.record_id, quick.event_ms, quick.expires_ms),
            (
                general["sid"],
                general["seq"],
                general["record_id"],
                parse_time(str(general["event_time"])),
                None if expires is None else parse_time(str(expires)),
            ),
        )
        same(None if quick.prev is None else quick.prev.hex(), general["prev"])
        for name in general.keys() - {"sid", "seq", "prev", "record_id", "event_time", "expires"}:
            if name != "evidence":
                same(quick.form[name], general[name])
    if general is None:
        raise FormatError("The general reading refuses it.")


def _verifier_record(data: bytes) -> None:
    record = record_from(data)
    check_record(str(record.get("v")).removeprefix("fedpref-").removesuffix("/1"), record)


def _registry(data: bytes) -> None:
    """A chain of versions, one entry of a bundle each."""
    count = 0
    offset = 0
    while offset + 2 <= len(data):
        offset += 2 + int.from_bytes(data[offset : offset + 2], "big")
        count += 1
    chain = decode_bundle(data, count)
    registry = Registry.from_envelopes(chain, root_key_ids=None)
    same(registry.head_sha256, hashlib.sha256(chain[-1]).hexdigest())


def _registry_seeds() -> Iterator[bytes]:
    one = [key_entry("region-1", "log", MemorySigner("log 1").public_key)]
    two = [*one, key_entry("region-2", "witness", MemorySigner("log 2").public_key)]
    yield encode_bundle(registry_chain(one))
    yield encode_bundle(registry_chain(one, two))


def _signed_registry(data: bytes) -> None:
    """A version 1 that its root officer signed, whatever it says."""
    record = record_from(data)
    Registry.from_envelopes([sign_record(record, ROOT)], root_key_ids=[ROOT.key_id])


def _signed_registry_seeds() -> Iterator[bytes]:
    entries = [key_entry("region-1", "log", MemorySigner("log 1").public_key)]
    yield Envelope.decode(registry_chain(entries)[0]).payload


def _key_request(data: bytes) -> None:
    open_request(data)


def _draft(data: bytes) -> None:
    draft = Draft.decode(data)
    same(draft.encode(), data)
    check_draft(draft)


def _draft_seeds() -> Iterator[bytes]:
    first = drafted([], requests=[request(MemorySigner("asked for"))])
    yield first.encode()
    yield signed(first).encode()
    chain = [version([])]
    yield signed(drafted(chain, requests=[request(MemorySigner("second"))])).encode()


def _signers_file(data: bytes) -> None:
    store = KeyStore(scratch(), "region-1")
    store.signers.write_bytes(data)
    store.signers.chmod(0o600)
    declared = {name: key.to_record() for name, key in store.external().items()}
    same(canonical_json.encode(declared), data)


def _signers_seeds() -> Iterator[bytes]:
    for role in ("log", "consent.next"):
        key = {
            "public_key": MemorySigner(role).public_key.hex(),
            "command": ["/usr/bin/sign", role],
        }
        yield canonical_json.encode({role: key})


def _plan(data: bytes) -> None:
    same(canonical_json.encode(RunPlan.from_record(canonical_json.decode(data)).to_record()), data)


def _plan_seeds() -> Iterator[bytes]:
    plan = default_plan(
        run_id="run-1",
        federation="test.example",
        scenario="small",
        regions=["region-1", "region-2"],
        quorum=2,
        catalogue="c" * 64,
        n_items=40,
        train_from="2026-01-01T00:00:00.000Z",
        train_until="2026-02-01T00:00:00.000Z",
        epsilon="8",
        planned_customers=1000,
    )
    yield canonical_json.encode(plan.to_record())
    yield canonical_json.encode(asked_plan().to_record())
    stepped = asked_plan(("purchase-clusters", "repeat-purchases"), scope="global")
    yield canonical_json.encode(stepped.to_record())
    yield canonical_json.encode(asked_plan(("search-terms",)).to_record())


def _questions(data: bytes) -> None:
    path = scratch() / "questions.toml"
    path.write_bytes(data)
    found = QuestionsFile.read(path)
    same(QuestionsFile.read(path), found)
    clusters = found.clusters.grouping().question(days=90, categories=4)
    assert (np.abs(clusters.centres) <= 1).all()


def _questions_seeds() -> Iterator[bytes]:
    yield b'aggregation = "secure-sum"\n[[question]]\nname = "category-customers"\nshare = 2.5\n'
    yield (
        b'[names]\nfeatures = ["wrap"]\nexperiment = "spring"\nfollow_days = 14\n'
        b'[[question]]\nname = "kano"\nscope = "regions"\n[[question]]\nname = "nps"\n'
    )
    yield (
        b"[clusters]\nsteps = 2\nstart = [[7, 40.5], [90, 0]]\n[[clusters.coordinate]]\n"
        b'measure = "recency"\nmost = 60\n[[clusters.coordinate]]\nmeasure = "weekend"\n'
        b'[[question]]\nname = "purchase-clusters"\n'
    )
    yield b'[[question]]\nname = "search-terms"\nscope = "regions"\nkey_delta = "1e-9"\n'


def _answers(data: bytes) -> None:
    arrays = _answered()
    (scratch() / ARRAYS_NAME).write_bytes(save_arrays(arrays))
    (scratch() / FACTS_NAME).write_bytes(data)
    for answer in ReleasedAnswers.load(scratch()).answers:
        same(answer.released.shape, (answer.question.size,))
        assert answer.noise_stddev > 0


def _answers_seeds() -> Iterator[bytes]:
    plan = asked_plan(("purchase-clusters", "repeat-purchases"), scope="global")
    used = (UsedRound("region-1", "e" * 64, "d" * 64),)
    aggregates = {
        number: Aggregate(number, 1, name, used, (), "a" * 64, "b" * 64, "s", "e")
        for number, name in ((3, "purchase-clusters"), (4, "repeat-purchases"))
    }
    kept = {f"#customers/{name}": np.array([16]) for name in _answered()}
    yield answers_file(plan, aggregates, _answered(), kept)


def _answered() -> dict[str, np.ndarray]:
    """The sums of a question of three steps, and of another."""
    return {"purchase_clusters": np.ones((3, 6)), "repeat_purchases": np.arange(4.0)}


def _policy(data: bytes) -> None:
    path = scratch() / "policy.json"
    path.write_bytes(data)
    same(canonical_json.encode(read_policy(path).to_record()), data)


def _policy_seeds() -> Iterator[bytes]:
    policy = RegionPolicy(
        region="region-1",
        purpose="fedpref:FederatedTraining",
        epsilon_cap_per_year="8",
        delta_max="1e-6",
        noise_multiplier_min="1",
        clipping_norm_max="1",
        rounds_max=10,
        quorum_min=2,
        quality_threshold="0.9",
        consent_age_max_s=600,
        withdrawal_in_round="finish",
        notice_grace_s=86_400,
        modes=["local"],
    )
    yield canonical_json.encode(policy.to_record())


def json_seeds() -> list[bytes]:
    values: list[canonical_json.JsonValue] = [
        None,
        -(2**53) + 1,
        'é😀\u2028\\"\n',
        {"a": [1, {"b": [True, None]}], "b": {}},
    ]
    return [canonical_json.encode(value) for value in values] + payloads("consent", "round")[:2]


TARGETS = (
    Target("canonical-json", _canonical_json, json_seeds, runs=4000),
    Target("envelope", _envelope, entries, runs=2000),
    Target("consent", _consent, lambda: payloads("consent"), runs=2000),
    Target("consent-bytes", _consent_bytes, lambda: payloads("consent"), runs=750),
    Target("notice", _notice, lambda: payloads("notice"), runs=2000),
    Target("verifier-record", _verifier_record, payloads, runs=2000),
    Target("registry", _registry, _registry_seeds, runs=500),
    Target("signed-registry", _signed_registry, _signed_registry_seeds, runs=500),
    Target("key-request", _key_request, lambda: [request(MemorySigner("asked for"))], runs=1000),
    Target("registry-draft", _draft, _draft_seeds, runs=150),
    Target("signers-file", _signers_file, _signers_seeds, runs=1000),
    Target("plan", _plan, _plan_seeds, runs=500),
    Target("questions", _questions, _questions_seeds, runs=500),
    Target("answers", _answers, _answers_seeds, runs=300),
    Target("policy", _policy, _policy_seeds, runs=1000),
)
