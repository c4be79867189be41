"""Full disks, wrong clocks, torn checkpoints: the door is closed, and nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from common import canonical_json
from common.aggregation_rules import RuleName
from common.failpoints import Point
from simulations.faults.case import Case, Given
from simulations.faults.kills import check_resumed
from simulations.faults.places import Trap
from simulations.faults.replies import check_refused
from simulations.faults.trial import Trial

_HOUR_S = 3600.0
_STORAGE, _NOT_VERIFIED, _NOT_COMPLETED = 10, 8, 9
_LEDGER, _LOG = "write ledger.sqlite-wal", "write log.sqlite-wal"
#: In which round a disk is full; and after which a run pauses whose files are then damaged.
_ROUND = 2


def cases(rule: RuleName) -> list[Case]:
    """Full disks, wrong clocks, damaged checkpoints.

    Args:
        rule: By which rule updates become one: what was under masks cannot be had again.
    """
    region = "refused as storage-failure, charged once at most; back in the next round"
    server = "ends with code 10; going on gives the same model"
    rows = [
        Case("disk full", f"region: {what}", region, _region_full(place))
        for what, place in (
            ("ledger", _LEDGER),
            ("seal", str(Point.FILE_OPENED)),
            ("seal, half-written", str(Point.FILE_WRITTEN)),
            ("log", _LOG),
        )
    ]
    rows += [
        Case("disk full", f"coordinator: {what}", server, _coordinator_full(place))
        for what, place in (
            ("checkpoint", str(Point.FILE_OPENED)),
            ("checkpoint, half-written", str(Point.FILE_WRITTEN)),
            ("log", _LOG),
        )
    ]
    rows += [
        Case("clock", f"region {sign}1 h", "defined outcome, nothing lost", _region_clock(offset))
        for sign, offset in (("+", _HOUR_S), ("−", -_HOUR_S))
    ]
    rows += [
        Case(
            "clock",
            f"coordinator {sign}1 h, then right again",
            "defined outcome; the run ends, each round once",
            _coordinator_clock(offset),
        )
        for sign, offset in (("+", _HOUR_S), ("−", -_HOUR_S))
    ]
    rows += [
        Case(
            "checkpoint",
            what,
            f"refused with code {code}, log untouched; restored, the same model",
            _damaged(damage, code),
        )
        for what, damage, code in (
            ("torn", _torn, _STORAGE),
            ("a byte of the model changed", _byte_changed, _STORAGE),
            ("the model's file missing", _model_missing, _STORAGE),
            ("an unknown version", _unknown_version, _STORAGE),
            ("of another size of the log", _other_size, _NOT_VERIFIED),
            ("of other regions", _other_roster, _NOT_VERIFIED),
            ("log rolled back behind it", _log_rolled_back, _NOT_VERIFIED),
        )
    ]
    if rule == "secure-sum":
        gone = "named as round-over by every region, nothing published; restored, the same model"
        rows.append(Case("checkpoint", "removed", gone, _removed_under_masks))
    else:
        sealed = "the regions send what they sealed; the same model"
        rows.append(Case("checkpoint", "removed", sealed, _removed))
    return rows


def _region_full(place: str) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        victim = given.random.choice(trial.regions)
        full = Trap(place, "full", _ROUND, passing=0)
        trial.start(**{victim.replace("-", "_"): {"traps": [full]}})
        ending = trial.coordinate_and_repeat()
        trial.hold(not ending.failed, f"the run was aborted: {ending.message}")
        trial.hold(bool(trial.sprung), f"{victim} never passed {place!r}")
        check_refused(trial, victim, "storage-failure", _ROUND)
        after = trial.judge.refused().get(_ROUND + 1)
        trial.hold(after == {}, f"the next round lacks {after}")
        trial.finish()

    return act


def _coordinator_full(place: str) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        trial.start()
        ending = trial.coordinate(traps=[Trap(place, "full", _ROUND, passing=0)])
        trial.hold(ending.code == _STORAGE, f"it ended with {ending.code}: {ending.message}")
        trial.hold(not trial.home.model.exists(), "a model was published")
        ending = trial.coordinate()
        check_resumed(trial, given, ending.failed, ending.message)

    return act


def _region_clock(offset_s: float) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        victim = given.random.choice(trial.regions)
        wrong = {"clock_offset_s": offset_s, "clock_from_round": _ROUND}
        trial.start(**{victim.replace("-", "_"): wrong})
        ending = trial.coordinate()
        trial.hold(not ending.failed, f"the run was aborted: {ending.message}")
        for number, refused in trial.judge.refused().items():
            trial.hold(set(refused) <= {victim}, f"round {number} also lacks {refused}")
            expected = {"not-witnessed", "clock-behind", None}
            trial.hold(
                refused.get(victim) in expected, f"round {number} names {refused.get(victim)}"
            )
        trial.finish()

    return act


def _coordinator_clock(offset_s: float) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        trial.start()
        paused = trial.coordinate(run_config={"last-round": _ROUND})
        trial.hold(not paused.failed, f"it did not pause: {paused.message}")
        wrong = trial.coordinate(clock_offset_s=offset_s)
        trial.hold(
            wrong.code in (0, _NOT_COMPLETED), f"it ended with {wrong.code}: {wrong.message}"
        )
        ending = trial.coordinate()
        trial.hold(not ending.failed, f"the run was aborted: {ending.message}")
        trial.finish()
        del given

    return act


def _damaged(damage: Callable[[Path, Path], None], code: int) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        trial.start()
        earlier, kept = (trial.folder.server.with_name(name) for name in ("earlier", "kept"))
        for number, copy in ((_ROUND - 1, earlier), (_ROUND, kept)):
            paused = trial.coordinate(run_config={"last-round": number})
            trial.hold(not paused.failed, f"it did not pause: {paused.message}")
            shutil.copytree(trial.folder.server, copy)
        damage(trial.folder.server, earlier)
        before = (trial.folder.server / "log.sqlite").read_bytes()
        refused = trial.coordinate(judged=False)
        trial.hold(refused.code == code, f"it ended with {refused.code}: {refused.message}")
        trial.hold("checkpoint" in refused.message, f"it does not say what: {refused.message}")
        trial.hold(
            (trial.folder.server / "log.sqlite").read_bytes() == before, "the log was written to"
        )
        trial.hold(not trial.home.model.exists(), "a model was published")
        shutil.rmtree(trial.folder.server)
        kept.rename(trial.folder.server)
        ending = trial.coordinate()
        check_resumed(trial, given, ending.failed, ending.message)

    return act


def _removed(trial: Trial, given: Given) -> None:
    trial.start()
    trial.coordinate(run_config={"last-round": _ROUND})
    shutil.rmtree(trial.home.checkpoint)
    ending = trial.coordinate()
    check_resumed(trial, given, ending.failed, ending.message)


def _removed_under_masks(trial: Trial, given: Given) -> None:
    """The keys of a round's masks are gone with the round: its model is in the checkpoint alone."""
    trial.start()
    trial.coordinate(run_config={"last-round": _ROUND})
    kept = trial.home.checkpoint.with_name("kept")
    trial.home.checkpoint.rename(kept)
    refused = trial.coordinate()
    trial.hold(refused.code == _NOT_COMPLETED, f"it ended with {refused.code}: {refused.message}")
    for region in trial.regions:
        trial.hold(f"{region}: round-over" in refused.message, f"{region}: {refused.message}")
    trial.hold(not trial.home.model.exists(), "a model was published")
    kept.rename(trial.home.checkpoint)
    ending = trial.coordinate()
    check_resumed(trial, given, ending.failed, ending.message)


