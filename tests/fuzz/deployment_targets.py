"""Targets: what travels when a federation is set up, and what an operator writes for it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.enrolment import (
    MAX_ENROLMENT_BYTES,
    REGION_ROLES,
    EnrolmentFacts,
    make_enrolment,
    open_enrolment,
)
from common.key_files import Ed25519FileSigner, generate_key
from common.key_request import make_request
from common.kit import TOKEN, KitFacts, make_kit, open_kit
from server.provisioning.federation_config import parse_federation
from tests.fuzz.record_targets import scratch
from tests.fuzz.target import Target, same
from tests.support.small_deployment import declaration

_FEDERATION, _REGION = "small.example", "region-1"
_TOKEN = bytes(range(32))
_PASSPHRASE = b"a passphrase of a test"


@cache
def _signer(name: str) -> Ed25519FileSigner:
    path = scratch() / f"deployment-{name}.pem"
    path.unlink(missing_ok=True)
    return generate_key(path, _PASSPHRASE)


def _kit(data: bytes) -> None:
    """Zipped here, so that changed bytes are a changed archive and not only a torn one."""
    kit = open_kit(gzip.compress(data, compresslevel=1), root_key_ids=())
    same(len(kit.token), 32)
    assert "/" not in "".join(kit.files)


def _kits() -> Iterator[bytes]:
    officers = [_signer(f"root-{number}") for number in range(2)]
    facts = KitFacts(
        federation=_FEDERATION,
        region=_REGION,
        jurisdiction="DE",
        issued_at="2026-01-01T00:00:00.000Z",
        address="fed.example:9443",
        server_name="fed.example",
        root_keys={each.key_id: each.public_key for each in officers},
        root_threshold=2,
        witness_quorum=2,
        catalogue_sha256="0" * 64,
        n_items=12,
        app_sha256="1" * 64,
        protocol=1,
    )
    files = {
        "ca.crt": b"certificate",
        "catalogue.parquet": b"catalogue",
        "region.toml.example": b"# example",
        "README.md": b"# kit",
        TOKEN: _TOKEN.hex().encode() + b"\n",
    }
    yield gzip.decompress(make_kit(facts, files, officers))


def _enrolment(data: bytes) -> None:
    found = open_enrolment(data)
    same(set(found.keys), REGION_ROLES)
    same(len(found.kit_proof), 32)


def _enrolments() -> Iterator[bytes]:
    node = ec.generate_private_key(ec.SECP384R1())
    signers = {role: _signer(role) for role in sorted(REGION_ROLES)}
    facts = EnrolmentFacts(
        federation=_FEDERATION,
        region=_REGION,
        kit_sha256="2" * 64,
        node_key=node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        requests={
            role: make_request(signer, federation=_FEDERATION, party=_REGION, role=role, at_ms=0)
            for role, signer in signers.items()
        },
        protocol=1,
        engine="3" * 64,
        enrolled_at="2026-01-01T00:00:00.000Z",
    )
    yield make_enrolment(facts, controller=signers["controller"], node_key=node, token=_TOKEN)


def _federation(data: bytes) -> None:
    config = parse_federation(data, Path("federation.toml"))
    same(parse_federation(data, Path("federation.toml")), config)
    assert config.federation.quorum <= len(config.regions)


def _federations() -> Iterator[bytes]:
    yield tomli_w.dumps(declaration()).encode()


TARGETS = (
    Target("kit", _kit, _kits, runs=200),
    Target("enrolment", _enrolment, _enrolments, max_bytes=MAX_ENROLMENT_BYTES, runs=300),
    Target("federation", _federation, _federations, runs=300),
)
