"""What a region holds about one person, as one portable file for that person.

JSON and text in a ZIP archive: their records with receipts, their key, the evidence, the notices
they decided about, each training round they were in or not, their profile, and their rows of the
region's tables. Nothing of anybody else.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from client.consent_service.evidence import Evidence
from client.consent_service.participation import RoundPart, participation
from client.consent_service.receipt_checkpoint import checkpoint_above
from client.consent_service.region_records import RegionRecords
from client.consent_service.registrar import LoggedConsent
from client.engine.policy import read_policy
from client.profiles.desk import HomeProfiles
from client.web.language import LANGUAGES
from common import canonical_json
from common.audit.cosigners import Cosigners
from common.audit.customer_key import CustomerKey
from common.audit.receipt import MAX_RECEIPT_BYTES, FirstExcluded, grants_training, make_receipt
from common.audit.witness.store import WitnessStore
from common.canonical_json import JsonValue
from common.consent import PROFILING
from common.durable_file import write_durably
from common.errors import ConsentError, StorageError
from common.notice import LoggedNotice
from common.timestamps import format_time, now_ms

if TYPE_CHECKING:
    from client.consent_service.subject_tables import Row, SubjectTables

_VERSION = "fedpref-subject-export/2"
# Archives carry local times; a fixed one keeps equal contents equal bytes.
_ARCHIVE_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class SubjectExport:
    """The files of an export, by name, and what they hold in short.

    Attributes:
        files: Their content by name.
        records: How many consent records.
        rounds: How many rounds the person was in.
        rows: How many rows of tables; None if these were left out.
    """

    files: Mapping[str, bytes]
    records: int
    rounds: int
    rows: int | None

    def write(self, path: Path) -> None:
        """Writes the archive, readable by its owner alone.

        Raises:
            StorageError: It cannot be written.
        """
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in sorted(self.files.items()):
                file.writestr(zipfile.ZipInfo(name, _ARCHIVE_TIME), content)
        try:
            write_durably(path, archive.getvalue())
        except OSError as error:
            raise StorageError(
                f"The export {path} cannot be written: {error.strerror}.",
                remedy="Name a file in a folder that exists and may be written to.",
            ) from error


def export_subject(
    records: RegionRecords,
    customer_ref: str,
    *,
    with_tables: bool = True,
    clock_ms: int | None = None,
) -> SubjectExport:
    """Collects everything that the region holds about one customer.

    Args:
        records: The region's open records; reading is enough.
        customer_ref: The region's reference of the customer.
        with_tables: Whether the region's tables are read for the customer's rows.
        clock_ms: Now, in milliseconds since the epoch; the system clock's if None.

    Raises:
        ConsentError: The region has no key of such a customer.
        InputError: A table cannot be read.
        StorageError: What the region keeps cannot be read.
    """
    secret = records.subjects.secret(customer_ref)
    if secret is None:
        raise ConsentError(
            "The region holds no key of a customer with this reference.",
            remedy="Check the reference's spelling; who was erased cannot be found any more.",
        )
    now = now_ms() if clock_ms is None else clock_ms
    home = records.home
    key = CustomerKey(home.federation, home.region, customer_ref, secret)
    consents = records.registrar().history(customer_ref)
    parts = participation(records.log, records.state, consents)
    shown = {each.record.form.notice_sha256 for each in consents}
    tables = _tables(records, key) if with_tables else None
    files = {
        "README.txt": resources.files("client.consent_service")
        .joinpath("templates/subject-export.txt")
        .read_bytes(),
        "customer-key.json": key.encode(),
        "summary.json": _json(
            _summary(records, key, consents, parts, now)
            | ({} if tables is None else tables.summary())
        ),
        "participation.json": _json([part.to_record() for part in parts]),
        "evidence.json": _json(_evidence(records, customer_ref)),
        # What the model says of someone is computed when it is asked for, and stored nowhere.
        "tags.json": _json(_profile(records, key.sid, now)),
    }
    if tables is not None:
        files |= {name: _pretty(rows) for name, rows in tables.files().items()}
    files |= _record_files(consents)
    files |= _receipt_files(records, consents, parts, now)
    for notice in records.state.notices:
        if notice.sha256 in shown:
            files |= _notice_files(notice)
    for path in sorted(home.registry.glob("*.json")):
        files[f"registry/{path.name}"] = path.read_bytes()
    return SubjectExport(
        files,
        len(consents),
        sum(part.included for part in parts),
        None if tables is None else tables.rows,
    )


def _tables(records: RegionRecords, key: CustomerKey) -> SubjectTables:
    # What reads tables takes a second to load, which an export without them need not wait for.
    from client.consent_service.subject_tables import subject_tables

    return subject_tables(records.home, key.customer_ref, key.sid)


def _summary(
    records: RegionRecords,
    key: CustomerKey,
    consents: Sequence[LoggedConsent],
    parts: Sequence[RoundPart],
    now: int,
) -> dict[str, JsonValue]:
    policy = read_policy(records.home.policy)
    purposes = sorted({policy.purpose}.union(*(each.record.purposes for each in consents)))
    states = {
        purpose: records.state.consents.state_of(
            key.sid, purpose, now, notice_grace_s=policy.notice_grace_s
        )
        for purpose in purposes
    }
    return {
        "v": _VERSION,
        "federation": key.federation,
        "region": key.region,
        "customer_ref": key.customer_ref,
        "made_at": format_time(now),
        "log_size": records.log.size,
        "records": len(consents),
        "rounds": len(parts),
        "rounds_included": sum(part.included for part in parts),
        "consent_now": {purpose: state.standing.value for purpose, state in states.items()},
    }


def _profile(records: RegionRecords, sid: str, now: int) -> list[JsonValue]:
    """What the person's profile says, in both languages; nothing without consent to it."""
    state = records.state.consents.state_of(
        sid, PROFILING, now, notice_grace_s=read_policy(records.home.policy).notice_grace_s
    )
    if not state.in_force:
        return []
    profiles = HomeProfiles(records.home)
    told = [profiles.told(sid, lang) for lang in LANGUAGES]
    return [each for each in told if each is not None]


