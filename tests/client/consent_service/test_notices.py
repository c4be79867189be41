"""Notices: which are in force, how a new one asks anew, and the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.consent_service.forms import FILE_NAME, FormSettings
from client.consent_service.notices import (
    AUTOMATIC,
    in_force,
    logged_notices,
    offered,
    publish,
    read_notice_file,
)
from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.audit.writer_lock import WriterBusyError
from common.consent import FEDERATED_TRAINING, Standing
from common.errors import FormatError, InputError, VerificationError
from common.notice import LoggedNotice, parse_notice
from common.timestamps import format_time, now_ms
from tests.support.region_home import (
    DAY_MS,
    GRACE_S,
    make_region_home,
    notice_record,
    open_home,
)

NOW = 1_800_000_000_000
TOML = """\
notice_id = "pn-2"
lang = "en"
controller = "shop.example"
purposes = ["fedpref:FederatedTraining"]
recipients = "the regions"
retention = "10 years"
storage = "here"
contact = "privacy@shop.example"
text = \"\"\"
May we, still?
With more words.\"\"\"
"""


def logged(
    number: int, from_ms: int, supersedes: int | None = None, lang: str = "en"
) -> LoggedNotice:
    record = notice_record(
        in_force_from=format_time(from_ms),
        lang=lang,
        supersedes=None if supersedes is None else f"{supersedes:064x}",
    )
    return LoggedNotice(number, f"{number:064x}", parse_notice(record))  # type: ignore[arg-type]


def test_the_newest_notice_in_force_is_offered_by_language() -> None:
    notices = [
        logged(1, NOW),
        logged(2, NOW, lang="zh"),
        logged(3, NOW + 1000, supersedes=1),
        logged(4, NOW + 2000, lang="zh"),
        logged(5, NOW + 3000, supersedes=3),
    ]
    for at_ms, indices in [
        (NOW - 1, {}),
        (NOW, {"en": 1, "zh": 2}),
        (NOW + 999, {"en": 1, "zh": 2}),
        (NOW + 1000, {"en": 3, "zh": 2}),
        # Two of one language, neither superseded: the newer is offered, both may be consented to.
        (NOW + 2000, {"en": 3, "zh": 4}),
        (NOW + 3000, {"en": 5, "zh": 4}),
    ]:
        assert {lang: each.index for lang, each in offered(notices, at_ms).items()} == indices
    assert [each.index for each in in_force(notices, NOW + 2000)] == [2, 3, 4]


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return make_region_home(tmp_path / "home")


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["notice", *map(str, arguments)], env={"COLUMNS": "200"})
    if done.exception is not None:
        raise done.exception
    return done.stdout


def write(tmp_path: Path, text: str = TOML) -> Path:
    (tmp_path / "notice.toml").write_text(text, encoding="utf-8")
    return tmp_path / "notice.toml"


def test_a_published_notice_is_signed_logged_and_asks_anew(
    home: RegionHome, tmp_path: Path
) -> None:
    with open_home(home) as region:
        old = region.state.notices[0]
        region.registrar.record([Choice.give("a", {FEDERATED_TRAINING: True})])
    said = run("publish", home.root, write(tmp_path))
    assert f"Consents to {old.sha256[:12]}… lapse at" in said
    with open_home(home) as region:
        new = region.state.notices[-1]
        assert new.notice.supersedes == old.sha256
        assert new.notice.text.startswith("May we, still?\n")
        assert offered(region.state.notices, now_ms())["en"] == new
        lapses_ms = new.notice.in_force_from_ms + GRACE_S * 1000
        found = region.registrar.state_of("a", FEDERATED_TRAINING, notice_grace_s=GRACE_S)
        assert (found.standing, found.until_ms) == (Standing.IN_FORCE, lapses_ms)
        later = region.registrar.state_of("a", FEDERATED_TRAINING, notice_grace_s=0)
        assert later.standing is Standing.NOTICE_SUPERSEDED
        # The opened home's form is of the newest notice.
        region.registrar.record([Choice.give("a", {FEDERATED_TRAINING: True})])
        again = region.registrar.state_of("a", FEDERATED_TRAINING, notice_grace_s=0)
        assert again.standing is Standing.IN_FORCE


def test_notices_are_listed_beside_their_owner(home: RegionHome, tmp_path: Path) -> None:
    run("publish", home.root, write(tmp_path))
    with open_home(home) as region:
        rows = [json.loads(line) for line in run("list", home.root, "--json").splitlines()]
        assert [row["sha256"] for row in rows] == [each.sha256 for each in region.state.notices]
        assert rows[0]["superseded_by"] == rows[1]["sha256"]
        assert (rows[1]["supersedes"], rows[1]["superseded_by"]) == (rows[0]["sha256"], None)
        table = run("list", home.root)
        assert table.count("shown to customers") == 1
        with pytest.raises(WriterBusyError, match=r"Another process.*stop it first"):
            run("publish", home.root, write(tmp_path))


def test_a_notice_that_the_controller_did_not_sign_is_not_believed(home: RegionHome) -> None:
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        forged = notice_record(notice_id="pn-forged")
        log.append([make_entry(forged, home.signer("consent"))])  # type: ignore[arg-type]
    with pytest.raises(VerificationError):
        logged_notices(home)
    with pytest.raises(VerificationError, match="Entry 3"):
        with open_home(home):
            pass


def test_what_is_superseded_is_known_open_and_not_in_the_past(home: RegionHome) -> None:
    signer = home.signer("controller")
    with open_home(home) as region:
        log, state = region.log, region.state
        notice = state.notices[0].notice
        german = replace(notice, notice_id="pn-de", lang="de")

        def publish_as(
            supersedes: str | None, each: object = notice, from_ms: int = 0
        ) -> LoggedNotice:
            return publish(
                log,
                state,
                each,
                signer,
                supersedes=supersedes,
                in_force_from_ms=from_ms or now_ms(),
            )

        size = log.size
        with pytest.raises(InputError, match="no notice"):
            publish_as("0" * 64)
        with pytest.raises(InputError, match="in force before it was logged"):
            publish_as(AUTOMATIC, from_ms=now_ms() - DAY_MS)
        assert log.size == size
        # Another language supersedes nothing by itself; and what supersedes none may be older.
        assert publish_as(AUTOMATIC, german, now_ms() - DAY_MS).notice.supersedes is None
        first = state.notices[0].sha256
        second = publish_as(AUTOMATIC)
        assert second.notice.supersedes == first
        with pytest.raises(InputError, match="superseded already"):
            publish_as(first)
        # One that is not in force yet is followed too: the chain never branches by itself.
        third = publish_as(AUTOMATIC, from_ms=now_ms() + DAY_MS)
        assert third.notice.supersedes == second.sha256
        assert publish_as(AUTOMATIC).notice.supersedes == third.sha256


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "cannot be read"),
        ("notice_id = ", "not valid TOML"),
        ('notice_id = "pn-2"\n', "missing"),
        (TOML.replace('lang = "en"', 'lang = "English"'), "lang"),
        (TOML + 'extra = "x"\n', "unknown"),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path: Path, text: str | None, what: str) -> None:
    path = tmp_path / "none.toml" if text is None else write(tmp_path, text)
    with pytest.raises(InputError, match=what):
        read_notice_file(path)


def test_a_wrong_time_is_named(home: RegionHome, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        run("publish", home.root, write(tmp_path), "--in-force-from", "tomorrow")


# ---- The settings of forms ----


def test_form_settings_are_written_and_read_alike(home: RegionHome) -> None:
    for lasts_s in (None, 77):
        settings = replace(FormSettings.read(home.root), lasts_s=lasts_s)
        settings.write(home.root)
        assert FormSettings.read(home.root) == settings


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"lasts_s": 0}, "lasts_s"),
        ({"lasts_s": "7"}, "lasts_s"),
        ({"data": "pd:Purchase"}, "data"),
        ({"data": [1]}, "no text"),
        ({"jurisdiction": None}, "no text"),
        ({"v": "fedpref-consent-form/2"}, "fedpref-consent-form/1"),
        ({"more": 1}, "unknown"),
    ],
)
def test_wrong_form_settings_are_named(
    home: RegionHome, change: dict[str, object], what: str
) -> None:
    path = home.root / FILE_NAME
    record = canonical_json.decode(path.read_bytes())
    path.write_bytes(canonical_json.encode({**record, **change}))  # type: ignore[arg-type,dict-item]
    with pytest.raises(InputError, match=what):
        FormSettings.read(home.root)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        FormSettings.read(home.root)
