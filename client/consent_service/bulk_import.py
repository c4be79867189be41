"""Importing a file of existing consents: what the command and the set-up of a region share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from client.consent_service.forms import FormSettings
from client.consent_service.import_rows import PURPOSES, RowReader
from client.consent_service.importing import Importer, ImportSummary, RowFile
from client.consent_service.notices import offered
from client.consent_service.region_records import RegionRecords, open_records
from client.consent_service.registrar import ConsentRegistrar
from client.engine.home import RegionHome
from common.consent import IMPORTED
from common.errors import UsageError
from common.timestamps import now_ms


@dataclass(frozen=True)
class ImportRequest:
    """Which file is imported, and how its rows are read.

    Attributes:
        file: A Parquet or CSV file, one customer a row.
        mapping: Field → column, where they differ.
        grant: Purposes that every row grants, if none has a column.
        notice: Digest of the notice that they were given to; empty for the one in force in each
            row's language.
        lang: The language of rows that name none.
        time_zone: The zone of times that state none; empty if each must state its own.
    """

    file: Path
    mapping: Mapping[str, str]
    grant: Sequence[str] = ()
    notice: str = ""
    lang: str = "en"
    time_zone: str = ""


def import_consents(
    home: RegionHome, request: ImportRequest, *, skip_bad: bool = False, dry_run: bool = False
) -> ImportSummary:
    """Imports existing consents, each signed as imported; a second time changes nothing.

    Args:
        home: The region's home; nothing else may have its log open for writing.
        request: What is imported.
        skip_bad: Leave bad rows out, instead of importing nothing.
        dry_run: Check every row, log none.

    Raises:
        InputError: The file cannot be read, lacks a column, or has a bad row.
        UsageError: The request does not fit together.
        StorageError: Another process owns the log.
    """
    rows = RowFile(request.file, request.mapping)
    settings = FormSettings.read(home.root)
    with open_records(home) as records:
        registrar = ConsentRegistrar(
            log=records.log,
            state=records.state,
            subjects=records.subjects,
            signer=home.signer("consent"),
            lasts_s=settings.lasts_s,
        )
        importer = Importer(
            records,
            registrar,
            rows,
            _reader(records, settings, rows, request),
            {
                "grant": list(request.grant),
                "lang": request.lang,
                "time_zone": request.time_zone,
                "notice": request.notice,
            },
        )
        return importer.run(skip_bad=skip_bad, dry_run=dry_run)


def _reader(
    records: RegionRecords, settings: FormSettings, rows: RowFile, request: ImportRequest
) -> RowReader:
    if bool(rows.purposes) == bool(request.grant):
        raise UsageError(
            "Either purposes have columns, or --grant names what every row grants.",
            remedy="Map a purpose's column (--map training=…), or name one with --grant training.",
        )
    notices, now = records.state.notices, now_ms()
    if request.notice:
        named = [each for each in notices if each.sha256 == request.notice]
        if not named:
            raise UsageError(
                f"There is no notice {request.notice[:12]}… in the log.",
                remedy="fedpref-region notice list shows them; publish it first if it is missing.",
            )
        forms = {"": settings.form(named[0], IMPORTED)}
    else:
        forms = {
            language: settings.form(each, IMPORTED)
            for language, each in offered(notices, now).items()
        }
    try:
        zone = ZoneInfo(request.time_zone) if request.time_zone else None
    except (ValueError, OSError, LookupError) as error:
        raise UsageError(f"There is no time zone {request.time_zone}.") from error
    return RowReader(
        purposes=rows.purposes,
        granted=tuple(PURPOSES.get(each, each) for each in request.grant),
        forms=forms,
        lang=request.lang,
        zone=zone,
        now_ms=now,
    )
