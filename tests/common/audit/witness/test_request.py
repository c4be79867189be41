from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audit.witness.request import AddCheckpoint
from common.errors import FormatError
from tests.support.branching_log import BranchingLog
from tests.support.malformed_requests import HASH, MALFORMED

LOG = BranchingLog()
NOTE = LOG.note(8)


def test_the_body_is_old_size_proof_blank_line_and_note():
    request = AddCheckpoint(NOTE, 3, tuple(LOG.proof(3, 8)))
    lines = request.encode().split(b"\n")
    assert lines[0] == b"old 3"
    count = len(LOG.proof(3, 8))
    assert [base64.b64decode(line) for line in lines[1 : count + 1]] == LOG.proof(3, 8)
    assert lines[count + 1] == b""
    assert b"\n".join(lines[count + 2 :]) == NOTE


@given(
    note=st.binary(max_size=200),
    old=st.integers(0, (1 << 63) - 1),
    proof=st.lists(st.binary(min_size=32, max_size=32), max_size=63),
)
def test_what_was_encoded_is_read_back(note, old, proof):
    request = AddCheckpoint(note, old, tuple(proof))
    assert AddCheckpoint.parse(request.encode()) == request


@given(st.binary(max_size=300))
def test_any_bytes_are_read_back_the_same_or_refused(body):
    try:
        request = AddCheckpoint.parse(body)
    except FormatError:
        return
    assert request.encode() == body


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_bodies_are_refused(body):
    with pytest.raises(FormatError):
        AddCheckpoint.parse(body)


def test_63_lines_are_read():
    body = b"old 3\n" + (HASH + b"\n") * 63 + b"\n" + NOTE
    assert len(AddCheckpoint.parse(body).proof) == 63