def _torn(server: Path, _: Path) -> None:
    index = server / "checkpoint" / "checkpoint.json"
    index.write_bytes(index.read_bytes()[:-20])


def _byte_changed(server: Path, _: Path) -> None:
    path = _model(server)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _model_missing(server: Path, _: Path) -> None:
    _model(server).unlink()


def _unknown_version(server: Path, _: Path) -> None:
    _edit(server, "v", "fedpref-server-checkpoint/99")


def _other_size(server: Path, _: Path) -> None:
    index = server / "checkpoint" / "checkpoint.json"
    record = canonical_json.decode(index.read_bytes())
    if not isinstance(record, dict) or not isinstance(record["log"], dict):
        raise TypeError("a checkpoint names a position in the log")
    size = record["log"]["size"]
    record["log"]["size"] = int(str(size)) - 1
    index.write_bytes(canonical_json.encode(record))


def _other_roster(server: Path, _: Path) -> None:
    _edit(server, "roster", ["region-1"])


def _log_rolled_back(server: Path, earlier: Path) -> None:
    """The log as it was before the last round, with the checkpoint after it."""
    for path in server.glob("log.sqlite*"):
        path.unlink()
    for path in earlier.glob("log.sqlite*"):
        shutil.copyfile(path, server / path.name)


def _model(server: Path) -> Path:
    return next((server / "checkpoint").glob("model-*.safetensors"))


def _edit(server: Path, name: str, value: canonical_json.JsonValue) -> None:
    index = server / "checkpoint" / "checkpoint.json"
    record = canonical_json.decode(index.read_bytes())
    if not isinstance(record, dict):
        raise TypeError("a checkpoint is an object")
    index.write_bytes(canonical_json.encode({**record, name: value}))
