"""Policies, consents and ledgers missing or not as they should be: nothing is trained."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from simulations.faults.case import Case, Given
from simulations.faults.trial import Trial

_BELOW_QUORUM = 9
#: For how long the coordinator waits for a region that will not come, in seconds.
_NODES_WAIT_S = 5.0
Damage = Callable[[Path], None]


def cases() -> list[Case]:
    """A row for each damage of one region's home, and one for too many of them."""
    nothing = "0 steps, 0 bytes of update; the others go on"
    rows = [
        Case("bad input", f"{what}: {how}", nothing, _one(damage))
        for what, how, damage in (
            ("policy", "missing", _removed("policy.json")),
            ("policy", "cut short", _cut("policy.json")),
            ("policy", "a cap that is NaN", _policy(epsilon_cap_per_year="NaN")),
            ("policy", "a negative cap", _policy(epsilon_cap_per_year="-1")),
            ("policy", "an unknown field", _policy(also="this")),
            ("policy", "a lower cap than is logged", _policy(epsilon_cap_per_year="4")),
            ("policy", "the same key twice", _doubled_key),
            ("consent log", "missing", _removed("log.sqlite")),
            ("consent log", "not a database", _garbage("log.sqlite")),
            ("consent log", "a record changed", _consent_changed),
            ("consent log", "a record with an unknown field", _consent_extended),
            ("ledger", "missing", _removed("ledger.sqlite")),
            ("ledger", "not a database", _garbage("ledger.sqlite")),
            ("ledger", "a charge of NaN", _charge_of_nan),
            ("ledger", "an unknown column", _ledger_column),
        )
    ]
    rows.append(
        Case(
            "bad input",
            "policies missing in more regions than the quorum can spare",
            "nothing trained there, nothing published",
            _too_many,
        )
    )
    return rows


def _one(damage: Damage) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        victim = given.random.choice(trial.regions)
        trial.spoil(victim, damage)
        trial.start()
        ending = trial.coordinate(run_config={"nodes-wait-s": _NODES_WAIT_S})
        trial.hold(not ending.failed, f"the run was aborted: {ending.message}")
        _check_idle(trial, victim)
        for number, refused in trial.judge.refused().items():
            trial.hold(set(refused) == {victim}, f"round {number} lacks {refused}")
        trial.finish()

    return act


def _too_many(trial: Trial, given: Given) -> None:
    victims = given.random.sample(trial.regions, len(trial.regions) - trial.plan.quorum + 1)
    for victim in victims:
        trial.spoil(victim, _removed("policy.json"))
    trial.start()
    ending = trial.coordinate(run_config={"nodes-wait-s": _NODES_WAIT_S})
    trial.hold(ending.code == _BELOW_QUORUM, f"it ended with {ending.code}: {ending.message}")
    for victim in victims:
        trial.hold(victim in ending.message, f"{victim} is not named: {ending.message}")
        _check_idle(trial, victim)
    trial.finish(published=False)


def _check_idle(trial: Trial, victim: str) -> None:
    steps = [number for region, number in trial.trained if region == victim]
    trial.hold(steps == [], f"{victim} trained in rounds {steps}")
    left = [each.server_round for each in trial.judges[victim].left]
    trial.hold(left == [], f"updates of {victim} left in rounds {left}")
    refusals = [reason for region, _, reason in trial.refusals if region == victim]
    refused = [who.get(victim) for who in trial.judge.refused().values() if victim in who]
    trial.hold(
        victim in trial.unopened or bool(refusals or refused),
        f"{victim} gave no reason at all",
    )


def _removed(name: str) -> Damage:
    def damage(home: Path) -> None:
        for path in home.glob(f"{name}*"):
            path.unlink()

    return damage


def _cut(name: str) -> Damage:
    return lambda home: _write(home / name, (home / name).read_bytes()[:-10])


def _garbage(name: str) -> Damage:
    def damage(home: Path) -> None:
        _removed(name)(home)
        _write(home / name, b"\x00not a database" * 512)

    return damage


def _policy(**changes: Any) -> Damage:
    def damage(home: Path) -> None:
        record = {**json.loads((home / "policy.json").read_bytes()), **changes}
        text = json.dumps(record, sort_keys=True, separators=(",", ":"))
        _write(home / "policy.json", text.encode())

    return damage


def _doubled_key(home: Path) -> None:
    data = (home / "policy.json").read_bytes()
    _write(home / "policy.json", data.replace(b'"region"', b'"region":"x","region"', 1))


def _consent_changed(home: Path) -> None:
    """A refusal becomes a grant, without a signature for it."""
    _change_consent(home, lambda data: data[:-40] + bytes(reversed(data[-40:])))


def _consent_extended(home: Path) -> None:
    _change_consent(home, lambda data: data[:-1] + b',"also":"this"}')


def _change_consent(home: Path, change: Callable[[bytes], bytes]) -> None:
    with closing(sqlite3.connect(home / "log.sqlite")) as log, log:
        triggers = log.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            log.execute(f'DROP TRIGGER "{name}"')
        place, data = log.execute(
            "SELECT rowid, data FROM entry WHERE instr(data, 'fedpref.consent') ORDER BY 1 LIMIT 1"
        ).fetchone()
        log.execute("UPDATE entry SET data = ? WHERE rowid = ?", (change(bytes(data)), place))


def _charge_of_nan(home: Path) -> None:
    with closing(sqlite3.connect(home / "ledger.sqlite")) as ledger, ledger:
        columns = [row[1] for row in ledger.execute("PRAGMA table_info(charges)")]
        values = ["NaN" if name.endswith("multiplier") else "1" for name in columns]
        marks = ", ".join("?" for _ in columns)
        ledger.execute(f"INSERT INTO charges VALUES ({marks})", values)  # noqa: S608 - marks alone


def _ledger_column(home: Path) -> None:
    with closing(sqlite3.connect(home / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("ALTER TABLE charges ADD COLUMN also TEXT")


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
