"""Commissioning a region: what happens once the federation has enrolled its keys.

The registry comes into the home, under the root keys that the kit named; the log begins with it,
and with the region's notice and policy; consents that the region holds are imported; permits are
signed. All of it is done by the engine's user, while no engine runs. Repeating it changes nothing
that is there, and goes on where it stopped.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.consent_service.bulk_import import ImportRequest, import_consents
from client.consent_service.forms import FILE_NAME as FORM_NAME
from client.consent_service.forms import FormSettings
from client.consent_service.notices import read_notice_file
from client.engine.home import RegionHome
from client.engine.permit_desk import only_bundle, sign_permit
from client.engine.permit_shelf import PermitShelf
from client.engine.service import open_engine
from client.installation.composed_settings import ENGINE_USER
from client.installation.installing import KIT_FOLDER
from client.installation.ownership import own_region, process_user
from client.installation.region_home import begin_records
from client.settings import RegionSettings
from common import errors
from common.envelope import Envelope
from common.errors import FedprefError, FormatError, InputError, PolicyError, StorageError
from common.kit import MANIFEST, manifest_facts
from common.node_environment import process_environment
from common.plan import RunPlan
from common.registry_install import install_version, registry_envelopes
from common.system_users import run_as
from common.timestamps import now_ms

#: For how long a permit holds that is signed at commissioning, in seconds.
PERMIT_VALID_S = 7 * 24 * 3600
_TIMEOUT_S = 3600.0
_DAY_S = 24 * 3600


@dataclass(frozen=True)
class Commissioned:
    """What came of it.

    Attributes:
        region: The region.
        registry_version: The registry's version in its home.
        imported: How many consents were logged now.
        permits: The runs that it permits, of those asked for.
    """

    region: str
    registry_version: int
    imported: int
    permits: tuple[str, ...]


def commission(
    settings: RegionSettings, *, registry: Sequence[bytes], plans: Sequence[RunPlan]
) -> Commissioned:
    """Commissions a region; to be called as the engine's user, while no engine runs.

    Args:
        settings: The region's settings.
        registry: The federation's registry, all versions from the first; empty to leave the home's.
        plans: The runs to permit.

    Raises:
        VerificationError: The registry is not under the root keys of the region's kit, is a fork,
            or does not enrol the region's keys.
        PolicyError: The policy does not allow a plan.
        InputError: A file that the settings name is missing or malformed.
        StorageError: An engine runs, or the disk refuses.
    """
    home = settings.home
    if registry:
        _install_registry(settings, home, registry)
    _require_enrolled(home)
    _write_form(settings, home)
    notices = [] if settings.notice is None else [read_notice_file(settings.notice.file)]
    begin_records(home, policy=settings.policy, notices=notices)
    imported = _import(settings, home)
    permits = _permit(settings, home, plans)
    version = len(registry_envelopes(home.registry))
    return Commissioned(home.region, version, imported, permits)


def commission_as_engine_user(
    folder: Path, *, registry: Path | None, plans: Sequence[Path]
) -> Commissioned:
    """Commissions a region from whatever user the caller is: root becomes the engine's user.

    Args:
        folder: The region's folder.
        registry: The folder of the registry's versions; None leaves the home's as they are.
        plans: The plans of the runs to permit.

    Raises:
        FedprefError: As `commission` does.
    """
    settings = RegionSettings.read(folder)
    versions = [] if registry is None else _read_registry(registry)
    read = [_read_plan(path) for path in plans]
    own_region(settings.folder, settings)
    user = process_user(settings.engine.user, ENGINE_USER)
    if user is None:
        return commission(settings, registry=versions, plans=read)
    request = {
        "folder": str(settings.folder.absolute()),
        "registry": [base64.b64encode(data).decode("ascii") for data in versions],
        "plans": [plan.to_record() for plan in read],
    }
    ended = run_as(
        user,
        [sys.executable, "-m", "client.installation.commissioning"],
        environment=process_environment(settings.home.root),
        stdin=json.dumps(request).encode(),
        timeout_s=_TIMEOUT_S,
    )
    return _answer(ended.stdout, ended.stderr, settings.region.name)


def _install_registry(
    settings: RegionSettings, home: RegionHome, registry: Sequence[bytes]
) -> None:
    """Takes in the versions that the home lacks; the first is trusted by the kit's root keys."""
    path = settings.folder / KIT_FOLDER / MANIFEST
    try:
        roots = manifest_facts(Envelope.decode(path.read_bytes())).root_keys
    except OSError as error:
        raise InputError(
            f"The kit that {home.region} was installed from is missing: {path}.",
            remedy="Install the kit again: fedpref-region install.",
        ) from error
    for data in registry:
        install_version(
            home.registry,
            home.root / "evidence",
            data,
            federation=home.federation,
            root_key_ids=tuple(roots),
        )


