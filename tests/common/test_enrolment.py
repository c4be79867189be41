"""Enrolments: only who has every private key, and had the kit, can make one."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from common import canonical_json
from common.enrolment import (
    MAX_ENROLMENT_BYTES,
    REGION_ROLES,
    EnrolmentFacts,
    make_enrolment,
    node_public_key,
    open_enrolment,
)
from common.errors import FedprefError, FormatError, VerificationError
from common.key_files import Ed25519FileSigner, generate_key
from common.key_request import make_request
from common.timestamps import now_ms

PASSPHRASE = b"a passphrase of a test"
TOKEN = bytes(range(32))
FEDERATION, REGION = "small.example", "region-1"


def line_of(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ed25519FileSigner]:
    folder = tmp_path_factory.mktemp("keys")
    return {role: generate_key(folder / f"{role}.pem", PASSPHRASE) for role in REGION_ROLES}


@pytest.fixture(scope="module")
def node() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@pytest.fixture(scope="module")
def facts(
    signers: dict[str, Ed25519FileSigner], node: ec.EllipticCurvePrivateKey
) -> EnrolmentFacts:
    return EnrolmentFacts(
        federation=FEDERATION,
        region=REGION,
        kit_sha256="2" * 64,
        node_key=line_of(node),
        requests={
            role: make_request(
                signer, federation=FEDERATION, party=REGION, role=role, at_ms=now_ms()
            )
            for role, signer in signers.items()
        },
        protocol=1,
        engine="3" * 64,
        enrolled_at="2026-01-01T00:00:00.000Z",
    )


@pytest.fixture(scope="module")
def file(
    facts: EnrolmentFacts,
    signers: dict[str, Ed25519FileSigner],
    node: ec.EllipticCurvePrivateKey,
) -> bytes:
    return make_enrolment(facts, controller=signers["controller"], node_key=node, token=TOKEN)


def test_it_says_what_it_was_made_of(
    file: bytes, facts: EnrolmentFacts, signers: dict[str, Ed25519FileSigner]
) -> None:
    found = open_enrolment(file)
    assert found.facts == replace(facts, requests=found.facts.requests)
    assert {role: key.key_id for role, key in found.keys.items()} == {
        role: signer.key_id for role, signer in signers.items()
    }
    assert len(found.fingerprint) == 64


def test_only_who_had_the_kit_answers_it(file: bytes) -> None:
    found = open_enrolment(file)
    assert found.answers(TOKEN)
    assert not found.answers(bytes(32))


def test_nobody_enrols_a_node_key_that_they_do_not_hold(
    facts: EnrolmentFacts, signers: dict[str, Ed25519FileSigner]
) -> None:
    mine = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(VerificationError, match="not signed by the node key"):
        make_enrolment(facts, controller=signers["controller"], node_key=mine, token=TOKEN)


def test_only_the_controller_signs_it(
    facts: EnrolmentFacts,
    signers: dict[str, Ed25519FileSigner],
    node: ec.EllipticCurvePrivateKey,
) -> None:
    with pytest.raises(VerificationError, match="may not sign"):
        make_enrolment(facts, controller=signers["log"], node_key=node, token=TOKEN)


@pytest.mark.parametrize(
    ("party", "federation", "says"),
    [("region-2", FEDERATION, "key of region-2"), (REGION, "other.example", "other.example")],
)
def test_another_partys_key_is_not_slipped_in(
    facts: EnrolmentFacts,
    signers: dict[str, Ed25519FileSigner],
    node: ec.EllipticCurvePrivateKey,
    party: str,
    federation: str,
    says: str,
) -> None:
    foreign = make_request(
        signers["log"], federation=federation, party=party, role="log", at_ms=now_ms()
    )
    altered = replace(facts, requests={**facts.requests, "log": foreign})
    with pytest.raises(VerificationError, match=says):
        make_enrolment(altered, controller=signers["controller"], node_key=node, token=TOKEN)


def test_every_role_has_one_key(
    facts: EnrolmentFacts,
    signers: dict[str, Ed25519FileSigner],
    node: ec.EllipticCurvePrivateKey,
) -> None:
    fewer = {role: data for role, data in facts.requests.items() if role != "permit"}
    for requests in (fewer, {**fewer, "permit": facts.requests["trainer"]}):
        with pytest.raises(VerificationError, match=r"exactly one key of each role|two trainer"):
            make_enrolment(
                replace(facts, requests=requests),
                controller=signers["controller"],
                node_key=node,
                token=TOKEN,
            )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGsD0WIXPGG9ZGBzwMGnYTCSOdbGW4CTy/4HRfvBH1cT",
        line_of(ec.generate_private_key(ec.SECP256R1())),
        "ecdsa-sha2-nistp384 AAAA",
        "ecdsa-sha2-nistp384 ü",
    ],
)
def test_other_node_keys_than_p384_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="node key"):
        node_public_key(text)


def edit(**changes: object) -> Callable[[dict[str, object]], None]:
    return lambda fields: fields.update(changes)


@pytest.mark.parametrize(
    "alter",
    [
        edit(v="fedpref-enrolment-file/2"),
        edit(envelope="AAAA"),
        edit(envelope=5),
        edit(node_proof=""),
        edit(node_proof="A"),
        edit(kit_proof="x"),
        edit(more=1),
        lambda fields: fields.pop("kit_proof"),
    ],
)
def test_a_malformed_file_is_refused(
    file: bytes, alter: Callable[[dict[str, object]], None]
) -> None:
    fields = canonical_json.decode(file, max_bytes=MAX_ENROLMENT_BYTES)
    assert isinstance(fields, dict)
    alter(fields)  # type: ignore[arg-type]
    with pytest.raises(FedprefError):
        open_enrolment(canonical_json.encode(fields, max_bytes=MAX_ENROLMENT_BYTES))


@given(st.data())
def test_any_changed_byte_is_noticed(file: bytes, data: st.DataObject) -> None:
    altered = bytearray(file)
    altered[data.draw(st.integers(0, len(file) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = open_enrolment(bytes(altered))
    except FedprefError:
        return
    # The proof by the token is the coordinator's to check.
    assert not found.answers(TOKEN)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    with pytest.raises(FormatError):
        open_enrolment(data)
    wrapped = {
        "v": "fedpref-enrolment-file/1",
        "envelope": base64.b64encode(data).decode(),
        "node_proof": "",
        "kit_proof": "0" * 64,
    }
    with pytest.raises(FedprefError):
        open_enrolment(canonical_json.encode(wrapped))
