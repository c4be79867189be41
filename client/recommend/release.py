"""The published model that a region serves, loaded by its digest and checked against the logs.

A model is served only if the coordinator's log has it: the ``model`` entry is signed by the
coordinator's aggregator key, its inclusion proof leads to a checkpoint that the coordinator's log
signed and that enough other parties cosigned, and the model, the run plan and the region's
catalogue are the ones that the entry names. All of it is checked from four files and the region's
own key registry, offline, each time a model is loaded:

    recommend/release/<model digest>/model.safetensors    the model
                                     plan.json            the run plan
                                     entry.json           the entry of the coordinator's log
                                     proof.tlog-proof     its proof, with the cosignatures
    recommend/release/current.json                        which one was installed last

`install_release` takes them from a run's audit bundle, which it verifies whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path

from client.engine.home import RegionHome
from client.recommend.settings import ModelSettings, recommend_folder
from common import canonical_json
from common.audit.entry import MAX_ENTRY_BYTES
from common.audit.federation_keys import read_federation_keys
from common.audit.logged_entry import LoggedEntry, verify_logged_entry
from common.audit.proof_file import MAX_PROOF_BYTES, LogProof
from common.audit.verified_bundle import VerifiedBundle, open_verified
from common.audit.verify.replay import SERVER
from common.audit.verify.tiles import PLAN_NAME
from common.canonical_json import JsonValue
from common.durable_file import make_folder_durably, write_durably
from common.envelope import Envelope
from common.errors import FedprefError, FormatError, InputError, StorageError, VerificationError
from common.model_state import ModelState
from common.parameters import arrays_digest, load_arrays
from common.plan import RunPlan
from common.validate import SHA256_HEX

RELEASE_FOLDER = "release"
MODEL_NAME = "model.safetensors"
ENTRY_NAME = "entry.json"
PROOF_NAME = "proof.tlog-proof"
CURRENT_NAME = "current.json"
MAX_MODEL_BYTES = 4 << 30
MAX_PLAN_BYTES = 1 << 20

_CURRENT_VERSION = "fedpref-served-model/1"
_MODEL_KIND = "model"
_INSTALL = "Install the run's model again: fedpref-region recommend install BUNDLE."
_SEAL = object()


@dataclass(frozen=True, eq=False)
class PublishedRelease:
    """A published model whose log entry verifies; made by `load_release` alone.

    Attributes:
        digest: The model's digest.
        model: The model.
        plan: The plan of the run that made it.
        logged: Its entry in the coordinator's log, with those who cosigned it.
    """

    digest: str
    model: ModelState = field(repr=False)
    plan: RunPlan = field(repr=False)
    logged: LoggedEntry = field(repr=False)
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise VerificationError(
                "A release was made past the check of its log entry.",
                remedy="Call client.recommend.release.load_release.",
            )

    @property
    def popularity_noise_stddev(self) -> float:
        """Of the noise on each item's released popularity."""
        return self.plan.mechanisms[0].noise_stddev


def install_release(
    home: RegionHome, source: Path, *, allow_older: bool = False
) -> PublishedRelease:
    """Takes the model of a run's audit bundle, to be served from now on.

    Args:
        home: The region's home.
        source: The run folder: the audit bundle ``bundle`` with ``model.safetensors`` beside it. A
            bundle that crosses borders will do.
        allow_older: Whether a model may be installed that the coordinator published before the
            present one.

    Returns:
        The release, loaded again from what was written.

    Raises:
        InputError: There is no bundle, or no model beside it.
        VerificationError: The bundle does not verify, or the model is not the one it names.
        StorageError: The disk refuses.
    """
    roots = home.read_registry().root_key_ids
    bundle = open_verified(source, root_key_ids=roots)
    index, record = _newest_model(bundle)
    digest, present = str(record["model"]), installed(home)
    if present is not None and index < present[1] and not allow_older:
        raise InputError(
            f"The model of {source} is entry {index} of the coordinator's log, older than the one "
            f"that is served, entry {present[1]}.",
            remedy="Name the bundle of a newer run, or say --older.",
        )
    proof, _ = bundle.prove(SERVER, index, kind=_MODEL_KIND)
    files = {
        MODEL_NAME: _read(_model_beside(bundle), MAX_MODEL_BYTES),
        PLAN_NAME: bundle.folder.read(PLAN_NAME, max_bytes=MAX_PLAN_BYTES),
        ENTRY_NAME: bundle.entry(SERVER, index),
        PROOF_NAME: proof.encode(),
    }
    # Judged before a byte is written: what does not verify never comes to lie there.
    _verified(home, digest, files)
    _write(home, digest, index, files)
    return load_release(home)


def load_release(home: RegionHome, wanted: ModelSettings | None = None) -> PublishedRelease:
    """Loads the model to be served, by its digest, and checks it against its log entry.

    Args:
        home: The region's home.
        wanted: Which model, and of which run; without it, the one that was installed last.

    Raises:
        InputError: No model is installed, or a file of it is missing.
        VerificationError: The entry, its proof, the cosignatures, the model, the plan or the run is
            not what it should be; nothing is served then.
    """
    wanted = wanted or ModelSettings()
    digest = wanted.digest
    if digest is None:
        present = installed(home)
        if present is None:
            raise InputError(
                f"No model is installed in {release_folder(home)}.",
                remedy="Install a run's model: fedpref-region recommend install BUNDLE.",
            )
        digest = present[0]
    folder = release_folder(home) / digest
    limits = {
        MODEL_NAME: MAX_MODEL_BYTES,
        PLAN_NAME: MAX_PLAN_BYTES,
        ENTRY_NAME: MAX_ENTRY_BYTES,
        PROOF_NAME: MAX_PROOF_BYTES,
    }
    release = _verified(
        home, digest, {name: _read(folder / name, most) for name, most in limits.items()}
    )
    if wanted.run is not None and wanted.run != release.plan.run_id:
        raise VerificationError(
            f"The installed model is of the run {release.plan.run_id}; the settings ask for "
            f"{wanted.run}.",
            remedy="Install the model of that run, or correct [model] run.",
        )
    return release


