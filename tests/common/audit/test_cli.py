"""The command line: exit codes, both outputs, and no tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.audit import cli
from tests.support.bundle_builder import Federation, record_of

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation().run()


@pytest.fixture
def run(federation: Federation, tmp_path: Path) -> Path:
    return federation.write(tmp_path / "run")


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fedpref-audit", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    assert "Traceback" not in captured.out + captured.err
    return stop.value.code, captured.out, captured.err


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_verified_run_says_so_first_and_exits_0(
    run: Path,
    federation: Federation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, err = call(capsys, monkeypatch, "verify", run)
    assert code == 0
    assert out.startswith("Verified.")
    assert err == ""
    assert all(root.key_id in out for root in federation.roots)
    assert "Compare them with the root key ids that you hold" in words(out)
    assert "What this evidence cannot prove" in out
    assert "Withdrawal is prospective and is not unlearning." in words(out)


def test_pinned_root_keys_are_shown_as_such(
    run: Path,
    federation: Federation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = [part for root in federation.roots for part in ("--root-key", root.key_id)]
    code, out, _ = call(capsys, monkeypatch, "verify", run, *options)
    assert code == 0
    assert "Root keys, as you named them" in out
    code, out, _ = call(capsys, monkeypatch, "verify", run, "--root-key", "f" * 64)
    assert code == 8
    assert "root keys you named" in words(out)


def test_a_changed_entry_is_named_and_exits_8(
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dishonest = federation.copy()
    index = dishonest.find("region-1", "consent", 3)
    dishonest.logs["region-1"][index] = dishonest.logs["region-1"][index].replace(b"A", b"B", 1)
    run = dishonest.write(tmp_path)
    code, out, _ = call(capsys, monkeypatch, "verify", run)
    assert code == 8
    assert out.startswith("Not verified.")
    assert f"first at log region-1, entry {index}" in words(out)
    code, out, _ = call(capsys, monkeypatch, "verify", run, "--json")
    verdict = json.loads(out)
    assert code == 8
    assert verdict["verified"] is verdict["integrity"] is False
    first = verdict["first_failure"]
    assert (first["party"], first["index"], first["code"]) == ("region-1", index, "record")


def test_what_is_missing_is_told_apart_from_what_was_changed(
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unfinished = federation.copy()
    unfinished.logs["server"].pop()
    code, out, _ = call(capsys, monkeypatch, "verify", unfinished.write(tmp_path))
    assert code == 8
    assert "What is there is unaltered, but not everything is there" in words(out)


def test_json_of_a_verified_run(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "verify", run, "--json")
    assert code == 0
    assert json.loads(out)["verified"] is True


@pytest.mark.parametrize("arguments", [["verify"], ["show", "server", "0"]])
def test_what_is_no_bundle_exits_3(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    command, *rest = arguments
    for path in (tmp_path, tmp_path / "missing"):
        code, out, err = call(capsys, monkeypatch, command, path, *rest)
        assert code == 3
        assert out == ""
        assert "Error:" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify"],
        ["verify", ".", "--unknown"],
        ["unknown"],
        ["show", ".", "server", "minus"],
        ["show", ".", "server", "-1"],
        ["verify", ".", "--root-key", "abc"],
    ],
)
def test_wrong_usage_exits_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    assert call(capsys, monkeypatch, *arguments)[0] == 2


def test_show_prints_one_entry(
    run: Path,
    federation: Federation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = federation.find("region-1", "round", 1)
    code, out, _ = call(capsys, monkeypatch, "show", run, "region-1", index)
    assert code == 0
    assert out.startswith(f"Entry {index} of {len(federation.logs['region-1'])} in the log")
    assert federation.keys["region-1", "trainer"].key_id in out
    assert json.loads(out[out.index("{") :]) == record_of(federation.logs["region-1"][index])


@pytest.mark.parametrize(("party", "index"), [("region-9", 0), ("..", 0), ("server", 99)])
def test_show_names_what_there_is(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    party: str,
    index: int,
) -> None:
    code, _, err = call(capsys, monkeypatch, "show", run, party, index)
    assert code == 3
    assert "has" in err


def test_show_of_a_damaged_log_is_an_error_without_a_traceback(
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damaged = federation.copy()
    damaged.logs["server"][0] = b"x"
    run = damaged.write(tmp_path)
    assert call(capsys, monkeypatch, "show", run, "server", 0)[0] == 3
    assert call(capsys, monkeypatch, "show", run, "server", 1)[0] == 0


def test_the_help_names_the_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "verify", "--help")
    assert code == 0
    assert "8 not verified" in words(out)


def test_as_a_process_it_imports_neither_torch_nor_flwr(run: Path) -> None:
    code = (
        "import sys\n"
        "from common.audit import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "heavy = {'torch', 'flwr', 'pandas', 'apsw', 'numpy', 'dp_accounting'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, "verify", str(run)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
