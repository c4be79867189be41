from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import canonical_json
from common.audit.log import AuditLog
from common.errors import FederationError, PolicyError
from common.parameters import arrays_digest, load_arrays, save_arrays
from server import cli
from server.config import ServerHome
from server.status import read_status
from tests.support.command_line import Command, command_line
from tests.support.fake_federation import FakeFederation, fake_plan, open_federation


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, "fedpref-server", patch=monkeypatch, capture=capsys)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FakeFederation]:
    with open_federation(tmp_path, fake_plan()) as opened:
        yield opened


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ServerHome:
    """The home of a finished run; read only."""
    with open_federation(tmp_path_factory.mktemp("finished"), fake_plan()) as opened:
        opened.run()
        return opened.home


def refuse(server_round: int) -> Callable[[int], None]:
    """An engine's hook: refuses from a round on."""

    def hook(number: int) -> None:
        if number >= server_round:
            raise PolicyError("Not permitted.")

    return hook


def test_status_of_a_home_that_was_never_started(
    federation: FakeFederation, command: Command
) -> None:
    code, output, _ = command("status", str(federation.home.root))
    assert code == 0
    assert "Run run-1: 0 of 3 rounds done, not started" in output
    assert federation.plan.digest in output
    assert output.count("none yet") == 3  # checkpoint, model, log
    assert not federation.home.log.exists()


def test_status_of_a_finished_run(finished: ServerHome, command: Command) -> None:
    code, output, _ = command("status", str(finished.root))
    with AuditLog.open_read_only(finished.log) as log:
        size, root = log.size, log.root.hex()
    model = arrays_digest(load_arrays(finished.model.read_bytes(), max_bytes=1 << 24))
    assert code == 0
    assert "3 of 3 rounds done, finished" in output
    assert f"test.example/server, {size} entries" in output
    assert root in output
    assert model in output
    assert "round 3, log size" in output
    assert output.count("3 of 3") == 4  # the first line, and each round's regions
    assert "run-finished" in output
    assert "Refused and reported" not in output


def test_status_of_an_interrupted_run_names_who_refused_and_why(
    federation: FakeFederation, command: Command
) -> None:
    federation.engines["region-2"].before_train = refuse(1)
    federation.engines["region-3"].before_train = refuse(2)
    with pytest.raises(FederationError):
        federation.run()
    code, output, _ = command("status", str(federation.home.root), "--events", "50")
    assert code == 0
    assert "1 of 3 rounds done, unfinished" in output
    assert "region-2: not-permitted" in output
    assert "round 1, log size" in output
    assert "after round 1; not published yet" in output
    assert "below-quorum" in output
    assert "run-failed" in output
    found = read_status(federation.home, last_events=0)
    assert [(done.server_round, done.used) for done in found.rounds] == [
        (1, ("region-1", "region-3"))
    ]
    assert {(each.server_round, each.region) for each in found.incidents} >= {
        (1, "region-2"),
        (2, "region-2"),
        (2, "region-3"),
        (2, None),
    }


def test_status_is_readable_while_the_log_has_its_writer(
    federation: FakeFederation, command: Command
) -> None:
    federation.run()
    with federation.trail() as trail:
        trail.log_incident(server_round=None, region=None, reason="a-drill", detail="A drill.")
        code, output, _ = command("status", str(federation.home.root))
        assert code == 0
        assert f"{trail.log.size} entries" in output
        assert "a-drill" in output


def test_status_writes_nothing(finished: ServerHome, command: Command) -> None:
    def content() -> dict[str, bytes]:
        # SQLite keeps side files for its readers; the log itself is one file.
        return {
            str(path.relative_to(finished.root)): path.read_bytes()
            for path in finished.root.rglob("*")
            if path.is_file() and not path.name.startswith("log.sqlite-")
        }

    before = content()
    command("status", str(finished.root))
    command("plan", str(finished.root))
    assert content() == before


@pytest.mark.parametrize(("number", "shown"), [("0", 0), ("2", 2)])
def test_events_are_the_last_ones(
    finished: ServerHome, command: Command, number: str, shown: int
) -> None:
    _, output, _ = command("status", str(finished.root), "--events", number)
    table = output.partition("Last events")[2].splitlines()[2:]
    assert len(table) == shown
    assert ("run-finished" in output) == bool(shown)


