"""An outside witness as its operator runs it: made, enrolled, served, asked, shown."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from threading import Thread

import pytest

from common.audit import cli
from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.witness.channel import submit_checkpoint
from common.audit.witness.errors import (
    ConflictError,
    StaleSizeError,
    UnknownLogError,
    UnsignedError,
)
from common.audit.witness.http_client import HttpWitness
from common.key_entry import parse_key_entry
from common.key_request import open_request
from common.timestamps import now_ms
from tests.support.branching_log import BranchingLog
from tests.support.memory_signer import MemorySigner
from tests.support.small_registry import ROOT, key_entry, registry_chain

COMMAND = Path(sys.executable).parent / "fedpref-audit"
LOG = BranchingLog()
LOG_ENTRY = key_entry("region-1", "log", LOG.signer.public_key)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(*arguments):
    """The command in this process, as it ends for its user."""
    out, err = StringIO(), StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["fedpref-audit", "witness", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return Done(stop.value.code, out.getvalue(), err.getvalue())


def write_registry(folder, *versions):
    folder.mkdir(exist_ok=True)
    for number, data in enumerate(registry_chain(*versions), start=1):
        (folder / f"{number}.json").write_bytes(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A new witness's home and what `init` printed."""
    home = tmp_path_factory.mktemp("made") / "home"
    done = run("init", home, "--name", "outside", "--federation", "small.example")
    assert done.returncode == 0, done.stderr
    return home, parse_key_entry(json.loads(done.stdout))


@pytest.fixture
def registry(made, tmp_path):
    folder = tmp_path / "registry"
    write_registry(folder, [LOG_ENTRY, made[1]])
    return folder


@contextmanager
def serving(home, registry, *options):
    command = [COMMAND, "witness", "serve", home, "--registry", registry, "--port", "0", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may have had Ctrl-C ignored for what it started in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        first = process.stdout.readline()
        assert " on http://127.0.0.1:" in first, first + process.stderr.read()
        yield process, first.split(" on ")[1].strip()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)


def test_a_new_witness_has_a_key_a_memory_and_the_fields_to_enrol(made):
    home, entry = made
    assert (entry.party, entry.role, entry.revoked_at_ms) == ("outside", "witness", None)
    assert entry.not_before_ms <= now_ms() < entry.not_after_ms
    for name in ("keys/witness.pem", "keys/passphrase", "witness.sqlite"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    request = open_request((home / "request.json").read_bytes())
    assert (request.key_id, request.party, request.role) == (entry.key_id, "outside", "witness")


def test_a_witness_is_not_made_twice(made):
    home, _ = made
    key = (home / "keys" / "witness.pem").read_bytes()
    again = run("init", home, "--name", "outside")
    assert again.returncode == 3
    assert "already" in again.stderr
    assert (home / "keys" / "witness.pem").read_bytes() == key


def test_a_malformed_name_makes_nothing(tmp_path):
    assert run("init", tmp_path / "home", "--name", "No Name").returncode == 3
    assert not (tmp_path / "home").exists()


def test_from_the_first_checkpoint_to_a_split_view_and_its_evidence(made, registry, tmp_path):
    home, entry = made
    key = NoteKey("outside", entry.public_key, 0x04)
    with serving(home, registry, "--root-key", ROOT.key_id) as (process, url):
        witness = HttpWitness(url)
        for size in (3, 8):
            lines = submit_checkpoint(witness, LOG.note(size), LOG.proof)
            note = LOG.note(size) + "".join(lines).encode()
            cosigned = open_checkpoint(note, LOG.key, [key]).cosigned_at_s["outside"]
            assert abs(cosigned - time.time()) < 60
        with pytest.raises(StaleSizeError) as refusal:
            witness.add_checkpoint(LOG.note(5), 5, [])
        assert refusal.value.known_size == 8
        with pytest.raises(ConflictError):
            witness.add_checkpoint(LOG.note(8, "forked"), 8, [])
        with pytest.raises(UnsignedError):
            witness.add_checkpoint(LOG.note(8, signer=MemorySigner("x")), 8, [])
        with pytest.raises(UnknownLogError):
            witness.add_checkpoint(BranchingLog("small.example/witness").note(1), 0, [])
        with urllib.request.urlopen(url, timeout=60) as page:
            assert key.verifier_key in page.read().decode()
            assert "server" not in {name.lower() for name in page.headers}
        process.kill()
    with serving(home, registry) as (process, url):
        # Nothing was forgotten.
        with pytest.raises(StaleSizeError) as refusal:
            HttpWitness(url).add_checkpoint(LOG.note(9), 0, [])
        assert refusal.value.known_size == 8
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, "")
        assert out.endswith("Stopped.\n")
    shown = run("status", home)
    assert f"{LOG.origin}: size 8" in shown.stdout
    assert "split-view" in shown.stdout
    status = json.loads(run("status", home, "--json").stdout)
    assert [log["size"] for log in status["logs"]] == [8]
    assert [each["kind"] for each in status["evidence"]] == ["split-view"]
    out = tmp_path / "out"
    assert run("evidence", home, "--out", out).returncode == 0
    assert open_checkpoint((out / "region-1").read_bytes(), LOG.key, [key]).cosigned_at_s
    known, other = (
        open_checkpoint((out / "evidence" / f"1-region-1-{side}").read_bytes(), LOG.key)
        for side in "ab"
    )
    assert known.checkpoint == LOG.checkpoint(8)
    assert other.checkpoint == LOG.checkpoint(8, "forked")
    assert "split-view" in (out / "evidence" / "1-region-1.txt").read_text()
    assert run("evidence", home, "--out", out).returncode == 3


