"""An editable copy of a run's evidence, in the hands of those who would falsify it.

The forgers are the operator of one region and the coordinator, acting together: they have every
key of these two parties, and sign and cosign anew whatever they change. They have no root key, no
other region's key and not the outside witness's.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.engine.home import RegionHome
from common import canonical_json
from common.audit.checkpoint import (
    COSIGNATURE_V1,
    Checkpoint,
    NoteKey,
    add_cosignature,
    cosignature_time_s,
    parse_note,
    sign_note,
)
from common.audit.merkle import MerkleAccumulator, leaf_hash
from common.audit.tiles import TILE_WIDTH, decode_bundle, encode_bundle, entries_path
from common.canonical_json import JsonValue
from common.envelope import Envelope, Signature, pae, sign_record
from common.errors import InputError
from common.keys import Signer, load_key
from common.timestamps import format_time, now_ms
from server.config import SERVER_PARTY, ServerHome
from simulations.run_folder import RunFolder

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 64 << 20
_MAX_REGISTRY_BYTES = 1 << 20
Record = dict[str, Any]

#: The role of the key that signs each kind of record.
ROLES = {
    "notice": "controller",
    "policy": "controller",
    "consent": "consent",
    "permit": "permit",
    "charge": "trainer",
    "round": "trainer",
    "release": "trainer",
    "mask": "trainer",
    "unmask": "trainer",
    "incident": "trainer",
    "aggregate": "aggregator",
    "model": "aggregator",
    "answers": "aggregator",
}


class Forgery:
    """One editable copy of a run's bundle.

    Args:
        run: The run's folder; it is only read.
        region: The region whose operator forges.

    Attributes:
        region: That region.
        entries: Every log's entries, by party; edit them in place.
        files: The honest bundle's files by their paths, but the manifest.
        overrides: Files to put in place of what is written, under a new manifest; None removes one.
        artifacts: The results beside the bundle.
        stale: Files to put into the bundle once its manifest is signed; None removes one.
        federation: The federation's name.
    """

    def __init__(self, run: RunFolder, region: str) -> None:
        self._run = run
        self.region = region
        self.manifest = self._read_manifest()
        self.federation = str(self.manifest["federation"])
        self.files = {name: self._read(name) for name in sorted(self.manifest["files"])}
        self.artifacts = {
            name: (run.root / name).read_bytes() for name in sorted(self.manifest["artifacts"])
        }
        self.overrides: dict[str, bytes | None] = {}
        self.stale: dict[str, bytes | None] = {}
        self.entries = {party: self._read_log(party) for party in self._parties()}
        self._honest = {party: list(entries) for party, entries in self.entries.items()}

    # -- keys ------------------------------------------------------------------------------------

    def signer(self, party: str, role: str) -> Signer:
        """A key that the forgers have.

        Raises:
            InputError: It is another's.
        """
        if party == SERVER_PARTY:
            return ServerHome(self._run.server).signer(role)
        if party != self.region:
            raise InputError(f"The forgers have no key of {party}.")
        return RegionHome.read(self._run.region_home(party)).signer(role)

    def region_home(self, region: str) -> RegionHome:
        """A region's home: for what only its operator knows."""
        return RegionHome.read(self._run.region_home(region))

    def root_signers(self) -> list[Signer]:
        """Enough of the federation's root keys, for what its root does rightly or is tricked into.

        The forgers do not have these keys.
        """
        folder = self._run.offline_root
        passphrase = (folder / "passphrase").read_bytes().strip()
        paths = sorted(folder.glob("*.pem"))
        threshold = self.registry()["root"]["threshold"]
        return [load_key(path, passphrase) for path in paths[:threshold]]

    def registry(self) -> Record:
        """The record of the newest registry version."""
        return record_of(self._newest_registry()[1])

    def publish_registry(self, record: Record) -> str:
        """Adds a registry version, signed by the root, and gives its file's name."""
        number, newest = self._newest_registry()
        record = record | {
            "registry_version": number + 1,
            "prev": hashlib.sha256(newest).hexdigest(),
            "issued_at": format_time(now_ms()),
        }
        name = f"registry/{number + 1}.json"
        signed = sign_record(record, *self.root_signers(), max_bytes=_MAX_REGISTRY_BYTES)
        self.overrides[name] = signed
        return name

    # -- reading ---------------------------------------------------------------------------------

    def record(self, party: str, index: int) -> Record:
        """The record of an entry, to be changed at will."""
        return record_of(self.entries[party][index])

    def find(self, party: str, kind: str, **fields: JsonValue) -> list[int]:
        """The indices of a kind's entries whose records have these fields."""
        found = []
        for index, data in enumerate(self.entries[party]):
            if Envelope.decode(data).kind != kind:
                continue
            record = record_of(data)
            if all(record.get(name) == value for name, value in fields.items()):
                found.append(index)
        return found

    # -- forging ---------------------------------------------------------------------------------

    def sign(self, party: str, record: Record, *, role: str | None = None) -> bytes:
        """An entry signed with the party's own key of the kind's role, or of another."""
        kind = str(record["v"]).removeprefix("fedpref-").removesuffix("/1")
        return sign_record(record, self.signer(party, role or ROLES[kind]))

    def sign_payload(self, party: str, payload: bytes, kind: str) -> bytes:
        """An entry over any bytes, canonical or not."""
        payload_type = f"application/vnd.fedpref.{kind}+json"
        signer = self.signer(party, ROLES[kind])
        signature = Signature(signer.key_id, signer.sign(pae(payload_type, payload)))
        return Envelope(payload_type, payload, (signature,)).encode()

    def change(self, party: str, index: int, change: Callable[[Record], object]) -> None:
        """Changes an entry's record and signs it anew."""
        record = self.record(party, index)
        change(record)
        self.entries[party][index] = self.sign(party, record)

    def checkpoint(self, party: str, size: int, *, entries: list[bytes] | None = None) -> bytes:
        """A checkpoint of a log's first entries, signed by it and cosigned by what forgers have."""
        tree = MerkleAccumulator()
        for data in (self.entries[party] if entries is None else entries)[:size]:
            tree.append(leaf_hash(data))
        origin = f"{self.federation}/{party}"
        body = Checkpoint(origin, size, tree.root()).body()
        note = sign_note(body, origin, self.signer(party, "log"))
        for witness in (SERVER_PARTY, self.region):
            if witness != party:
                note = add_cosignature(
                    note.encode(),
                    witness,
                    self.signer(witness, "witness"),
                    time_s=self._cosigned_s(party, size),
                )
        return note.encode()

    def write(self, folder: Path) -> Path:
        """Writes the forged run: logs that were changed under new checkpoints, a new manifest."""
        shutil.rmtree(folder, ignore_errors=True)
        files = dict(self.files)
        for party, entries in self.entries.items():
            if entries != self._honest[party]:
                files = {n: d for n, d in files.items() if not n.startswith(f"logs/{party}/")}
                files |= self._log_files(party)
        for name, data in self.overrides.items():
            if data is None:
                del files[name]
            else:
                files[name] = data
        _write_all(folder / "bundle", files)
        _write_all(folder, self.artifacts)
        (folder / "bundle" / MANIFEST).write_bytes(self._signed_manifest(files))
        for name, data in self.stale.items():
            path = folder / name
            if data is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return folder

    def _newest_registry(self) -> tuple[int, bytes]:
        files = self.files | {n: d for n, d in self.overrides.items() if d is not None}
        number = max(int(name[9:-5]) for name in files if name.startswith("registry/"))
        return number, files[f"registry/{number}.json"]

    # -- inside ----------------------------------------------------------------------------------

    def _read_manifest(self) -> Record:
        path = self._run.bundle / MANIFEST
        try:
            envelope = Envelope.decode(path.read_bytes(), max_bytes=_MAX_MANIFEST_BYTES)
        except OSError as error:
            raise InputError(
                f"{self._run.root} has no bundle: {error.strerror}.",
                remedy="Name the folder of a finished run.",
            ) from error
        record: Record = envelope.record()
        return record

    def _read(self, name: str) -> bytes:
        return (self._run.bundle / name).read_bytes()

    def _parties(self) -> list[str]:
        return sorted({name.split("/")[1] for name in self.files if name.startswith("logs/")})

    def _read_log(self, party: str) -> list[bytes]:
        """Takes a log's entry files out of ``files``: they are written from ``entries``."""
        size = Checkpoint.parse(parse_note(self.files[f"logs/{party}/checkpoint"]).text).size
        entries: list[bytes] = []
        for first in range(0, size, TILE_WIDTH):
            width = min(TILE_WIDTH, size - first)
            name = f"logs/{party}/{entries_path(first // TILE_WIDTH, width)}"
            entries += decode_bundle(self.files[name], width)
        return entries

    def _log_files(self, party: str) -> dict[str, bytes]:
        """The files of a changed log, with new checkpoints of the sizes that it had."""
        entries, folder = self.entries[party], f"logs/{party}"
        places = [name.removeprefix(f"{folder}/checkpoints/") for name in self.files]
        sizes = {int(place) for place in places if place.isdigit() and int(place) <= len(entries)}
        made = {
            f"{folder}/checkpoints/{size}": self.checkpoint(party, size)
            for size in sizes | {len(entries)}
        }
        made[f"{folder}/checkpoint"] = made[f"{folder}/checkpoints/{len(entries)}"]
        for first in range(0, len(entries), TILE_WIDTH):
            part = entries[first : first + TILE_WIDTH]
            made[f"{folder}/{entries_path(first // TILE_WIDTH, len(part))}"] = encode_bundle(part)
        return made

    def _cosigned_s(self, party: str, size: int) -> int:
        """When the coordinator or the region cosigned the honest checkpoint; else now."""
        note = self.files.get(f"logs/{party}/checkpoints/{size}")
        for witness in (SERVER_PARTY, self.region):
            key = NoteKey(witness, self.signer(witness, "witness").public_key, COSIGNATURE_V1)
            for line in parse_note(note).signatures if note else ():
                if (line.name, line.key_id) == (key.name, key.id):
                    return cosignature_time_s(line)
        return now_ms() // 1000

    def _signed_manifest(self, files: dict[str, bytes]) -> bytes:
        record = self.manifest | {
            "files": {name: _state(data) for name, data in sorted(files.items())},
            "artifacts": {name: _state(data) for name, data in sorted(self.artifacts.items())},
        }
        signer = self.signer(SERVER_PARTY, "aggregator")
        return sign_record(record, signer, max_bytes=_MAX_MANIFEST_BYTES)


def record_of(entry: bytes) -> Record:
    """The record of an entry."""
    record: Record = Envelope.decode(entry, max_bytes=_MAX_REGISTRY_BYTES).record()
    return record


def payload_of(entry: bytes) -> bytes:
    """The signed bytes of an entry."""
    value = canonical_json.decode(entry)
    payload = value["payload"] if isinstance(value, dict) else ""
    return base64.b64decode(str(payload))


def _state(data: bytes) -> dict[str, JsonValue]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
