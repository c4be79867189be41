"""The audit bundle of a deployment's run: made of the coordinator's home and the regions' homes.

A whole bundle has the regions' consents in it: it is made where all of them may lie, and
`fedpref-audit export` makes of it what may cross a border. The regions' logs are opened read-only,
beside their engines; of their homes nothing else is looked at but what they have witnessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from common import canonical_json
from common.audit.bundle import write_bundle
from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.audit.verify.verdict import Verdict
from common.audit.witness.store import CosignatureStore, WitnessStore
from common.durable_file import write_durably
from common.errors import FormatError, InputError, StorageError
from common.plan import RunPlan
from common.system_users import SystemUser, acting_as, is_root
from common.timestamps import now_ms
from server.config import SERVER_PARTY, ServerHome
from server.model_card import CARD_FILES, card_of

MODEL_NAME = "model.safetensors"
_HOME_NAME = "home"


def bundle_run(home: ServerHome, regions: Sequence[Path], out: Path) -> Verdict:
    """Writes the audit bundle of a finished run, and verifies it.

    Args:
        home: The coordinator's home, for the run.
        regions: The folder of each of the plan's regions, or its home; or a backup of it.
        out: The folder to write: the model and its card, or the answers, and ``bundle`` beside
            them.

    Raises:
        InputError: A region of the plan is missing, or one is not of the plan.
        StorageError: A log cannot be read, or the disk refuses.
    """
    plan = home.read_plan()
    homes = _homes_of(plan, regions)
    artifacts = _write_published(home, plan, out)
    places = {SERVER_PARTY: home.root, **homes}
    with ExitStack() as stack:
        logs = {
            party: stack.enter_context(_log_of(party, folder)) for party, folder in places.items()
        }
        cosigned, witnessed, evidence = _witnesses(plan, places, logs)
        with acting_as(_owner(home.keys)):
            signer = home.signer("aggregator")
        write_bundle(
            out,
            federation=plan.federation,
            run=plan.run_id,
            registry=home.registry_envelopes(),
            plan=home.plan.read_bytes(),
            logs=logs,
            artifacts=artifacts,
            signer=signer,
            created_at_ms=now_ms(),
            cosigned=cosigned,
            witnessed=witnessed,
            evidence=evidence,
        )
    return verify_bundle(out)


def _write_published(home: ServerHome, plan: RunPlan, out: Path) -> tuple[str, ...]:
    """Writes what the run has published into a folder, and gives the files' names."""
    published = (home.answers, home.answers_facts) if plan.asks else (home.model,)
    missing = next((path for path in published if not path.is_file()), None)
    if missing is not None:
        raise InputError(
            f"The run {plan.run_id} has published no {'answers' if plan.asks else 'model'}: "
            f"{missing} is not there.",
            remedy="Let it finish: fedpref-server status.",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in published:
            write_durably(out / path.name, path.read_bytes(), mode=0o644)
        if not plan.asks:
            card_of(home).write(out)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror}.") from error
    return tuple(path.name for path in published) + (() if plan.asks else CARD_FILES)


def _homes_of(plan: RunPlan, regions: Sequence[Path]) -> dict[str, Path]:
    homes: dict[str, Path] = {}
    for folder in regions:
        home = folder / _HOME_NAME if (folder / _HOME_NAME / "home.json").exists() else folder
        homes[_region_of(home)] = home
    missing = sorted(set(plan.regions) - homes.keys())
    if missing:
        raise InputError(
            f"The run's bundle needs the log of each of its regions; that of {missing[0]} is not "
            "among the folders.",
            remedy="Name every region's folder with --region.",
        )
    return {region: homes[region] for region in plan.regions}


def _region_of(home: Path) -> str:
    path = home / "home.json"
    try:
        record = canonical_json.decode(path.read_bytes())
    except (OSError, FormatError) as error:
        raise InputError(f"{home} is not a region's home: {path} cannot be read.") from error
    if not isinstance(record, dict) or not isinstance(record.get("region"), str):
        raise InputError(f"{path} does not say whose home it is.")
    return str(record["region"])


def _log_of(party: str, folder: Path) -> AuditLog:
    path = folder / "log.sqlite"
    if not path.is_file():
        raise InputError(f"The log of {party} is missing: {path}.")
    return AuditLog.open_read_only(path)


def _witnesses(
    plan: RunPlan, places: Mapping[str, Path], logs: Mapping[str, AuditLog]
) -> tuple[
    dict[str, dict[int, bytes]],
    dict[str, dict[str, bytes]],
    dict[str, list[tuple[str, bytes, bytes]]],
]:
    """The cosigned notes of each log, what each party witnessed, and the conflicts it keeps."""
    cosigned: dict[str, dict[int, bytes]] = {}
    witnessed: dict[str, dict[str, bytes]] = {}
    evidence: dict[str, list[tuple[str, bytes, bytes]]] = {}
    for party, folder in places.items():
        with acting_as(_owner(folder)), WitnessStore.open(folder / "witness.sqlite") as store:
            witnessed[party] = {_party(origin): note for origin, note in store.notes().items()}
            evidence[party] = [
                (_party(each.origin), each.known, each.other) for each in store.evidence()
            ]
            kept = CosignatureStore(store, f"{plan.federation}/{party}")
            cosigned[party] = {
                size: kept.note(size, logs[party].checkpoint_at(size)) for size in kept.sizes()
            }
    return cosigned, witnessed, evidence


def _owner(path: Path) -> SystemUser | None:
    """Whose it is, for root to open it as them; None for whoever else we are."""
    if not is_root():
        return None
    state = path.stat()
    return SystemUser(str(state.st_uid), state.st_uid, state.st_gid)


def _party(origin: str) -> str:
    return origin.rpartition("/")[2]