def test_a_new_registry_takes_effect_while_serving(tmp_path):
    home, registry = tmp_path / "home", tmp_path / "registry"
    entry = parse_key_entry(json.loads(run("init", home, "--name", "outside").stdout))
    write_registry(registry, [LOG_ENTRY, entry])
    other = BranchingLog("small.example/region-2")
    added = key_entry("region-2", "log", other.signer.public_key)
    with serving(home, registry) as (_, url):
        witness = HttpWitness(url)
        assert witness.add_checkpoint(LOG.note(3), 0, [])
        with pytest.raises(UnknownLogError):
            witness.add_checkpoint(other.note(3), 0, [])
        revoked = replace(LOG_ENTRY, revoked_at_ms=now_ms() - 1)
        write_registry(registry, [LOG_ENTRY, entry], [revoked, entry, added])
        assert witness.add_checkpoint(other.note(3), 0, [])
        with pytest.raises(UnsignedError):
            witness.add_checkpoint(LOG.note(8), 3, LOG.proof(3, 8))


def test_two_branches_at_once_over_http(tmp_path):
    home, registry = tmp_path / "home", tmp_path / "registry"
    entry = parse_key_entry(json.loads(run("init", home, "--name", "outside").stdout))
    write_registry(registry, [LOG_ENTRY, entry])
    outcomes = []

    def submit(url, branch):
        try:
            proof = LOG.proof(3, 8, branch)
            HttpWitness(url).add_checkpoint(LOG.note(8, branch), 3, proof)
            outcomes.append("cosigned")
        except (ConflictError, StaleSizeError) as error:
            outcomes.append(str(error.status))

    with serving(home, registry) as (_, url):
        HttpWitness(url).add_checkpoint(LOG.note(3), 0, [])
        threads = [Thread(target=submit, args=(url, branch)) for branch in ("true", "forked") * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # The winner's three others are too late as well; they contradict nothing.
    assert sorted(outcomes) == ["409"] * 7 + ["cosigned"]
    evidence = json.loads(run("status", home, "--json").stdout)["evidence"]
    assert [each["kind"] for each in evidence] == ["split-view"]


@pytest.mark.parametrize(
    ("change", "said", "code"),
    [
        (lambda entry: [LOG_ENTRY], "not in the key registry", 8),
        (lambda entry: [replace(entry, revoked_at_ms=entry.not_before_ms)], "revoked", 8),
        (lambda entry: [replace(entry, role="log")], "not witness", 8),
    ],
)
def test_a_witness_whose_cosignatures_would_not_count_does_not_serve(
    made, tmp_path, change, said, code
):
    registry = tmp_path / "registry"
    write_registry(registry, change(made[1]))
    refused = run("serve", made[0], "--registry", registry, "--port", "0")
    assert refused.returncode == code
    assert said in refused.stderr


def test_what_is_missing_or_taken_is_said(made, registry, tmp_path):
    home, _ = made
    assert "no key registry" in run("serve", home, "--registry", tmp_path / "none").stderr
    assert "root keys" in run("serve", home, "--registry", registry, "--root-key", "0" * 64).stderr
    missing = run("status", tmp_path / "none")
    assert missing.returncode == 3
    assert "no witness file" in missing.stderr
    with serving(home, registry) as (_, url):
        taken = run("serve", home, "--registry", registry, "--port", url.rpartition(":")[2])
    assert taken.returncode == 3
    assert "cannot listen" in taken.stderr
