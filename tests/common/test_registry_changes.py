"""Versions of the registry: drafted, judged by each officer alone, finished by a threshold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from common import canonical_json, registry_changes
from common.envelope import Signature
from common.errors import FedprefError, FormatError, InputError, VerificationError
from common.key_registry import Registry
from common.key_request import make_request
from common.keys import key_id
from common.registry_changes import RootKeys, check_draft, finish_draft, sign_draft
from common.registry_draft import Draft
from tests.support.memory_signer import MemorySigner
from tests.support.registry_officers import (
    DAY_S,
    FEDERATION,
    OFFICERS,
    ROOT_IDS,
    START_MS,
    drafted,
    request,
    signed,
    version,
)
from tests.support.unsound_keys import unsound_keys

TRAINER, CONSENT, NEWER = (MemorySigner(name) for name in ("trainer", "consent", "newer"))
STRANGER = MemorySigner("stranger")
FIRST = version([], requests=[request(TRAINER), request(CONSENT, role="consent")])


def registry(*chain: bytes) -> Registry:
    return Registry.from_envelopes(chain, root_key_ids=ROOT_IDS)


def test_two_of_three_officers_make_version_1() -> None:
    made = registry(FIRST)
    assert (made.version, made.federation, made.witness_quorum) == (1, FEDERATION, 0)
    at_ms = START_MS + 366 * DAY_S * 1000
    arguments = {"party": "region-1", "role": "trainer"}
    assert made.find(TRAINER.key_id, at_ms=START_MS, **arguments) == TRAINER.public_key
    with pytest.raises(VerificationError, match="no longer valid"):
        made.find(TRAINER.key_id, at_ms=at_ms, **arguments)


def test_officers_sign_one_after_another_from_files() -> None:
    draft = Draft.decode(drafted([FIRST], requests=[request(NEWER)]).encode())
    assert check_draft(draft).missing() == (2, 2)
    with pytest.raises(VerificationError, match="Signatures are missing: 2"):
        finish_draft(draft)
    draft = Draft.decode(sign_draft(draft, OFFICERS[2]).encode())
    assert check_draft(draft).missing() == (1, 1)
    with pytest.raises(VerificationError, match="Signatures are missing: 1"):
        finish_draft(draft)
    draft = Draft.decode(sign_draft(draft, OFFICERS[0]).encode())
    assert check_draft(draft).missing() == (0, 0)
    made = registry(FIRST, finish_draft(draft))
    assert [entry.key_id for entry in made.keys_of("region-1", "trainer")] == [
        TRAINER.key_id,
        NEWER.key_id,
    ]


def test_an_officer_signs_once_and_a_stranger_not_at_all() -> None:
    draft = signed(drafted([FIRST], requests=[request(NEWER)]), OFFICERS[0])
    with pytest.raises(InputError, match="signed this draft already"):
        sign_draft(draft, OFFICERS[0])
    with pytest.raises(VerificationError, match="is no root key"):
        sign_draft(draft, STRANGER)
    with pytest.raises(VerificationError, match="is no root key"):
        sign_draft(draft, TRAINER)


def test_a_draft_shows_what_it_changes() -> None:
    second = drafted(
        [FIRST], requests=[request(NEWER)], revocations={CONSENT.key_id[:16]: START_MS + 5}
    )
    checked = check_draft(second)
    assert [entry.key_id for entry in checked.added] == [NEWER.key_id]
    assert [(entry.key_id, entry.revoked_at_ms) for entry in checked.revoked] == [
        (CONSENT.key_id, START_MS + 5)
    ]


def test_a_revocation_counts_from_its_time_and_may_only_be_dated_back() -> None:
    second = version([FIRST], revocations={TRAINER.key_id: START_MS + 5000})
    arguments = {"party": "region-1", "role": "trainer"}
    made = registry(FIRST, second)
    made.find(TRAINER.key_id, at_ms=START_MS + 4999, **arguments)
    with pytest.raises(VerificationError, match="revoked"):
        made.find(TRAINER.key_id, at_ms=START_MS + 5000, **arguments)
    third = version([FIRST, second], revocations={TRAINER.key_id: START_MS + 1})
    with pytest.raises(VerificationError, match="revoked"):
        registry(FIRST, second, third).find(TRAINER.key_id, at_ms=START_MS + 2, **arguments)
    with pytest.raises(VerificationError, match="drops or changes"):
        drafted([FIRST, second], revocations={TRAINER.key_id: START_MS + 9000})


@pytest.mark.parametrize("beginning", ["", "0" * 64, "zz"])
def test_a_revocation_names_one_key(beginning: str) -> None:
    with pytest.raises(InputError, match="begins with"):
        drafted([FIRST], revocations={beginning: START_MS})


def test_a_new_root_needs_a_threshold_of_the_old_and_of_the_new() -> None:
    new = [MemorySigner(f"new officer {number}") for number in range(3)]
    root = RootKeys((OFFICERS[0].public_key, *(key.public_key for key in new)), 3)
    draft = drafted([FIRST], root=root)
    for officers, missing in (
        ((OFFICERS[0], OFFICERS[1]), (2, 0)),
        ((new[0], new[1], new[2]), (0, 2)),
        ((OFFICERS[0], new[0], new[1]), (0, 1)),
    ):
        partly = signed(draft, *officers)
        assert check_draft(partly).missing() == missing
        with pytest.raises(VerificationError, match="Signatures are missing"):
            finish_draft(partly)
    second = finish_draft(signed(draft, OFFICERS[0], OFFICERS[1], new[0], new[1]))
    made = registry(FIRST, second)
    assert (made.root_threshold, len(made.root_key_ids)) == (3, 4)
    third = drafted([FIRST, second], requests=[request(NEWER)])
    with pytest.raises(VerificationError, match="is no root key"):
        sign_draft(third, OFFICERS[1])


@pytest.mark.parametrize("threshold", [0, 1, 3])
def test_a_threshold_is_more_than_half_and_not_more_than_all(threshold: int) -> None:
    root = RootKeys(tuple(key.public_key for key in OFFICERS[:2]), threshold)
    with pytest.raises(FedprefError, match="threshold"):
        drafted([], root=root, requests=[request(TRAINER)])


@pytest.mark.parametrize(("name", "public_key"), unsound_keys().items(), ids=lambda value: None)
def test_no_unsound_root_key_is_drafted(name: str, public_key: bytes) -> None:
    root = RootKeys((*(key.public_key for key in OFFICERS[:2]), public_key), 2)
    with pytest.raises(VerificationError, match="not a sound"):
        drafted([], root=root, requests=[request(TRAINER)])


def test_a_key_is_enrolled_once() -> None:
    with pytest.raises(VerificationError, match="listed twice"):
        drafted([FIRST], requests=[request(TRAINER, role="permit")])
    with pytest.raises(VerificationError, match="listed twice"):
        drafted([FIRST], requests=[request(NEWER), request(NEWER, role="permit")])
    with pytest.raises(VerificationError, match="listed twice"):
        drafted([FIRST], requests=[request(OFFICERS[0])])


def test_a_request_for_another_federation_is_refused() -> None:
    foreign = make_request(
        NEWER, federation="other.example", party="region-1", role="trainer", at_ms=START_MS
    )
    with pytest.raises(VerificationError, match=r"for the federation other\.example"):
        drafted([FIRST], requests=[foreign])


def test_a_draft_that_changes_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="changes nothing"):
        drafted([FIRST])


@pytest.mark.parametrize("missing", ["root", "federation", "witness_quorum"])
def test_version_1_states_everything(missing: str) -> None:
    empty = "" if missing == "federation" else None
    with pytest.raises(InputError, match="Version 1"):
        drafted([], **{missing: empty}, requests=[request(TRAINER)])


def test_a_quorum_that_no_log_could_reach_is_refused() -> None:
    log, own, other = (MemorySigner(name) for name in ("a log", "its witness", "a witness"))
    requests = [request(log, role="log"), request(own, role="witness")]
    with pytest.raises(VerificationError, match="0 other parties than region-1"):
        drafted([], requests=requests, witness_quorum=1)
    requests.append(request(other, "witness", "witness"))
    first = version([], requests=requests, witness_quorum=1)
    assert registry(first).witness_quorum == 1
    with pytest.raises(VerificationError, match="1 other parties than region-1"):
        drafted([first], witness_quorum=2)
    with pytest.raises(VerificationError, match="0 other parties than region-1"):
        drafted([first], revocations={other.key_id: START_MS})


def test_a_clock_set_back_is_noticed() -> None:
    with pytest.raises(VerificationError, match="issued before"):
        drafted([FIRST], issued_at_ms=START_MS - 1, requests=[request(NEWER)])


def test_a_version_too_long_is_refused_before_anybody_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.registry_changes.MAX_REGISTRY_BYTES", 65_535)
    many = [request(MemorySigner(f"key {number}")) for number in range(170)]
    with pytest.raises(InputError, match="longer than a registry"):
        drafted([FIRST], requests=many)


# What travels may be changed on the way: each change is refused by check, sign and finish alike.


def _second() -> Draft:
    return signed(drafted([FIRST], requests=[request(NEWER)]), OFFICERS[0])


def _edited(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Draft], Draft]:
    def change(draft: Draft) -> Draft:
        record: dict[str, Any] = copy.deepcopy(draft.record)
        edit(record)
        # Without signatures: that those no longer hold is another defence.
        return replace(draft, record=record, signatures=())

    return change


def _small_order(record: dict[str, Any]) -> None:
    weak = next(iter(unsound_keys().values()))
    record["keys"][-1] |= {"public_key": weak.hex(), "key_id": key_id(weak)}


def _stranger(record: dict[str, Any]) -> None:
    record["keys"].append(
        record["keys"][-1] | {"public_key": STRANGER.public_key.hex(), "key_id": STRANGER.key_id}
    )


CHANGES: dict[str, Callable[[Draft], Draft]] = {
    "key added without a request": _edited(_stranger),
    "added key for another party": _edited(lambda r: r["keys"][-1].update(party="region-2")),
    "added key in another role": _edited(lambda r: r["keys"][-1].update(role="permit")),
    "request withheld": lambda d: replace(d, requests=(), signatures=()),
    "request for what is not added": lambda d: replace(
        d, requests=(*d.requests, request(STRANGER)), signatures=()
    ),
    "key dropped": _edited(lambda r: r["keys"].pop(0)),
    "key prolonged": _edited(
        lambda r: r["keys"][0].update(not_after="2099-01-01T00:00:00.000Z")
    ),
    "small-order key": _edited(_small_order),
    "another federation": _edited(lambda r: r.update(federation="other.example")),
    "another version": _edited(lambda r: r.update(registry_version=3)),
    "another predecessor": _edited(lambda r: r.update(prev="0" * 64)),
    "threshold 1 of 3": _edited(lambda r: r["root"].update(threshold=1)),
    "quorum out of reach": _edited(
        lambda r: (r["keys"][0].update(role="log"), r.update(witness_quorum=1))
    ),
    "chain cut": lambda d: replace(d, chain=()),
    "chain of another federation": lambda d: replace(
        d, chain=(version([], federation="other.example"),)
    ),
    "signature of another draft": lambda d: replace(
        d, signatures=(Signature(OFFICERS[1].key_id, OFFICERS[1].sign(b"another")),)
    ),
    "signature twice": lambda d: replace(d, signatures=d.signatures * 2),
    "signature of a stranger": lambda d: replace(
        d, signatures=(Signature(STRANGER.key_id, STRANGER.sign(d.message)),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_draft_changed_on_its_way_is_neither_signed_nor_finished(
    change: Callable[[Draft], Draft],
) -> None:
    changed = change(_second())
    for step in (check_draft, lambda draft: sign_draft(draft, OFFICERS[1]), finish_draft):
        with pytest.raises(FedprefError) as refusal:
            step(changed)
        assert "Signatures are missing" not in str(refusal.value)


def test_the_finished_version_is_verified_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the draft's own check lets through, the registry's rules have the last word."""
    draft = signed(drafted([FIRST], requests=[request(NEWER)]), OFFICERS[0])
    monkeypatch.setattr(registry_changes.CheckedDraft, "missing", lambda self: (0, 0))
    with pytest.raises(VerificationError, match="1 of its own root keys signed it"):
        finish_draft(draft)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"v": "fedpref-registry-draft/1"},
        {"v": "x", "chain": [], "record": {}, "requests": [], "signatures": []},
        {"v": "fedpref-registry-draft/1", "chain": 1, "record": {}, "requests": [],
         "signatures": []},
        {"v": "fedpref-registry-draft/1", "chain": ["!"], "record": {}, "requests": [],
         "signatures": []},
        {"v": "fedpref-registry-draft/1", "chain": [1], "record": {}, "requests": [],
         "signatures": []},
        {"v": "fedpref-registry-draft/1", "chain": [], "record": [], "requests": [],
         "signatures": []},
        {"v": "fedpref-registry-draft/1", "chain": [], "record": {}, "requests": [],
         "signatures": [{"keyid": "x", "sig": ""}]},
    ],
)  # fmt: skip
def test_what_is_no_draft_is_refused(value: Any) -> None:
    with pytest.raises(FormatError):
        Draft.decode(canonical_json.encode(value))


def test_a_draft_round_trips() -> None:
    draft = _second()
    assert Draft.decode(draft.encode()) == draft


@pytest.mark.parametrize("field", ["chain", "requests"])
def test_a_draft_has_one_form_only(field: str) -> None:
    """Base64 whose last bits are not zero gives the same bytes, and is another file."""
    value = canonical_json.decode(_second().encode(), max_bytes=1 << 20)
    assert isinstance(value, dict)
    value[field] = ["QUI="]
    assert getattr(Draft.decode(canonical_json.encode(value)), field) == (b"AB",)
    value[field] = ["QUJ="]
    with pytest.raises(FormatError, match=f"base64 of {field} of the draft is not in its one"):
        Draft.decode(canonical_json.encode(value))