def _record_files(consents: Sequence[LoggedConsent]) -> dict[str, bytes]:
    files = {}
    for number, each in enumerate(consents, start=1):
        record: dict[str, JsonValue] = {"entry": each.index, "record": each.record.to_record()}
        files[f"records/{number:04d}.json"] = _json(record)
        files[f"records/{number:04d}.signed.json"] = each.entry
    return files


def _receipt_files(
    records: RegionRecords, consents: Sequence[LoggedConsent], parts: Sequence[RoundPart], now: int
) -> dict[str, bytes]:
    home, files = records.home, {}
    cosigners = Cosigners(records.home.read_registry())
    store = WitnessStore.open(home.witness) if home.witness.is_file() else None
    try:
        for number, each in enumerate(consents, start=1):
            record = each.record.to_record()
            receipt = make_receipt(
                records.log,
                each.index,
                checkpoint_above(
                    records.log, store, cosigners, party=home.region, index=each.index
                ),
                federation=home.federation,
                region=home.region,
                issued_at=format_time(now),
                lang=each.record.form.lang,
                first_excluded=None
                if grants_training(record)
                else _first_excluded(each, consents[number : number + 1], parts),
            )
            files[f"receipts/{number:04d}.json"] = canonical_json.encode(
                receipt, max_bytes=MAX_RECEIPT_BYTES
            )
    finally:
        if store is not None:
            store.close()
    return files


def _first_excluded(
    each: LoggedConsent, following: Sequence[LoggedConsent], parts: Sequence[RoundPart]
) -> FirstExcluded | None:
    """The first round that saw a record and not yet the person's next one."""
    for part in parts:
        if part.consent_size > each.index:
            if following and part.consent_size > following[0].index:
                return None
            return FirstExcluded(part.run, part.round, part.consent_size)
    return None


def _evidence(records: RegionRecords, customer_ref: str) -> list[JsonValue]:
    found: list[JsonValue] = []
    for row in records.subjects.evidence(customer_ref):
        evidence = Evidence.read(row)
        found.append(
            {
                "record_id": row.record_id,
                "giver": row.giver,
                "salt": evidence.salt.hex(),
                "token": base64.b64encode(evidence.token).decode(),
                "sha256": evidence.digest,
            }
        )
    return found


def _notice_files(notice: LoggedNotice) -> dict[str, bytes]:
    name = f"notices/{notice.notice.notice_id}-{notice.notice.lang}-{notice.sha256[:12]}"
    record: dict[str, JsonValue] = {
        "entry": notice.index,
        "sha256": notice.sha256,
        "notice": notice.notice.to_record(),
    }
    return {f"{name}.json": _json(record), f"{name}.txt": f"{notice.notice.text}\n".encode()}


def _json(value: JsonValue) -> bytes:
    return _pretty(value)


def _pretty(value: JsonValue | list[Row]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
    return f"{text}\n".encode()