def release_folder(home: RegionHome) -> Path:
    """Where a region's home has the models that may be served."""
    return recommend_folder(home) / RELEASE_FOLDER


def installed(home: RegionHome) -> tuple[str, int] | None:
    """Digest and log index of the model that was installed last; None for none.

    Raises:
        InputError: The file that says so is unreadable or malformed.
    """
    path = release_folder(home) / CURRENT_NAME
    if not path.exists():
        return None
    try:
        record = canonical_json.decode(_read(path, MAX_ENTRY_BYTES))
    except FormatError as error:
        raise InputError(f"{path} is malformed: {error.message}", remedy=_INSTALL) from error
    fields = record if isinstance(record, dict) else {}
    digest, index = fields.get("model"), fields.get("log_index")
    known = fields.get("v") == _CURRENT_VERSION and isinstance(digest, str)
    if not known or type(index) is not int or SHA256_HEX.fullmatch(str(digest)) is None:
        raise InputError(f"{path} does not say which model is installed.", remedy=_INSTALL)
    return str(digest), index


def _verified(home: RegionHome, digest: str, files: Mapping[str, bytes]) -> PublishedRelease:
    """A release of its four files.

    Raises:
        VerificationError: Something of it is not what it should be; says what.
    """
    keys = read_federation_keys(home.registry)
    try:
        logged = verify_logged_entry(
            files[ENTRY_NAME],
            LogProof.parse(files[PROOF_NAME]),
            keys,
            party=SERVER,
            kind=_MODEL_KIND,
        )
        plan = RunPlan.from_record(
            canonical_json.decode(files[PLAN_NAME], max_bytes=MAX_PLAN_BYTES)
        )
        arrays = load_arrays(files[MODEL_NAME], max_bytes=MAX_MODEL_BYTES)
    except FedprefError as error:
        raise _refused(digest, error.message.rstrip(".")) from error
    if not logged.witnessed:
        raise _refused(
            digest,
            f"its log entry has the cosignatures of {len(logged.witnesses)} other parties; "
            f"{logged.quorum} are needed",
        )
    _require_named(home, digest, logged.record, plan)
    if arrays_digest(arrays) != digest:
        raise _refused(digest, f"the arrays of {MODEL_NAME} are not those that the entry names")
    try:
        model = ModelState.of_plan(arrays, plan)
    except FormatError as error:
        raise _refused(digest, error.message.rstrip(".")) from error
    return PublishedRelease(digest, model, plan, logged, seal=_SEAL)


def _require_named(
    home: RegionHome, digest: str, record: Mapping[str, JsonValue], plan: RunPlan
) -> None:
    """Requires that model, plan, run and catalogue are those of the log entry, and the region's."""
    for what, found, stated in (
        ("it is not the model of its log entry", digest, record["model"]),
        ("its plan is of another run than its log entry", plan.run_id, record["run"]),
        ("its plan is not the one of its log entry", plan.digest, record["plan"]),
        ("its plan is over another catalogue", plan.catalogue, record["catalogue"]),
        ("its run is of another federation", plan.federation, home.federation),
    ):
        if found != stated:
            raise _refused(digest, what)
    if home.region not in plan.regions:
        raise _refused(digest, f"its run {plan.run_id} is not one of {home.region}")


def _newest_model(bundle: VerifiedBundle) -> tuple[int, Mapping[str, JsonValue]]:
    """The index and the record of the newest ``model`` entry of the bundle's run."""
    found: tuple[int, Mapping[str, JsonValue]] | None = None
    for index, data in bundle.entries(SERVER):
        envelope = Envelope.decode(data)
        if envelope.kind == _MODEL_KIND:
            record = envelope.record()
            if record["run"] == bundle.verdict.run:
                found = index, record
    if found is None:
        raise InputError(
            f"The run of {bundle.path} has published no model.",
            remedy="Name the bundle of a run that is finished.",
        )
    return found


def _model_beside(bundle: VerifiedBundle) -> Path:
    if bundle.folder.run_folder is None:
        raise InputError(
            f"{bundle.path} is a bundle without the model beside it.",
            remedy=f"Name the folder that has both: the bundle and {MODEL_NAME}.",
        )
    return bundle.folder.run_folder / MODEL_NAME


def _write(home: RegionHome, digest: str, index: int, files: Mapping[str, bytes]) -> None:
    folder = release_folder(home) / digest
    current: dict[str, JsonValue] = {
        "v": _CURRENT_VERSION,
        "model": digest,
        "log_index": index,
    }
    try:
        for each in (recommend_folder(home), release_folder(home), folder):
            make_folder_durably(each)
        for name, data in files.items():
            write_durably(folder / name, data)
        # Last: a crash before leaves the model served that was served.
        write_durably(release_folder(home) / CURRENT_NAME, canonical_json.encode(current))
    except OSError as error:
        raise StorageError(
            f"The model cannot be written to {folder}: {error.strerror}.",
            remedy="Free disk space or correct the folder's owner; then install it again.",
        ) from error


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path} is larger than {max_bytes} bytes.", remedy=_INSTALL)
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.",
            remedy=_INSTALL,
        ) from error


def _refused(digest: str, why: str) -> VerificationError:
    return VerificationError(
        f"The model {digest[:12]}… is not served: {why}.",
        remedy=_INSTALL,
    )
