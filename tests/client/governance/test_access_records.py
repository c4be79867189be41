"""Records about access: they come out as they went in, and near misses are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.governance.access_records import (
    ROLES,
    AccessApproval,
    AccessExpiry,
    AccessRecord,
    AccessRequest,
    AccessRevocation,
    AccessUse,
    parse_access,
    sign_access,
)
from common.audit.entry import SIGNING_ROLES
from common.audit.verify.access_schemas import ACCESS_ROLES
from common.audit.verify.records import check_record
from common.envelope import Envelope, sign_record
from common.errors import FormatError
from tests.support.memory_signer import MemorySigner

SIGNER = MemorySigner("someone")
ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
LINES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
TIMES = st.integers(0, 4_000_000_000_000)
COLUMNS = st.sets(LINES, min_size=1, max_size=4).map(lambda names: tuple(sorted(names)))
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
RECORDS = st.one_of(
    st.builds(
        AccessRequest, st.just(ID), st.just("r-1"), LINES, COLUMNS, LINES, st.integers(1), TIMES
    ),
    st.builds(AccessApproval, st.just(ID), st.just("r-1"), DIGESTS, TIMES, TIMES),
    st.builds(AccessUse, st.just(ID), st.just("r-1"), DIGESTS, st.integers(1), COLUMNS, TIMES),
    st.builds(AccessRevocation, st.just(ID), st.just("r-1"), LINES, TIMES),
    st.builds(AccessExpiry, st.just(ID), st.just("r-1"), st.integers(0), TIMES),
).filter(lambda record: all(abs(n) < 2**53 for n in vars(record).values() if type(n) is int))
REQUEST = AccessRequest(ID, "r-1", "members", ("email", "phone"), "why", 60, 1)


@given(record=RECORDS)
def test_a_record_comes_out_as_it_went_in_and_the_verifier_knows_its_form(
    record: AccessRecord,
) -> None:
    envelope = Envelope.decode(sign_access(record, SIGNER))
    assert parse_access(envelope) == record
    check_record(envelope.kind, envelope.record())


def test_writer_and_verifier_agree_on_who_signs() -> None:
    assert ROLES == ACCESS_ROLES
    assert {kind: frozenset({role}) for kind, role in ROLES.items()} == {
        kind: roles for kind, roles in SIGNING_ROLES.items() if kind.startswith("access-")
    }


@pytest.mark.parametrize(
    "change",
    [
        {"columns": []},
        {"columns": ["phone", "email"]},
        {"columns": ["email", "email"]},
        {"columns": ["a\n"]},
        {"columns": [f"c{n:04d}" for n in range(257)]},
        {"columns": "email"},
        {"because": ""},
        {"because": "two\nlines"},
        {"because": "recall \u202egnihtemos"},
        {"columns": ["e\u200bmail"]},
        {"because": "x" * 257},
        {"grant_s": 0},
        {"grant_s": True},
        {"request_id": "x"},
        {"region": "R 1"},
        {"time": "now"},
        {"extra": 1},
    ],
)
def test_a_request_that_is_none_is_refused(change: dict[str, Any]) -> None:
    data = sign_record(REQUEST.to_record() | change, SIGNER)
    with pytest.raises(FormatError):
        parse_access(Envelope.decode(data))


@pytest.mark.parametrize("name", sorted(REQUEST.to_record().keys() - {"v"}))
def test_no_field_may_be_missing(name: str) -> None:
    record = {n: v for n, v in REQUEST.to_record().items() if n != name}
    with pytest.raises(FormatError):
        parse_access(Envelope.decode(sign_record(record, SIGNER)))


def test_another_kind_is_refused() -> None:
    with pytest.raises(FormatError, match="no record about access"):
        parse_access(Envelope.decode(sign_record({"v": "fedpref-incident/1"}, SIGNER)))
