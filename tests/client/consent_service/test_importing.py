"""Bulk import: every row checked first, each record as it was given, again without effect."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.consent_service import importing
from client.consent_service.evidence import Evidence
from client.consent_service.importing import RowFile
from client.consent_service.region_records import open_records
from client.consent_service.registrar import Choice, ConsentRegistrar
from client.engine.home import RegionHome
from common.audit.log import AuditLog
from common.audit.writer_lock import WriterBusyError
from common.consent import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    GIVEN,
    IMPORTED,
    RECOMMENDATIONS,
    REFUSED,
    WITHDRAWN,
    ConsentRecord,
)
from common.errors import FedprefError, InputError, UsageError
from common.identifiers import ulid_ms
from common.timestamps import format_time, now_ms
from tests.support.region_home import ALL, make_region_home, notice_record, open_home

Row = dict[str, Any]
LONG_AGO = datetime(2023, 5, 1, 8, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    notices = [
        notice_record(in_force_from="2020-01-01T00:00:00.000Z"),
        notice_record(notice_id="pn-de", lang="de", in_force_from="2021-01-01T00:00:00.000Z"),
    ]
    return make_region_home(tmp_path_factory.mktemp("begun") / "home", notices=notices)


@pytest.fixture
def home(begun: RegionHome, tmp_path: Path) -> RegionHome:
    shutil.copytree(begun.root, tmp_path / "home")
    return replace(begun, root=tmp_path / "home")


def row(number: int, **changes: Any) -> Row:
    return {
        "customer": f"0{number}",
        "event_time": LONG_AGO + timedelta(minutes=number),
        "evidence": f"form-{number}.pdf",
        "training": True,
        **changes,
    }


def write(path: Path, rows: list[Row]) -> Path:
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    return path


def run(home: RegionHome, file: Path, *options: str) -> dict[str, Any]:
    done = CliRunner().invoke(
        app, ["consents", "import", str(home.root), str(file), "--json", *options]
    )
    if done.exception is not None:
        raise done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def latest(home: RegionHome, *refs: str) -> list[ConsentRecord | None]:
    with open_records(home) as records:
        return [records.registrar().latest(ref) for ref in refs]


def size(home: RegionHome) -> int:
    with AuditLog.open_read_only(home.log) as log:
        return log.size


def test_records_say_what_the_rows_said(home: RegionHome, tmp_path: Path) -> None:
    rows = [
        row(1, analytics=False, recommendations=True, state=None, expires=None, lang="de"),
        row(2, analytics=True, recommendations=False, state="Refused", expires=None, lang=None),
        row(
            3,
            analytics=None,
            recommendations=None,
            state="withdrawn",
            expires=datetime(2099, 1, 1, tzinfo=UTC),
            lang=None,
        ),
        row(
            4,
            analytics=False,
            recommendations=False,
            state="dpv:ConsentGiven",
            expires=datetime(2099, 1, 1, tzinfo=UTC),
            lang="en",
        ),
    ]
    with open_home(home) as region:
        region.registrar.record(
            [replace(Choice.give("03", ALL), event_time_ms=1_600_000_000_000, imported=True)]
        )
    before, started = size(home), now_ms()
    found = run(home, write(tmp_path / "rows.parquet", rows))
    assert (found["rows"], found["imported"], found["bad"], found["already"]) == (4, 4, 0, 0)
    assert found["states"] == {GIVEN: 2, REFUSED: 1, WITHDRAWN: 1}
    assert size(home) == before + 4
    one, two, three, four = latest(home, "01", "02", "03", "04")
    assert one
    assert two
    assert three
    assert four
    assert dict(one.purposes) == {
        FEDERATED_TRAINING: True,
        RECOMMENDATIONS: True,
        FEDERATED_ANALYTICS: False,
    }
    assert (one.form.lang, one.form.notice_id, four.form.lang) == ("de", "pn-de", "en")
    assert one.event_time == "2023-05-01T08:31:00.000Z"
    assert (one.expires, four.expires) == (None, "2099-01-01T00:00:00.000Z")
    assert (two.state, dict(two.purposes)) == (REFUSED, {})
    assert (three.state, three.seq) == (WITHDRAWN, 2)
    assert all(each.form.method == IMPORTED for each in (one, two, three, four))
    # The key was enrolled long after: it signed now, which the record's id says.
    assert started <= ulid_ms(one.record_id) <= now_ms()
    with open_records(home) as records:
        (kept,) = records.subjects.evidence("01")
        assert Evidence.read(kept).token == b"form-1.pdf"
        assert Evidence.read(kept).digest == one.evidence


def test_csv_and_parquet_say_the_same(home: RegionHome, tmp_path: Path) -> None:
    names = {"customer": "Kunde", "event_time": "Datum", "evidence": "Beleg", "training": "Lernen"}
    rows = [
        {names[key]: value for key, value in row(n).items()}
        | {"Datum": f"2023-05-01T10:3{n}:00", "Lernen": "Yes"}
        for n in range(1, 4)
    ]
    options = [f"--map={field}={column}" for field, column in names.items()]
    file = write(tmp_path / "rows.csv", rows)
    with pytest.raises(InputError, match="states no time zone"):
        run(home, file, *options)
    found = run(home, file, *options, "--time-zone", "Europe/Berlin")
    assert found["imported"] == 3
    # A leading zero is part of a reference, and summer time of a zone.
    (one,) = latest(home, "01")
    assert one
    assert one.event_time == "2023-05-01T08:31:00.000Z"


BAD: list[tuple[Row, str]] = [
    ({"customer": None}, "customer is missing"),
    ({"customer": "a\nb"}, "not one line"),
    ({"customer": "x" * 257}, "longer than"),
    ({"evidence": ""}, "evidence is missing"),
    ({"event_time": None}, "event_time is missing"),
    ({"event_time": LONG_AGO.replace(year=2199)}, "in the future"),
    ({"event_time": LONG_AGO.replace(year=1999)}, "before 2000"),
    ({"event_time": LONG_AGO.replace(year=2019)}, "before its notice was in force"),
    ({"state": "maybe"}, "state is none of"),
    ({"state": "withdrawn"}, "never given"),
    ({"training": None}, "training is neither yes nor no"),
    ({"training": False}, "grants no purpose"),
    ({"expires": LONG_AGO}, "expires no later"),
    ({"lang": "fr"}, "no notice in force in its language"),
    ({"minor": True}, "guardian"),
    ({"minor": True, "guardian_state": "refused"}, "guardian"),
    ({"guardian_state": "given"}, "no minor"),
    ({"guardian_state": "perhaps"}, "guardian_state is none of"),
    ({"minor": "who knows"}, "minor is neither"),
    ({"customer": "05"}, "is in row 5 already"),
]
EMPTY = dict.fromkeys(["state", "expires", "lang", "minor", "guardian_state", "guardian_evidence"])


@pytest.mark.parametrize(("change", "why"), BAD, ids=[why for _, why in BAD])
def test_one_bad_row_and_nothing_is_imported(
    home: RegionHome, tmp_path: Path, change: Row, why: str
) -> None:
    rows = [row(number, **EMPTY) for number in range(1, 9)]
    rows[6] = {**rows[6], **change}
    if "minor" in change:
        rows = [{**each, "minor": str(each["minor"] or "")} for each in rows]
    file, before = write(tmp_path / "rows.parquet", rows), size(home)
    for dry in ([], ["--dry-run"]):
        with pytest.raises(InputError, match=rf"1 of 8 rows.*\n  row 7: .*{why}"):
            run(home, file, *dry)
    assert size(home) == before
    assert latest(home, "01", "08") == [None, None]
    found = run(home, file, "--skip-bad")
    assert (found["imported"], found["bad"]) == (7, 1)
    assert found["bad_rows"][0]["row"] == 7
    assert size(home) == before + 7


def test_a_bad_row_after_a_good_one_like_it_is_found_before_anything_is_logged(
    home: RegionHome, tmp_path: Path
) -> None:
    """What is checked once for all rows alike is not what differs between them."""
    ends = LONG_AGO + timedelta(days=1)
    before_notice = LONG_AGO.replace(year=2019)
    for bad, why in [
        (row(3, expires=LONG_AGO), "expires no later"),
        (row(3, expires=ends, event_time=before_notice), "before its notice was in force"),
    ]:
        rows = [row(1, expires=ends), row(2, expires=ends), bad]
        before = size(home)
        with pytest.raises(InputError, match=f"row 3: .*{why}"):
            run(home, write(tmp_path / "rows.parquet", rows))
        assert size(home) == before


def test_a_dry_run_logs_nothing(home: RegionHome, tmp_path: Path) -> None:
    before = size(home)
    file = write(tmp_path / "rows.parquet", [row(1)])
    assert run(home, file, "--dry-run")["bad"] == 0
    assert size(home) == before
    assert run(home, file)["imported"] == 1


def test_minors_come_with_their_guardians(home: RegionHome, tmp_path: Path) -> None:
    rows = [row(1, minor=True, guardian_state="given", guardian_evidence="parent.pdf")]
    run(home, write(tmp_path / "rows.parquet", rows))
    (one,) = latest(home, "01")
    assert one
    assert one.minor
    assert one.guardian
    with open_records(home) as records:
        digests = {row.giver: Evidence.read(row).digest for row in records.subjects.evidence("01")}
    assert digests == {"subject": one.evidence, "guardian": one.guardian.evidence}


def test_repeating_an_import_changes_nothing(home: RegionHome, tmp_path: Path) -> None:
    rows = [row(number) for number in range(1, 6)]
    file = write(tmp_path / "rows.parquet", rows)
    assert run(home, file)["imported"] == 5
    after = size(home)
    assert run(home, file)["done_before"]
    assert size(home) == after
    # Nor do the same rows in another file, or with more beside them.
    more = write(tmp_path / "more.parquet", [*rows, row(6)])
    found = run(home, more)
    assert (found["imported"], found["already"], found["bad"]) == (1, 5, 0)
    assert size(home) == after + 1


def test_a_newer_choice_of_the_customer_stays(home: RegionHome, tmp_path: Path) -> None:
    """Who withdrew yesterday is not made to consent by a file of last year."""
    with open_home(home) as region:
        region.registrar.record([Choice.give("01", ALL)])
        region.registrar.record([Choice.withdraw("01")])
    file = write(tmp_path / "rows.parquet", [row(1), row(2)])
    with pytest.raises(InputError, match="row 1: a choice that is as new, or newer"):
        run(home, file)
    assert run(home, file, "--skip-bad")["imported"] == 1
    (one,) = latest(home, "01")
    assert one
    assert one.state == WITHDRAWN


def test_an_import_that_was_killed_is_completed(
    home: RegionHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_ROWS", 3)
    file = write(tmp_path / "rows.parquet", [row(number) for number in range(1, 9)])
    before = size(home)
    child = os.fork()
    if child == 0:
        try:
            with patch.object(ConsentRegistrar, "record", _killed_at_second(ConsentRegistrar)):
                run(home, file)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert size(home) == before + 3
    found = run(home, file)
    assert (found["imported"], found["already"]) == (5, 3)
    assert size(home) == before + 8
    assert all(each and each.seq == 1 for each in latest(home, "01", "04", "08"))


def _killed_at_second(owner: type[ConsentRegistrar]) -> Callable[..., range]:
    original, calls = owner.record, []

    def record(self: ConsentRegistrar, choices: list[Choice]) -> range:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, choices)

    return record


def test_a_named_notice_is_the_one_they_were_given_to(home: RegionHome, tmp_path: Path) -> None:
    with open_records(home) as records:
        german = records.state.notices[1].sha256
    run(home, write(tmp_path / "rows.parquet", [row(1)]), "--notice", german)
    (one,) = latest(home, "01")
    assert one
    assert one.form.notice_sha256 == german


def test_without_a_purpose_s_column_one_is_named(home: RegionHome, tmp_path: Path) -> None:
    rows = [{key: value for key, value in row(1).items() if key != "training"}]
    file = write(tmp_path / "rows.parquet", rows)
    with pytest.raises(UsageError, match="Either purposes"):
        run(home, file)
    run(home, file, "--grant", "recommendations", "--grant", FEDERATED_TRAINING)
    (one,) = latest(home, "01")
    assert one
    assert dict(one.purposes) == {RECOMMENDATIONS: True, FEDERATED_TRAINING: True}


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        (["--map", "colour=c"], UsageError, "no field colour"),
        (["--map", "customer"], UsageError, "not field=column"),
        (["--map", "customer=a", "--map", "customer=b"], UsageError, "names a field twice"),
        (["--map", "customer=nowhere"], InputError, "no column nowhere"),
        (["--notice", "0" * 64], UsageError, "no notice"),
        (["--time-zone", "Mars/Olympus"], UsageError, "no time zone"),
        (["--grant", "training"], UsageError, "Either purposes"),
    ],
)
def test_wrong_options_are_named(
    home: RegionHome, tmp_path: Path, options: list[str], error: type[FedprefError], what: str
) -> None:
    with pytest.raises(error, match=what):
        run(home, write(tmp_path / "rows.parquet", [row(1)]), *options)


def test_files_that_are_none_are_refused(home: RegionHome, tmp_path: Path) -> None:
    for name, content in [
        ("rows.parquet", b"PAR1 or not"),
        ("rows.csv", b""),
        ("rows.xlsx", b"x"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            run(home, tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        run(home, tmp_path / "missing.csv")
    incomplete = write(tmp_path / "incomplete.parquet", [{"customer": "a", "training": True}])
    with pytest.raises(InputError, match=r"no column (event_time|evidence)"):
        run(home, incomplete)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"customer,event_time,evidence\na,b,c,secret\n", "Expected 3 columns, got 4"),
        (b"customer,event_time,\xffevidence\na,b,c\n", "name is not UTF-8"),
        (b"customer,event_time,evidence\n\xff,b,c\n", "invalid UTF8"),
        (b"customer,event_time,evidence,customer\na,b,c,d\n", "two columns of the name 'customer'"),
    ],
)
def test_a_malformed_csv_is_refused_without_its_rows(
    tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=why) as refusal:
        RowFile(path, {})
    assert "secret" not in refusal.value.message


@pytest.mark.parametrize(
    "times",
    [
        pa.array([2**62], pa.timestamp("us", "UTC")),
        pa.array([2**31 - 1], pa.date32()),
        pa.array([1], pa.timestamp("ms", "Mars/Base")),
        pa.StringArray.from_buffers(
            1, pa.py_buffer(bytes(4) + b"\2\0\0\0"), pa.py_buffer(b"\xff!")
        ),
    ],
    ids=lambda times: str(times.type),
)
def test_a_parquet_value_outside_its_type_is_refused(tmp_path: Path, times: pa.Array) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(
        pa.table({"customer": ["a"], "evidence": ["e"], "event_time": times}), path
    )
    with pytest.raises(InputError, match="has a value outside it"):
        list(RowFile(path, {}).batches())


def test_the_owner_of_the_log_is_named(home: RegionHome, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.parquet", [row(1)])
    with open_home(home), pytest.raises(WriterBusyError, match=r"Another process.*stop it first"):
        run(home, file)


def test_what_is_chosen_later_is_not_imported(home: RegionHome, tmp_path: Path) -> None:
    """A form taken over from an imported record does not make a new choice an imported one."""
    run(home, write(tmp_path / "rows.parquet", [row(1)]))
    with open_home(home) as region:
        imported = region.registrar.history("01")[0].record
        region.registrar.record([Choice.withdraw("01", form=imported.form)])
        newest = region.registrar.history("01")[1].record
    assert newest.form.method == "web-form"
    assert newest.event_time > format_time(now_ms() - 60_000)


def test_whole_numbers_are_references_and_other_types_are_not(
    home: RegionHome, tmp_path: Path
) -> None:
    rows = [row(1, customer=17850.0), row(2, customer=17851.0)]
    run(home, write(tmp_path / "numbers.parquet", rows))
    assert None not in latest(home, "17850", "17851")
    for number, wrong in enumerate((0.5, True, b"abc", ["1"])):
        file = write(tmp_path / f"{number}.parquet", [row(1, customer=wrong)])
        with pytest.raises(InputError, match="neither text nor a whole number"):
            run(home, file)


def test_rows_that_were_left_out_can_still_be_imported(home: RegionHome, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.parquet", [row(1, lang="en"), row(2, lang="fr")])
    assert run(home, file, "--skip-bad")["bad"] == 1
    with pytest.raises(InputError, match="row 2"):
        run(home, file)