def test_a_torn_or_foreign_event_is_left_out(federation: FakeFederation) -> None:
    federation.run()
    whole = read_status(federation.home, last_events=100).events
    with federation.home.events.open("ab") as file:
        file.write(b'not an event\n["neither"]\n{"event":"torn')
    assert read_status(federation.home, last_events=100).events == whole


def test_a_round_logged_before_its_checkpoint_is_shown(federation: FakeFederation) -> None:
    federation.run()
    (federation.home.checkpoint / "checkpoint.json").unlink()
    found = read_status(federation.home, last_events=0)
    assert (len(found.rounds), found.checkpoint) == (3, None)


def test_another_runs_entries_do_not_count(federation: FakeFederation) -> None:
    federation.run()
    other = fake_plan(run_id="run-2")
    federation.home.plan.write_bytes(canonical_json.encode(other.to_record()))
    (federation.home.checkpoint / "checkpoint.json").unlink()
    found = read_status(federation.home, last_events=0)
    assert (found.rounds, found.incidents, found.published) == ((), (), None)


def test_a_model_that_was_not_published_is_named(
    federation: FakeFederation, command: Command
) -> None:
    federation.run()
    arrays = federation.model()
    arrays["popularity"] = arrays["popularity"] + 1
    federation.home.model.write_bytes(save_arrays(arrays))
    code, output, _ = command("status", str(federation.home.root))
    assert code == 8
    assert "is not the model that the log says was published" in output


def test_bad_homes_get_one_message_and_their_exit_code(
    federation: FakeFederation, command: Command, tmp_path: Path
) -> None:
    federation.run()
    home = federation.home
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: list[tuple[Path, int, str]] = [
        (tmp_path / "nowhere", 3, "There is no folder"),
        (empty, 3, "plan.json cannot be read"),
    ]
    for folder, expected, message in cases:
        for name in ("status", "plan"):
            code, output, errors = command(name, str(folder))
            assert (code, output) == (expected, "")
            assert message in errors.replace("\n", " ")
            assert "Traceback" not in errors

    def damaged(path: Path, data: bytes, expected: int, message: str) -> None:
        kept = path.read_bytes()
        path.write_bytes(data)
        code, output, errors = command("status", str(home.root))
        path.write_bytes(kept)
        assert (code, output) == (expected, "")
        assert message in errors.replace("\n", " ")
        assert "Traceback" not in errors

    damaged(home.plan, b"{}", 3, "is not a run plan")
    damaged(home.log, b"no database at all", 10, "is not an audit log")
    damaged(home.model, b"torn", 10, "is damaged")
    damaged(home.checkpoint / "checkpoint.json", b"{", 10, "is damaged")
    assert command("status", str(home.root))[0] == 0


def test_plan_shows_the_mechanisms_and_exactly_what_leaves(
    finished: ServerHome, command: Command
) -> None:
    plan = finished.read_plan()
    code, output, _ = command("plan", str(finished.root))
    assert code == 0
    for mechanism in plan.mechanisms:
        assert mechanism.noise_multiplier in output
    assert "ε = 1 at δ = 0.000001" in output
    assert "one customer, add-or-remove-one-customer" in output
    leaves = output.partition("What leaves each region, and nothing else")[2].splitlines()[2:]
    assert [line.split() for line in leaves if line.strip()] == [
        ["1", "popularity", "<f4", "30", "120"],
        ["2–3", "factor_gradient", "<f4", "30", "×", "4", "480"],
    ]


def test_plan_states_the_epsilon_of_all_rounds_together(
    finished: ServerHome, command: Command
) -> None:
    _, output, _ = command("plan", str(finished.root))
    (together,) = [line for line in output.splitlines() if line.startswith("together")]
    assert together.split()[-1] == "1.0000"


def test_a_command_starts_without_flower_and_torch() -> None:
    script = (
        "import sys, server.cli, server.status\n"
        "print(sorted({'flwr', 'torch', 'opacus', 'pandas'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
