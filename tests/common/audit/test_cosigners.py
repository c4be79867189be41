"""Which cosignatures of a checkpoint count, and whose."""

from __future__ import annotations

import pytest

from common.audit.checkpoint import Checkpoint, add_cosignature, parse_note, sign_note
from common.audit.cosigners import MAX_LINES, Cosigners, within
from common.audit.merkle import leaf_hash
from common.canonical_json import JsonValue
from common.envelope import sign_record
from common.keys import Registry, Signer, build_registry
from common.timestamps import format_time
from tests.support.memory_signer import MemorySigner

NOW_S = 1_750_000_000
FEDERATION = "test.example"
LOG = MemorySigner("region-1 log")
WITNESSES = {
    party: MemorySigner(f"{party} witness")
    for party in ("region-1", "region-2", "server", "outside")
}
SPARE = MemorySigner("region-2 witness, too")
REVOKED = MemorySigner("region-3 witness")
NOTE = sign_note(
    Checkpoint(f"{FEDERATION}/region-1", 7, leaf_hash(b"x")).body(), f"{FEDERATION}/region-1", LOG
)


def entry(signer: Signer, party: str, role: str, **changes: JsonValue) -> dict[str, JsonValue]:
    record: dict[str, JsonValue] = {
        "key_id": signer.key_id,
        "public_key": signer.public_key.hex(),
        "party": party,
        "role": role,
        "not_before": format_time(NOW_S * 1000 - 1000),
        "not_after": format_time((NOW_S + 1000) * 1000),
        "revoked_at": None,
    }
    return record | changes


@pytest.fixture(scope="module")
def cosigners() -> Cosigners:
    root = MemorySigner("root")
    revoked = format_time((NOW_S + 100) * 1000)
    keys = [
        entry(LOG, "region-1", "log"),
        entry(SPARE, "region-2", "witness"),
        entry(REVOKED, "region-3", "witness", revoked_at=revoked),
        *(entry(signer, party, "witness") for party, signer in WITNESSES.items()),
    ]
    record = build_registry(
        federation=FEDERATION,
        registry_version=1,
        issued_at=format_time(NOW_S * 1000),
        prev=None,
        threshold=1,
        witness_quorum=2,
        root_public_keys=[root.public_key],
        keys=keys,
    )
    return Cosigners(Registry.from_envelopes([sign_record(record, root)], root_key_ids=None))


def line(party: str, *, signer: Signer | None = None, time_s: int = NOW_S, note: str = NOTE) -> str:
    signed = add_cosignature(
        note.encode(), party, signer or WITNESSES[party], time_s=time_s
    ).encode()
    return parse_note(signed).signatures[-1].line


def held(cosigners: Cosigners, *lines: str) -> dict[str, int]:
    found = cosigners.verified(NOTE.encode(), lines, party="region-1")
    return {each.party: each.time_s for each in found}


def test_other_parties_cosignatures_count(cosigners: Cosigners) -> None:
    assert (cosigners.quorum, cosigners.origin("region-1")) == (2, f"{FEDERATION}/region-1")
    assert held(cosigners, line("server"), line("outside")) == {"server": NOW_S, "outside": NOW_S}


def test_ones_own_counts_for_nothing(cosigners: Cosigners) -> None:
    assert held(cosigners, line("region-1")) == {}


def test_a_party_counts_once_by_its_latest(cosigners: Cosigners) -> None:
    lines = [
        line("region-2", time_s=NOW_S + 5),
        line("region-2", signer=SPARE, time_s=NOW_S + 9),
        line("region-2", time_s=NOW_S + 7),
    ]
    assert held(cosigners, *lines) == {"region-2": NOW_S + 9}


@pytest.mark.parametrize(
    ("party", "signer"),
    [
        ("server", WITNESSES["outside"]),
        ("server", LOG),
        ("stranger", MemorySigner("stranger")),
    ],
)
def test_another_partys_or_roles_key_does_not_count(
    cosigners: Cosigners, party: str, signer: Signer
) -> None:
    assert held(cosigners, line(party, signer=signer)) == {}


def test_a_cosignature_of_another_checkpoint_does_not_count(cosigners: Cosigners) -> None:
    for size, leaf in ((8, b"x"), (7, b"y")):
        body = Checkpoint(f"{FEDERATION}/region-1", size, leaf_hash(leaf)).body()
        other = sign_note(body, f"{FEDERATION}/region-1", LOG)
        assert held(cosigners, line("server", note=other)) == {}


@pytest.mark.parametrize(("off_s", "counts"), [(-2, False), (-1, True), (999, True), (1000, False)])
def test_the_key_was_valid_at_the_stated_time(
    cosigners: Cosigners, off_s: int, counts: bool
) -> None:
    assert bool(held(cosigners, line("server", time_s=NOW_S + off_s))) is counts


@pytest.mark.parametrize(("off_s", "counts"), [(99, True), (100, False)])
def test_a_revoked_key_counts_until_its_revocation(
    cosigners: Cosigners, off_s: int, counts: bool
) -> None:
    made = line("region-3", signer=REVOKED, time_s=NOW_S + off_s)
    assert bool(held(cosigners, made)) is counts


def test_what_is_no_line_is_passed_over(cosigners: Cosigners) -> None:
    good = line("server")
    name, signature = good.rsplit(" ", 1)
    wrong = [
        "",
        "\n",
        good.strip(),
        good + good,
        good + line("outside"),
        good + "\n",
        name + "\n",
        f"{name} {signature[:-6]}\n",
        f"{name} {'A' * 104}\n",
        good.replace("server", "outside"),
        "\ud800\n",
        "— " + "x" * 2000 + "\n",
    ]
    assert held(cosigners, *wrong) == {}
    assert held(cosigners, *wrong, good) == {"server": NOW_S}


def test_no_more_lines_are_read_than_any_log_has(cosigners: Cosigners) -> None:
    assert held(cosigners, *["rubbish\n"] * MAX_LINES, line("server")) == {}


def test_only_those_within_a_time_are_given(cosigners: Cosigners) -> None:
    lines = [line("server", time_s=NOW_S + 10), line("outside", time_s=NOW_S + 20)]
    found = cosigners.verified(NOTE.encode(), lines, party="region-1")
    for earliest, latest, parties in (
        (10, 20, {"server", "outside"}),
        (10.5, 20, {"outside"}),
        (10, 19.5, {"server"}),
        (11, 19, set()),
    ):
        assert set(within(found, earliest_s=NOW_S + earliest, latest_s=NOW_S + latest)) == parties
