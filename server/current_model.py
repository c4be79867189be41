"""Which published model is the current one, and publishing an earlier one again.

The coordinator's log decides: the current model is the one of its newest ``model`` entry. Published
models are kept by their digest, each with its card, so that whoever serves recommendations loads
exactly what the log names; ``current.json`` repeats the log's word for those who cannot read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.durable_file import make_folder_durably, write_durably
from common.envelope import Envelope, verify_envelope
from common.errors import FormatError, InputError, StorageError, VerificationError
from common.parameters import arrays_digest, load_arrays
from common.timestamps import format_time, now_ms
from server.audit_trail import open_audit_trail
from server.config import SERVER_PARTY, ServerHome
from server.model_card import CARD_FILES, card_of

_VERSION = "fedpref-current-model/1"
_MARK = b'"application/vnd.fedpref.model+json"'
_MAX_MODEL_BYTES = 4 << 30


@dataclass(frozen=True)
class PublishedModel:
    """A model as the log has it.

    Attributes:
        index: Its entry.
        run_id: The run that made it, by its id.
        model: Its digest.
        time: When it was published, or published again.
        record: The entry's record.
    """

    index: int
    run_id: str
    model: str
    time: str
    record: dict[str, JsonValue]


def published_models(home: ServerHome) -> list[PublishedModel]:
    """Every ``model`` entry of the coordinator's log, oldest first; none before the first.

    Raises:
        VerificationError: One is not signed by the coordinator.
    """
    if not home.log.is_file():
        return []
    keys = {
        key.key_id: key.public_key
        for key in home.read_registry().keys_of(SERVER_PARTY, "aggregator")
    }
    found: list[PublishedModel] = []
    with AuditLog.open_read_only(home.log) as log:
        for index, data in log.entries():
            if _MARK in data:
                envelope = Envelope.decode(data)
                verify_envelope(envelope, keys)
                record = envelope.record()
                found.append(
                    PublishedModel(
                        index,
                        str(record["run"]),
                        str(record["model"]),
                        str(record["time"]),
                        record,
                    )
                )
    return found


def publish_current(home: ServerHome) -> PublishedModel | None:
    """Makes ``models/`` and ``current.json`` what the log says; a second time changes nothing.

    Args:
        home: The coordinator's home of many runs.

    Raises:
        StorageError: A published model's file is missing, is another, or cannot be written.
    """
    models = published_models(home)
    if not models:
        return None
    newest = models[-1]
    path = home.models / f"{newest.model}.safetensors"
    record: dict[str, JsonValue] = {
        "v": _VERSION,
        "run": newest.run_id,
        "model": newest.model,
        "log_index": newest.index,
        "time": newest.time,
    }
    try:
        make_folder_durably(home.models)
        if not path.exists():
            write_durably(path, _model_bytes(home, newest), mode=0o644)
        _write_card(home, newest)
        write_durably(home.current, canonical_json.encode(record), mode=0o644)
    except OSError as error:
        raise StorageError(
            f"The current model cannot be written to {home.models}: {error.strerror}.",
            remedy="Free disk space; it is written again when the next run ends.",
        ) from error
    return newest


def roll_back(home: ServerHome) -> PublishedModel:
    """Publishes the model of a run again: a new entry of the log, and the current model.

    Args:
        home: The coordinator's home, for the run whose model it is to be.

    Raises:
        InputError: The run has published no model, or its model is the current one.
        StorageError: A run is under way, or the model's file is missing.
        VerificationError: The log or the model's file is not what it should be.
    """
    plan, shared = home.read_plan(), ServerHome(home.root)
    models = published_models(shared)
    own = [each for each in models if each.run_id == plan.run_id]
    if not own:
        raise InputError(
            f"The run {home.run} has published no model.",
            remedy="Name a run that is finished: fedpref-server status.",
        )
    if models[-1].model == own[-1].model and models[-1].run_id == plan.run_id:
        raise InputError(f"The model of the run {home.run} is the current one.")
    _model_bytes(shared, own[-1])
    with open_audit_trail(home, plan, home.read_registry()) as trail:
        record = {**own[-1].record, "time": format_time(now_ms())}
        trail.log.append([make_entry(record, home.signer("aggregator"))])
    current = publish_current(shared)
    if current is None or current.model != own[-1].model:
        raise StorageError("The log lost the entry that was just written.")
    return current


def _write_card(home: ServerHome, published: PublishedModel) -> None:
    """The model's card beside it, by the model's digest."""
    for name in home.runs():
        run = ServerHome(home.root, name)
        if run.read_plan().run_id == published.run_id:
            card_of(run).write_as(
                {file: home.models / f"{published.model}{Path(file).suffix}" for file in CARD_FILES}
            )


def _model_bytes(home: ServerHome, published: PublishedModel) -> bytes:
    """The file of a published model, if it is that model."""
    kept = home.models / f"{published.model}.safetensors"
    places = [kept, *(ServerHome(home.root, run).model for run in home.runs())]
    for path in places:
        try:
            data = path.read_bytes()
            if arrays_digest(load_arrays(data, max_bytes=_MAX_MODEL_BYTES)) == published.model:
                return data
        except (FileNotFoundError, FormatError):
            continue
        except OSError as error:
            raise StorageError(f"The model {path} cannot be read: {error.strerror}.") from error
    raise VerificationError(
        f"The model {published.model[:16]}… of {published.run_id}, which the log names, is in none "
        f"of the files in {home.root}.",
        remedy="Restore it from a backup of the coordinator's home.",
    )
