"""A request proves that who asks for a key to be enrolled holds it, and names its use."""

from __future__ import annotations

from typing import Any

import pytest

from common.envelope import Envelope, sign_record
from common.errors import FedprefError, FormatError, VerificationError
from common.key_request import make_request, open_request
from common.keys import key_id
from tests.support.memory_signer import MemorySigner
from tests.support.registry_officers import FEDERATION, START_MS, request
from tests.support.unsound_keys import A_FEW, unsound_keys

KEY, OTHER = MemorySigner("asked for"), MemorySigner("other")


def forged(signer: MemorySigner = KEY, **changes: Any) -> bytes:
    record = Envelope.decode(request(KEY)).record() | changes
    return sign_record(record, signer)


def test_a_request_says_whose_key_it_is_and_for_what() -> None:
    opened = open_request(request(KEY, "region-2", "consent"))
    assert (opened.federation, opened.party, opened.role) == (FEDERATION, "region-2", "consent")
    assert (opened.key_id, opened.public_key) == (KEY.key_id, KEY.public_key)
    assert opened.requested_at_ms == START_MS


def test_another_s_public_key_cannot_be_asked_for() -> None:
    with pytest.raises(VerificationError, match="not signed by its own key"):
        open_request(forged(OTHER))
    both = sign_record(Envelope.decode(request(KEY)).record(), KEY, OTHER)
    with pytest.raises(VerificationError, match="not signed by its own key"):
        open_request(both)


@pytest.mark.parametrize(("name", "public_key"), unsound_keys().items(), ids=lambda value: None)
def test_no_unsound_key_can_be_asked_for(name: str, public_key: bytes) -> None:
    # Under the identity key this signature verifies every message for a lax verifier.
    class Weak:
        def __init__(self) -> None:
            self.public_key, self.key_id = public_key, key_id(public_key)

        def sign(self, _: bytes) -> bytes:
            return A_FEW["identity"] + bytes(32)

    with pytest.raises(VerificationError, match="not a sound"):
        make_request(
            Weak(), federation=FEDERATION, party="region-1", role="trainer", at_ms=START_MS
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "root"},
        {"role": None},
        {"party": "../region"},
        {"party": ""},
        {"federation": "a\nb"},
        {"requested_at": "now"},
        {"public_key": "11"},
        {"comment": "x"},
        {"v": "fedpref-key-request/2"},
        {"v": "fedpref-notice/1"},
    ],
)
def test_malformed_requests_are_refused_though_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        open_request(forged(**changes))


def test_a_key_id_of_another_key_is_refused() -> None:
    with pytest.raises(VerificationError, match="not that of its public key"):
        open_request(forged(key_id=OTHER.key_id))


def test_a_flipped_byte_is_noticed() -> None:
    data = request(KEY)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(FedprefError):
            open_request(bytes(changed))
