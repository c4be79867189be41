"""What the engine says to the relay's own questions, and what stands in the log afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from client.engine.home import RegionHome
from client.engine.incidents import BUNDLE_NOT_PERMITTED
from client.engine.refusals import BundleNotPermittedError
from client.engine.relay_desk import METHODS, REPORTS, RelayDesk
from common.canonical_json import JsonValue
from common.errors import FormatError, PolicyError

BUNDLE, OTHER = "ab" * 32, "cd" * 32


@dataclass
class Code:
    app: str


@dataclass
class Opened:
    code: Code


@dataclass
class Permits:
    """Permits by run: the bundle each names, or why it does not hold."""

    of: dict[str, str | PolicyError | FormatError]

    def open(self, run: str) -> Opened:
        found = self.of.get(run, PolicyError("there is no permit for this run"))
        if not isinstance(found, str):
            raise found
        return Opened(Code(found))


@dataclass
class Noted:
    incidents: list[tuple[str | None, str, str]] = field(default_factory=list)

    def note(self, run: str | None, reason: str, detail: str) -> None:
        self.incidents.append((run, reason, detail))


def desk(tmp_path: Path, **permits: str | PolicyError | FormatError) -> tuple[RelayDesk, Noted]:
    home = RegionHome(root=tmp_path, region="region-1", federation="small.example")
    home.permits.mkdir(exist_ok=True)
    for run in permits:
        (home.permits / f"{run}.json").touch()
        (home.permits / f"{run}.plan.json").touch()
    noted = Noted()
    return RelayDesk(home, Permits(permits), noted), noted  # type: ignore[arg-type]  # doubles


def admit(bundle: JsonValue, run: JsonValue = None) -> dict[str, JsonValue]:
    return {"bundle": bundle, "run": run}


def test_a_bundle_of_the_named_run_is_admitted(tmp_path: Path) -> None:
    one, noted = desk(tmp_path, first=BUNDLE, second=OTHER)
    ok = {"status": "ok", "region": "region-1"}
    assert one.call("admit", admit(BUNDLE, "first")) == ok
    # A node is asked who it is before any run is named: any permit in force will do.
    assert one.call("admit", admit(BUNDLE)) == ok
    assert one.call("admit", admit(OTHER)) == ok
    assert noted.incidents == []


def test_a_bundle_of_another_run_is_refused_and_logged(tmp_path: Path) -> None:
    one, noted = desk(tmp_path, first=BUNDLE, second=OTHER)
    with pytest.raises(BundleNotPermittedError):
        one.call("admit", admit(BUNDLE, "second"))
    ((run, reason, detail),) = noted.incidents
    assert (run, reason) == ("second", BUNDLE_NOT_PERMITTED)
    assert BUNDLE in detail


def test_a_bundle_that_no_permit_in_force_names_is_refused_and_logged(tmp_path: Path) -> None:
    one, noted = desk(tmp_path, old=PolicyError("expired"), broken=FormatError("x"), now=OTHER)
    with pytest.raises(BundleNotPermittedError):
        one.call("admit", admit(BUNDLE))
    assert [reason for _, reason, _ in noted.incidents] == [BUNDLE_NOT_PERMITTED]


def test_without_any_permit_nothing_is_admitted(tmp_path: Path) -> None:
    one, _ = desk(tmp_path)
    with pytest.raises(BundleNotPermittedError):
        one.call("admit", admit(BUNDLE))
    with pytest.raises(PolicyError, match="no permit"):
        one.call("admit", admit(BUNDLE, "first"))


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"bundle": BUNDLE},
        {"bundle": BUNDLE, "run": None, "more": 1},
        admit(BUNDLE.upper()),
        admit(BUNDLE[:-1]),
        admit(7),
        admit(None),
        admit(BUNDLE, ""),
        admit(BUNDLE, "../first"),
        admit(BUNDLE, 7),
    ],
)
def test_a_question_of_another_form_is_refused(
    tmp_path: Path, header: dict[str, JsonValue]
) -> None:
    one, noted = desk(tmp_path, first=BUNDLE)
    with pytest.raises(FormatError):
        one.call("admit", header)
    assert noted.incidents == []


def test_a_report_becomes_an_incident_with_a_sentence_of_the_engines_own(tmp_path: Path) -> None:
    one, noted = desk(tmp_path)
    for incident, sentence in REPORTS.items():
        one.call("report", {"incident": incident, "bundle": BUNDLE, "run": "first"})
        assert noted.incidents[-1] == ("first", incident, f"{sentence} Bundle {BUNDLE}.")
    one.call("report", {"incident": "bundle-failed", "bundle": None, "run": None})
    assert noted.incidents[-1] == (None, "bundle-failed", REPORTS["bundle-failed"])


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"incident": "customer 1823 bought item 77", "bundle": None, "run": None},
        {"incident": ["bundle-failed"], "bundle": None, "run": None},
        {"incident": "bundle-failed", "bundle": "text", "run": None},
        {"incident": "bundle-failed", "bundle": None, "run": "a text"},
        {"incident": "bundle-failed", "bundle": None, "run": None, "detail": "text"},
    ],
)
def test_a_report_with_words_of_the_relays_is_refused(
    tmp_path: Path, header: dict[str, JsonValue]
) -> None:
    one, noted = desk(tmp_path)
    with pytest.raises(FormatError):
        one.call("report", header)
    assert noted.incidents == []


def test_there_is_no_other_method(tmp_path: Path) -> None:
    one, _ = desk(tmp_path)
    assert {"admit", "report"} == METHODS
    with pytest.raises(FormatError):
        one.call("train", {})
