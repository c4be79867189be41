"""A run as a user gives it: its results, its verdict, bad input, interruption, alteration."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.envelope import Envelope
from common.errors import FederationError
from common.parameters import arrays_digest
from server.config import ServerHome
from server.model_card import card_of
from simulations import cli
from simulations.outcome import ARTIFACTS
from simulations.run_folder import open_run_folder

BIN = Path(sys.executable).parent
RUN = ("--scenario", "synthetic-3", "--seed", "1", "--quality-seeds", "1")


def command(name: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "COLUMNS": "200"},
        **options,  # type: ignore[call-overload]
    )


def copied(run: Path, target: Path) -> Path:
    shutil.copytree(run, target, symlinks=True)
    return target


def region_records(run: Path, region: str, kind: str) -> list[dict[str, object]]:
    with AuditLog.open_read_only(run / "regions" / region / "log.sqlite") as log:
        envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [envelope.record() for envelope in envelopes if envelope.kind == kind]


def test_a_run_leaves_all_that_was_promised(finished_run: Path) -> None:
    for name in (
        "model.safetensors",
        "model-card.md",
        "model-card.json",
        "metrics.json",
        "history.json",
        "report.html",
        "bundle/manifest.json",
        "server/log.sqlite",
        "regions/region-1/log.sqlite",
    ):
        assert (finished_run / name).is_file(), name


def test_the_model_is_the_one_that_was_logged(finished_run: Path) -> None:
    model = load_file(finished_run / "model.safetensors")
    with AuditLog.open_read_only(finished_run / "server" / "log.sqlite") as log:
        published = [
            envelope.record()["model"]
            for envelope in (Envelope.decode(data) for _, data in log.entries())
            if envelope.kind == "model"
        ]
    assert published == [arrays_digest(model)]
    assert all(np.isfinite(array).all() for array in model.values())


def test_the_models_card_is_what_plan_and_log_say(finished_run: Path) -> None:
    card = card_of(ServerHome(finished_run / "server"))
    for name, data in card.files().items():
        # Beside the bundle, where the manifest covers it, and beside the coordinator's model.
        assert (finished_run / name).read_bytes() == data
        assert (finished_run / "server" / name).read_bytes() == data
    assert card.record["model"] == arrays_digest(load_file(finished_run / "model.safetensors"))
    # Nothing in it counts anybody: the exact numbers of customers are in the history alone.
    eligible = {
        str(part["eligible"])
        for each in json.loads((finished_run / "history.json").read_text())["rounds"]
        for part in each["regions"]
    }
    assert not eligible & set(re.findall(r"\d+", json.dumps(card.record["training"])))


def test_who_withdrew_is_out_of_the_next_round(finished_run: Path) -> None:
    history = json.loads((finished_run / "history.json").read_text())
    for region in ("region-1", "region-2", "region-3"):
        parts = [
            part
            for each in history["rounds"]
            for part in each["regions"]
            if part["region"] == region
        ]
        eligible = [part["eligible"] for part in parts]
        withdrawn = [part["withdrawn_before"] for part in parts]
        assert len(eligible) == 5
        for before, after, left in zip(eligible, eligible[1:], withdrawn[1:], strict=False):
            assert after == before - left
    summary = history["regions"]
    assert sum(region["withdrawn"] for region in summary) > 0
    assert sum(region["refused"] for region in summary) > 0


def test_the_budget_spent_is_the_budget_planned(finished_run: Path) -> None:
    for region in ("region-1", "region-2", "region-3"):
        charges = region_records(finished_run, region, "charge")
        assert len(charges) == 5
        assert 7.99 < float(str(charges[-1]["epsilon_run"])) <= 8.0
    shown = command("fedpref-region", "budget", finished_run / "regions" / "region-1")
    assert shown.returncode == 0
    assert " of 8 spent" in shown.stdout


def test_the_whole_table_of_baselines_is_in_metrics_and_report(finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    methods = {method["method"] for method in metrics["methods"]}
    assert methods >= {
        "fedpref",
        "fedpref_tilt",
        "fedpref_fused",
        "popularity",
        "popularity_regional",
        "personal_frequency",
        "personal_recency",
        "local_only",
        "local_only_no_dp",
        "federated_no_dp",
        "centralised_no_dp",
    }
    report = (finished_run / "report.html").read_text()
    for method in metrics["methods"]:
        assert method["label"].replace("ε", "").split("(")[0].strip()[:12] in report, method


def test_verify_says_yes_and_gives_its_reasons(finished_run: Path) -> None:
    done = command("fedpref-audit", "verify", finished_run)
    assert done.returncode == 0
    assert "Verified" in done.stdout
    verdict = json.loads(command("fedpref-audit", "verify", finished_run, "--json").stdout)
    assert verdict["verified"] is True


def test_any_byte_flipped_in_any_file_of_the_bundle_is_noticed_and_located(
    finished_run: Path, tmp_path: Path
) -> None:
    run = copied(finished_run, tmp_path / "run")
    generator = random.Random(20240601)
    bundle = [path for path in sorted((run / "bundle").rglob("*")) if path.is_file()]
    artifacts = [run / name for name in ARTIFACTS]
    for path in [*bundle, *artifacts]:
        data = path.read_bytes()
        index = generator.randrange(len(data))
        altered = bytearray(data)
        altered[index] ^= 1 << generator.randrange(8)
        path.write_bytes(bytes(altered))
        verdict = verify_bundle(run)
        assert not verdict.verified, (path, index)
        assert verdict.first_failure is not None
        named = json.dumps(verdict.to_record())
        assert path.name in named or str(path.relative_to(run)) in named, (path, named)
        path.write_bytes(data)
    assert verify_bundle(run).verified


def test_a_broken_bundle_ends_with_the_documented_code(finished_run: Path, tmp_path: Path) -> None:
    run = copied(finished_run, tmp_path / "run")
    path = run / "bundle" / "logs" / "region-2" / "checkpoint"
    note = bytearray(path.read_bytes())
    # The first digit of the tree's size, on the second line.
    note[note.index(b"\n") + 1] ^= 1
    path.write_bytes(bytes(note))
    done = command("fedpref-audit", "verify", run)
    assert done.returncode == 8
    assert "logs/region-2/checkpoint" in done.stdout.replace("\n", "")
    assert "Traceback" not in done.stdout + done.stderr


def test_a_finished_run_is_not_run_again_unless_asked(finished_run: Path) -> None:
    before = (finished_run / "report.html").stat().st_mtime_ns
    done = command("fedpref-sim", "run", *RUN, "--out", finished_run)
    assert done.returncode == 0
    assert "finished" in done.stdout
    assert (finished_run / "report.html").stat().st_mtime_ns == before


def test_a_folder_with_another_run_is_not_overwritten(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("run", *RUN, "--out", finished_run, "--epsilon", "3")
    code, shown = in_process(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "other settings" in shown
    assert (finished_run / "report.html").is_file()


def test_a_folder_that_is_no_run_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").write_text("mine")
    code, shown = in_process(monkeypatch, capsys, "run", *RUN, "--out", tmp_path, "--replace")
    assert code == 2
    assert "not a run of ours" in shown
    assert (tmp_path / "precious").read_text() == "mine"


def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str]:
    """The same command line without the seconds that a new interpreter takes to import."""
    monkeypatch.setattr("sys.argv", ["fedpref-sim", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    shown = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, shown.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--scenario", "retial-5"), 2, "Did you mean retail-5?"),
        (("--scenario", "synthetic-3", "--bogus"), 2, "No such option"),
        (("--scenario", "synthetic-3", "--engine", "carrier-pigeon"), 2, "carrier-pigeon"),
        (("--scenario", "synthetic-3", "--epsilon", "nan"), 2, "--epsilon is nan"),
        (("--scenario", "synthetic-3", "--epsilon", "-1"), 2, "--epsilon is -1"),
        (("--scenario", "synthetic-3", "--delta", "0.5"), 2, "--delta is 0.5"),
        (("--scenario", "synthetic-3", "--withdrawal-in-round", "maybe"), 2, "maybe"),
        (("--scenario", "synthetic-3", "--refusal-share", "1"), 5, "no customer's consent"),
        (("--scenario", "synthetic-3", "--epsilon-cap", "4"), 6, "the cap is 4"),
    ],
)
def test_bad_input_gets_one_message_and_a_documented_code(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended, shown = in_process(monkeypatch, capsys, "run", *arguments, "--out", tmp_path / "run")
    assert ended == code, shown
    assert words in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "run" / "report.html").exists()


def test_what_becomes_of_a_round_with_a_withdrawal_is_in_every_regions_signed_policy(
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("simulations.run_stages.federate", stop_before_training)
        arguments = ("run", *RUN, "--out", out, "--withdrawal-in-round", "discard")
        assert in_process(patch, capsys, *arguments)[0] == 9
    for run, choice in ((finished_run, "finish"), (out, "discard")):
        for region in ("region-1", "region-2", "region-3"):
            (record,) = region_records(run, region, "policy")
            assert record["policy"]["withdrawal_in_round"] == choice  # type: ignore[index]


def test_every_log_is_cosigned_by_all_others_and_the_outside_witness(finished_run: Path) -> None:
    verdict = json.loads(command("fedpref-audit", "verify", finished_run, "--json").stdout)
    parties = {"server", "region-1", "region-2", "region-3"}
    seen = {each["party"]: set(each["logs"]) for each in verdict["witnesses"]}
    assert seen == {"witness": parties, **{party: parties - {party} for party in parties}}
    for party in parties:
        note = (finished_run / "bundle" / "logs" / party / "checkpoint").read_text()
        assert note.count("\n— ") == 5


def test_a_damaged_log_stops_a_run_that_would_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ("run", *RUN, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr("simulations.run_stages.federate", stop_before_training)
        assert in_process(patch, capsys, *arguments)[0] == 9
    log = out / "regions" / "region-2" / "log.sqlite"
    data = bytearray(log.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(4096)
    log.write_bytes(bytes(data))
    code, shown = in_process(monkeypatch, capsys, *arguments)
    assert code in (8, 10), shown
    assert "region-2" in shown
    assert "Traceback" not in shown


def stop_before_training(*_: object, **__: object) -> None:
    raise FederationError("Stopped by the test.")


def paused(out: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return command("fedpref-sim", "run", *RUN, "--out", out, *more, "--pause-after-round", 2)


def test_a_pause_is_there_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ("run", *RUN, "--out", out, "--pause-after-round")
    code, shown = in_process(monkeypatch, capsys, *arguments, 5)
    assert (code, "it can pause after one of 1 to 4" in shown) == (2, True), shown
    assert in_process(monkeypatch, capsys, *arguments, 2)[0] == 0
    code, shown = in_process(monkeypatch, capsys, *arguments, 1)
    assert (code, "2 rounds are done already" in shown) == (2, True), shown
    assert not (out / "model.safetensors").exists()
    # Once more at the same place changes nothing.
    before = [len(region_records(out, "region-1", kind)) for kind in ("round", "charge")]
    assert in_process(monkeypatch, capsys, *arguments, 2)[0] == 0
    assert [len(region_records(out, "region-1", kind)) for kind in ("round", "charge")] == before
    assert before == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_every_engine_pauses_and_goes_on(engine: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stopped = paused(out, "--engine", engine)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "Paused after round 2 of 5" in stopped.stdout
    assert len(region_records(out, "region-1", "round")) == 2
    done = command("fedpref-sim", "run", *RUN, "--out", out, "--engine", engine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(region_records(out, "region-1", "round")) == 5
    assert verify_bundle(out).verified


def test_two_commands_do_not_work_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run_folder(tmp_path / "run"):
        code, shown = in_process(monkeypatch, capsys, "run", *RUN, "--out", tmp_path / "run")
    assert code == 10
    assert "Another command is working" in shown


def begin(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / "fedpref-sim", "run", *RUN, "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell starts background jobs, CI's perhaps, with Ctrl-C ignored: not what is tested.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(run: subprocess.Popen[str], out: Path, event: str, server_round: int) -> None:
    """Waits until the coordinator has told of an event of a round."""
    events = out / "server" / "events.jsonl"
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and run.poll() is None:
        lines = events.read_text().splitlines() if events.exists() else []
        for line in lines:
            told = json.loads(line)
            if (told["event"], told.get("round")) == (event, server_round):
                return
        time.sleep(0.005)
    run.kill()
    pytest.fail(f"The run ended or hung before {event} of round {server_round}: {run.stdout}")


@pytest.mark.parametrize(
    ("blow", "event", "server_round"),
    [
        (signal.SIGINT, "round-started", 3),
        # Killed runs that go on are in the fast suite too, without a command around them:
        # tests/simulations/faults/test_matrix.py and tests/server/test_resume.py.
        pytest.param(signal.SIGKILL, "region-replied", 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "round-started", 4, marks=pytest.mark.slow),
    ],
)
def test_the_same_command_goes_on_after_an_interruption(
    blow: signal.Signals, event: str, server_round: int, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run = begin(out)
    wait_for(run, out, event, server_round)
    run.send_signal(blow)
    shown = run.communicate(timeout=400)[0]
    if blow is signal.SIGINT:
        assert run.returncode == 130
        assert "the same command goes on" in " ".join(shown.split())
    assert not (out / "report.html").exists()
    done = command("fedpref-sim", "run", *RUN, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Going on with" in done.stdout
    assert verify_bundle(out).verified
    for region in ("region-1", "region-2", "region-3"):
        assert len(region_records(out, region, "charge")) == 5
        assert len(region_records(out, region, "release")) == 5
