"""``fedpref-audit report``: exit codes, what it prints, what it writes, what it never imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.audit import cli
from tests.support.bundle_builder import Federation


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation().run()


@pytest.fixture
def run(federation: Federation, tmp_path: Path) -> Path:
    return federation.write(tmp_path / "run")


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fedpref-audit", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    assert "Traceback" not in captured.out + captured.err
    return stop.value.code, captured.out, captured.err


def test_a_verified_bundle_exits_0(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    code, printed, err = call(capsys, monkeypatch, run, "--html", out)
    assert (code, err) == (0, "")
    assert printed == f"Verified. The report is in {out}.\n"
    assert '<html lang="en">' in out.read_text(encoding="utf-8")
    first = out.read_bytes()
    assert call(capsys, monkeypatch, run, "--html", out)[0] == 0
    assert out.read_bytes() == first
    options = ("--lang", "zh", "--made-at", "2026-05-06T07:08:09.010Z")
    assert call(capsys, monkeypatch, run, "--html", out, *options)[0] == 0
    page = out.read_text(encoding="utf-8")
    assert '<html lang="zh-Hans">' in page
    assert "2026-05-06 07:08:09" in page


def test_a_broken_bundle_exits_8_and_is_reported_on_all_the_same(
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unfinished = federation.copy()
    unfinished.logs["server"].pop()
    out = tmp_path / "report.html"
    code, printed, _ = call(capsys, monkeypatch, unfinished.write(tmp_path / "run"), "--html", out)
    assert code == 8
    assert printed.startswith("Not verified.")
    assert "Not verified: something is missing" in out.read_text(encoding="utf-8")


def test_json_is_the_report_whole(
    run: Path,
    tmp_path: Path,
    federation: Federation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "report.html"
    code, printed, _ = call(capsys, monkeypatch, run, "--html", out, "--json")
    record = json.loads(printed)
    assert code == 0
    assert out.exists()
    assert record["verdict"]["verified"] is True
    assert len(record["rounds"]) == 4
    assert record["consents"][0]["tally"]["in_force"] == 2


def test_pinned_root_keys_need_no_comparing(
    run: Path,
    tmp_path: Path,
    federation: Federation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "report.html"
    options = [part for root in federation.roots for part in ("--root-key", root.key_id)]
    assert call(capsys, monkeypatch, run, "--html", out, *options)[0] == 0
    assert "nothing is left to compare" in out.read_text(encoding="utf-8")
    assert call(capsys, monkeypatch, run, "--html", out, "--root-key", "f" * 64)[0] == 8
    assert "not signed by the root keys that were named" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["{run}", "--html", "{run}/bundle/report.html"], 2),
        (["{run}", "--html", "{run}/metrics.json"], 2),
        (["{run}", "--html", "{run}/none/report.html"], 3),
        (["{run}/none", "--html", "{run}/report.html"], 3),
        (["{run}", "--html", "{run}/report.html", "--lang", "xx"], 2),
        (["{run}", "--html", "{run}/report.html", "--made-at", "today"], 3),
        (["{run}", "--html", "{run}/report.html", "--root-key", "no"], 2),
        (["{run}"], 2),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_written(
    run: Path,
    arguments: list[str],
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = sorted(run.rglob("*"))
    filled = [argument.format(run=run) for argument in arguments]
    assert call(capsys, monkeypatch, *filled)[0] == code
    assert sorted(run.rglob("*")) == before


def test_it_needs_neither_torch_nor_flower_nor_pandas(run: Path, tmp_path: Path) -> None:
    code = f"""
import sys
for name in ("torch", "flwr", "pandas", "opacus", "ray", "simulations", "client", "server"):
    sys.modules[name] = None
sys.argv = ["fedpref-audit", "report", {str(run)!r}, "--html", {str(tmp_path / "r.html")!r}]
from common.audit.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_real_runs_report_says_what_its_history_says(
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "report.html"
    code, printed, _ = call(capsys, monkeypatch, finished_run, "--html", out, "--json")
    assert code == 0
    record = json.loads(printed)
    history = json.loads((finished_run / "history.json").read_text(encoding="utf-8"))
    rounds = {(each["number"], each["region"]): each for each in record["rounds"]}
    told = {
        (each["round"], part["region"]): part
        for each in history["rounds"]
        for part in each["regions"]
        if "update" in part
    }
    assert rounds.keys() == told.keys()
    assert {each["update"] for each in record["releases"]} == {
        part["update"] for part in told.values()
    }
    spent = {each["region"]: each for each in record["budgets"] if each["span"] == "run"}
    for region in history["regions"]:
        tally = next(each for each in record["consents"] if each["region"] == region["region"])
        assert tally["tally"]["withdrawn"] == region["withdrawn"]
        assert tally["tally"]["refused"] == region["refused"]
        assert float(spent[region["region"]]["stated"]) == float(region["epsilon_spent"])
