from __future__ import annotations

import pytest

from common.audit.entry import (
    LOGGED_KINDS,
    MAX_ENTRY_BYTES,
    SIGNING_ROLES,
    entry_kind,
    make_entry,
)
from common.envelope import Envelope, verify_envelope
from common.errors import FormatError
from common.keys import ROLES
from tests.support.memory_signer import MemorySigner

SIGNER = MemorySigner("controller")


def test_an_entry_is_the_signed_record():
    record = {"v": "fedpref-notice/1", "text": "what we do with your data"}
    entry = make_entry(record, SIGNER)
    envelope = Envelope.decode(entry)
    assert envelope.record() == record
    assert envelope.kind == "notice"
    assert verify_envelope(envelope, {SIGNER.key_id: SIGNER.public_key}) == (SIGNER.key_id,)


@pytest.mark.parametrize("kind", sorted(LOGGED_KINDS))
def test_every_kind_of_the_table_makes_an_entry(kind):
    record = {"v": f"fedpref-{kind}/1"}
    assert entry_kind(record) == kind
    assert Envelope.decode(make_entry(record, SIGNER)).kind == kind


@pytest.mark.parametrize(
    "version",
    [
        None,
        1,
        "",
        "fedpref-manifest/1",  # describes a bundle, stands in no log
        "fedpref-round/2",
        "fedpref-unknown/1",
        "other-round/1",
        " fedpref-round/1",
    ],
)
def test_other_records_stand_in_no_log(version):
    with pytest.raises(FormatError, match="version"):
        make_entry({"v": version}, SIGNER)
    with pytest.raises(FormatError, match="version"):
        make_entry({}, SIGNER)


def test_an_entry_is_at_most_65535_bytes():
    def with_text(length):
        return make_entry({"v": "fedpref-notice/1", "text": "x" * length}, SIGNER)

    # Base64 makes four bytes of three: the largest text that fits, and one group more.
    room = MAX_ENTRY_BYTES - len(with_text(0))
    length = room // 4 * 3
    while len(with_text(length)) > MAX_ENTRY_BYTES:
        length -= 1
    assert MAX_ENTRY_BYTES - 4 < len(with_text(length)) <= MAX_ENTRY_BYTES
    with pytest.raises(FormatError, match=str(MAX_ENTRY_BYTES)):
        with_text(length + 3)


def test_the_roles_of_the_table_are_those_of_keys():
    assert set().union(*SIGNING_ROLES.values()) - {"root"} <= set(ROLES)
    assert SIGNING_ROLES["incident"] == {"aggregator", "trainer"}
    assert all(SIGNING_ROLES.values())


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        SIGNING_ROLES["consent"] = frozenset({"trainer"})
