"""Start-up kits: whole and signed, or refused; nothing of them is unpacked elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import kit as kits
from common.errors import FedprefError, FormatError, VerificationError
from common.key_files import Ed25519FileSigner, generate_key
from common.kit import COVERED, TOKEN, Kit, KitFacts, make_kit, open_kit

PASSPHRASE = b"a passphrase of a test"
FILES = {
    "ca.crt": b"certificate",
    "catalogue.parquet": b"catalogue",
    "region.toml.example": b"# example",
    "README.md": b"# kit",
    TOKEN: b"ab" * 32 + b"\n",
}


@pytest.fixture(scope="module")
def officers(tmp_path_factory: pytest.TempPathFactory) -> list[Ed25519FileSigner]:
    folder = tmp_path_factory.mktemp("officers")
    return [generate_key(folder / f"root-{n}.pem", PASSPHRASE) for n in range(3)]


@pytest.fixture(scope="module")
def facts(officers: list[Ed25519FileSigner]) -> KitFacts:
    return KitFacts(
        federation="small.example",
        region="region-1",
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


@pytest.fixture(scope="module")
def archive(facts: KitFacts, officers: list[Ed25519FileSigner]) -> bytes:
    return make_kit(facts, FILES, officers[:2])


def unpacked(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        return {
            member.name: opened.extractfile(member).read()  # type: ignore[union-attr]
            for member in opened
        }


def packed(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return raw.getvalue()


def test_a_kit_says_what_it_was_made_of(archive: bytes, facts: KitFacts) -> None:
    kit = open_kit(archive, root_key_ids=())
    assert kit.facts == replace(facts, root_keys=kit.facts.root_keys)
    assert dict(kit.facts.root_keys) == dict(facts.root_keys)
    assert dict(kit.files) == FILES
    assert kit.token == bytes.fromhex("ab" * 32)
    assert kit.sha256 == hashlib.sha256(kit.manifest).hexdigest()


def test_the_same_kit_has_the_same_bytes(
    archive: bytes, facts: KitFacts, officers: list[Ed25519FileSigner]
) -> None:
    assert make_kit(facts, FILES, officers[:2]) == archive


def test_its_checksums_are_what_sha256sum_reads(archive: bytes) -> None:
    files = unpacked(archive)
    lines = files["region-1/SHA256SUMS"].decode().splitlines()
    named = dict(reversed(line.split("  ")) for line in lines)
    assert set(named) == COVERED | {"kit.json"}
    for name, digest in named.items():
        assert hashlib.sha256(files[f"region-1/{name}"]).hexdigest() == digest


def test_root_keys_that_were_told_must_be_those_of_the_kit(archive: bytes, facts: KitFacts) -> None:
    assert isinstance(open_kit(archive, root_key_ids=tuple(facts.root_keys)), Kit)
    for told in (["0" * 64], [*facts.root_keys][:2], [*facts.root_keys, "0" * 64]):
        with pytest.raises(VerificationError, match="other root keys"):
            open_kit(archive, root_key_ids=told)


def test_too_few_officers_make_no_kit(facts: KitFacts, officers: list[Ed25519FileSigner]) -> None:
    with pytest.raises(VerificationError, match="1 signatures; 2 are required"):
        make_kit(facts, FILES, officers[:1])


def test_a_threshold_of_half_the_keys_is_refused(
    facts: KitFacts, officers: list[Ed25519FileSigner]
) -> None:
    with pytest.raises(FormatError, match="not more than half"):
        make_kit(replace(facts, root_threshold=1), FILES, officers[:2])


def change(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        files[f"region-1/{name}"] = data

    return apply


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.pop(f"region-1/{name}") and None


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (change("ca.crt", b"another CA"), "ca.crt is not the file"),
        (change("catalogue.parquet", b"another"), "catalogue.parquet is not the file"),
        (change(TOKEN, b"cd" * 32 + b"\n"), "enrolment.token is not the file"),
        (change("SHA256SUMS", b""), "SHA256SUMS is not that of its files"),
        (change("kit.json", b"{}"), "exactly the fields"),
        (change("more", b""), "and no others"),
        (drop("README.md"), "and no others"),
        (lambda files: files.update({"../escape": b""}), "exactly one folder"),
        (lambda files: files.update({"/etc/passwd": b""}), "which no kit has"),
        (lambda files: files.update({"region-1/a/b": b""}), "which no kit has"),
        (lambda files: files.update({"region-2/ca.crt": b"x"}), "which no kit has"),
    ],
)
def test_whatever_is_changed_in_it_is_named(
    archive: bytes, alter: Callable[[dict[str, bytes]], None], says: str
) -> None:
    files = unpacked(archive)
    alter(files)
    with pytest.raises(FedprefError, match=says):
        open_kit(packed(files), root_key_ids=())


def test_a_link_in_it_is_refused(archive: bytes) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as made:
        link = tarfile.TarInfo("region-1/ca.crt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
    with pytest.raises(FormatError, match="which no kit has"):
        open_kit(raw.getvalue(), root_key_ids=())


def test_another_officer_cannot_vouch_for_it(
    facts: KitFacts, officers: list[Ed25519FileSigner], tmp_path: Path
) -> None:
    stranger = generate_key(tmp_path / "stranger.pem", PASSPHRASE)
    with pytest.raises(VerificationError, match="may not sign"):
        make_kit(facts, FILES, [officers[0], stranger])


def test_a_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kits, "MAX_KIT_BYTES", 1 << 16)
    with pytest.raises(FormatError, match="larger than 65536 bytes"):
        open_kit(gzip.compress(bytes(1 << 20)), root_key_ids=())


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    for attempt in (data, gzip.compress(data)):
        with pytest.raises(FormatError):
            open_kit(attempt, root_key_ids=())


@given(st.data())
def test_a_kit_with_any_byte_changed_is_refused(archive: bytes, data: st.DataObject) -> None:
    plain = bytearray(gzip.decompress(archive))
    place = data.draw(st.integers(0, len(plain) - 1))
    before = unpacked(archive)
    plain[place] ^= data.draw(st.integers(1, 255))
    try:
        kit = open_kit(gzip.compress(bytes(plain)), root_key_ids=())
    except FedprefError:
        return
    # What the archive says beside the files, such as a time, is nobody's concern.
    assert {f"region-1/{name}": content for name, content in kit.files.items()}.items() <= (
        before.items()
    )
