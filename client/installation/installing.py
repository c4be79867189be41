"""Installing a start-up kit: a region's folder with its keys, its settings and its enrolment.

Nothing of this needs the coordinator, and nothing leaves but ``enrolment.json``, which the operator
sends. Repeating it goes on where it stopped: keys that are there stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from client.engine.home import HOME_NAME, RegionHome
from client.engine.provenance import engine_digest
from client.installation.composed_settings import (
    Answers,
    used_runtime_ports,
    write_settings,
)
from client.installation.node_key import node_key, public_line
from client.installation.ownership import own_region
from client.installation.region_home import make_home, make_keys
from client.settings import RegionSettings
from common.durable_file import write_durably
from common.enrolment import EnrolmentFacts, make_enrolment, open_enrolment
from common.errors import InputError, StorageError
from common.key_request import make_request
from common.kit import CA_CERTIFICATE, CATALOGUE, MANIFEST, README, Kit, open_kit
from common.messages import PROTOCOL_VERSION
from common.system_users import as_owner
from common.timestamps import format_time, now_ms

ENROLMENT_NAME = "enrolment.json"
KIT_FOLDER = "kit"
_MAX_KIT_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class InstalledRegion:
    """What came of installing a kit.

    Attributes:
        region: The region.
        folder: Its folder.
        root_key_ids: The federation's root keys by the kit: to be compared with the officers'.
        fingerprint: The enrolment's digest: to be told to the officers.
        answered: Whether its settings are complete.
    """

    region: str
    folder: Path
    root_key_ids: tuple[str, ...]
    fingerprint: str
    answered: bool


def install_kit(
    kit_file: Path,
    into: Path,
    *,
    answers_of: Callable[[str], Answers | None] | None,
    root_key_ids: Collection[str],
) -> InstalledRegion:
    """Installs one kit.

    Args:
        kit_file: The kit.
        into: The folder of regions; the region's own is made in it.
        answers_of: The operator's answers for a region; None if there are none for any.
        root_key_ids: The ids of the federation's root keys, as the officers told them; empty to
            take the kit's own.

    Raises:
        FormatError: The file is no kit.
        VerificationError: A file or signature in it does not hold.
        InputError: An answer is wrong, or another region is installed there.
        StorageError: The disk is full or refuses.
    """
    kit = open_kit(_read(kit_file), root_key_ids=root_key_ids)
    folder = into / kit.facts.region
    home = RegionHome(folder / HOME_NAME, kit.facts.region, kit.facts.federation)
    _require_own(home)
    _make_folders(folder)
    _write_kit(folder, kit)
    with as_owner(home.root):
        make_home(home)
        _write(home.catalogue, kit.files[CATALOGUE], mode=0o644)
    answered = write_settings(
        folder,
        kit,
        None if answers_of is None else answers_of(kit.facts.region),
        used_ports=used_runtime_ports(into, but=kit.facts.region),
    )
    fingerprint = _enrol(folder, home, kit)
    own_region(folder, RegionSettings.read(folder) if answered else None)
    return InstalledRegion(
        kit.facts.region, folder, tuple(kit.facts.root_keys), fingerprint, answered
    )


def _require_own(home: RegionHome) -> None:
    if not home.identity.exists():
        return
    found = RegionHome.read(home.root)
    if (found.region, found.federation) != (home.region, home.federation):
        raise InputError(
            f"{home.root} is the home of {found.region} in {found.federation}.",
            remedy="Install each kit into a folder of its own.",
        )


def _make_folders(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in (KIT_FOLDER, "bin", "run", "logs", "node", HOME_NAME):
            (folder / name).mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The region's folder {folder} cannot be made: {error.strerror}."
        ) from error


def _write_kit(folder: Path, kit: Kit) -> None:
    """Keeps what the kit says; its token is not kept, since it is needed only here."""
    _write(folder / KIT_FOLDER / MANIFEST, kit.manifest, mode=0o644)
    _write(folder / KIT_FOLDER / README, kit.files[README], mode=0o644)
    with as_owner(folder / "node"):
        _write(folder / "node" / CA_CERTIFICATE, kit.files[CA_CERTIFICATE], mode=0o644)


def _enrol(folder: Path, home: RegionHome, kit: Kit) -> str:
    """Writes the enrolment that answers the kit, unless it is there; gives its fingerprint."""
    path = folder / ENROLMENT_NAME
    with as_owner(folder / "node"):
        key = node_key(folder / "node" / "node_key")
    with as_owner(home.root):
        signers = make_keys(home)
    if path.exists():
        found = open_enrolment(path.read_bytes())
        enrolled = {request.key_id for request in found.keys.values()}
        if (
            found.facts.kit_sha256 == kit.sha256
            and found.facts.node_key == public_line(key)
            and enrolled == {signer.key_id for signer in signers.values()}
        ):
            return found.fingerprint
    at_ms = now_ms()
    requests = {
        role: make_request(
            signer, federation=home.federation, party=home.region, role=role, at_ms=at_ms
        )
        for role, signer in signers.items()
    }
    data = make_enrolment(
        EnrolmentFacts(
            federation=home.federation,
            region=home.region,
            kit_sha256=kit.sha256,
            node_key=public_line(key),
            requests=requests,
            protocol=PROTOCOL_VERSION,
            engine=engine_digest(),
            enrolled_at=format_time(at_ms),
        ),
        controller=signers["controller"],
        node_key=key,
        token=kit.token,
    )
    _write(path, data, mode=0o644)
    return open_enrolment(data).fingerprint


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_KIT_FILE_BYTES:
            raise InputError(f"{path} is larger than any kit.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"The kit {path} cannot be read: {error.strerror}.") from error


def _write(path: Path, data: bytes, *, mode: int) -> None:
    try:
        write_durably(path, data, mode=mode)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