def _require_enrolled(home: RegionHome) -> None:
    registry = home.read_registry()
    enrolled = {entry.key_id for entry in registry.entries if entry.party == home.region}
    missing = [
        role
        for role in ("log", "trainer", "controller")
        if home.signer(role).key_id not in enrolled
    ]
    if missing:
        raise InputError(
            f"{home.region}: the registry in {home.registry} does not have its {missing[0]} key.",
            remedy="Send enrolment.json to the coordinator; take the registry that enrols it.",
        )


def _write_form(settings: RegionSettings, home: RegionHome) -> None:
    if settings.form is None:
        if not (home.root / FORM_NAME).exists():
            raise InputError(
                f"{settings.path}: [form] is missing: what all consents have in common.",
                remedy="Write it: legal_basis and withdrawal; see docs/examples/region.toml.",
            )
        return
    days = settings.form.lasts_days
    FormSettings(
        legal_basis=settings.form.legal_basis,
        jurisdiction=settings.region.jurisdiction,
        withdrawal=settings.form.withdrawal,
        data=tuple(settings.form.data),
        lasts_s=None if days is None else days * _DAY_S,
    ).write(home.root)


def _import(settings: RegionSettings, home: RegionHome) -> int:
    declared = settings.consents
    if declared is None:
        return 0
    request = ImportRequest(
        declared.file,
        declared.map,
        tuple(declared.grant),
        lang=declared.lang,
        time_zone=declared.time_zone,
    )
    return import_consents(home, request).imported


def _permit(
    settings: RegionSettings, home: RegionHome, plans: Sequence[RunPlan]
) -> tuple[str, ...]:
    wanted = [plan for plan in plans if not _is_permitted(settings, home, plan)]
    if wanted:
        app = only_bundle(settings.policy)
        with open_engine(home) as engine:
            for plan in wanted:
                sign_permit(engine, plan, app=app, valid_for_s=PERMIT_VALID_S)
    return tuple(plan.run_id for plan in plans)


def _is_permitted(settings: RegionSettings, home: RegionHome, plan: RunPlan) -> bool:
    """Whether there is a permit for this very plan that holds now: by policy, engine and clock."""
    shelf = PermitShelf(home, settings.policy, home.read_registry(), now_ms)
    try:
        return shelf.open(plan.run_id).plan.digest == plan.digest
    except PolicyError:
        # None yet, or none that holds: signing says why it may not be replaced.
        return False


def _read_registry(folder: Path) -> list[bytes]:
    versions = registry_envelopes(folder)
    if not versions:
        raise InputError(
            f"There is no version of a key registry in {folder}.",
            remedy="Name the folder that holds 1.json, as the coordinator sent it.",
        )
    return versions


def _read_plan(path: Path) -> RunPlan:
    from client.engine.plan_file import read_plan

    return read_plan(path)


def _answer(stdout: bytes, stderr: bytes, region: str) -> Commissioned:
    """What the process that became the engine's user has to say."""
    try:
        answer = json.loads(stdout.decode("utf-8").strip().rpartition("\n")[2])
        if "error" in answer:
            kind = getattr(errors, str(answer["error"]), FedprefError)
            if not (isinstance(kind, type) and issubclass(kind, FedprefError)):
                kind = FedprefError
            raise kind(str(answer["message"]), remedy=str(answer["remedy"]))
        return Commissioned(
            str(answer["region"]),
            int(answer["registry_version"]),
            int(answer["imported"]),
            tuple(str(run) for run in answer["permits"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{region} could not be commissioned by its engine's user: "
            f"{stderr.decode(errors='replace').strip()[-500:]}",
            remedy="Let that user read this installation and the region's folder.",
        ) from error


def main() -> int:
    """Commissions the region that standard input names, and answers on standard output."""
    try:
        request = json.loads(sys.stdin.buffer.read())
        done = commission(
            RegionSettings.read(Path(request["folder"])),
            registry=[base64.b64decode(text, validate=True) for text in request["registry"]],
            plans=[RunPlan.from_record(record) for record in request["plans"]],
        )
        answer: dict[str, object] = {
            "region": done.region,
            "registry_version": done.registry_version,
            "imported": done.imported,
            "permits": list(done.permits),
        }
    except (binascii.Error, KeyError, ValueError) as error:
        answer = _refusal(FormatError(f"The request to commission is malformed: {error}."))
    except FedprefError as error:
        answer = _refusal(error)
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 0


def _refusal(error: FedprefError) -> dict[str, object]:
    known = type(error).__name__
    if not hasattr(errors, known):
        known = next(
            each.__name__ for each in type(error).__mro__ if hasattr(errors, each.__name__)
        )
    return {"error": known, "message": error.message, "remedy": error.remedy}


if __name__ == "__main__":
    raise SystemExit(main())
