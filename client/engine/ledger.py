"""The region's budget ledger: every charge, durable before its mechanism may run.

A *privacy filter* (it refuses) and an *odometer* (it tells) over one append-only table. A charge is
committed to disk before any noise is drawn, so a crash may waste a charge but can never release
anything uncharged. Each row's head is a hash over the row and the previous head; heads go into the
audit log, so that a ledger restored from an old disk is noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from common import canonical_json
from common.audit.writer_lock import WriterBusyError, WriterLock
from common.canonical_json import JsonValue
from common.errors import BudgetError, StorageError
from common.failpoints import Point, reach
from common.privacy import GaussianEvent, epsilon, epsilon_rdp

GENESIS_HEAD = "0" * 64

_SCHEMA = """
CREATE TABLE charges (
  seq INTEGER PRIMARY KEY,
  charge_id TEXT NOT NULL UNIQUE,
  run TEXT NOT NULL,
  round INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  mechanism TEXT NOT NULL,
  noise_multiplier TEXT NOT NULL,
  clipping_norm TEXT NOT NULL,
  sampling_probability TEXT NOT NULL,
  steps INTEGER NOT NULL,
  permit_id TEXT NOT NULL,
  time TEXT NOT NULL,
  head TEXT NOT NULL,
  UNIQUE (run, round)
) STRICT;
CREATE TRIGGER charges_no_update BEFORE UPDATE ON charges
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER charges_no_delete BEFORE DELETE ON charges
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


@dataclass(frozen=True)
class ChargeRequest:
    """What a mechanism is about to spend.

    Attributes:
        charge_id: A ULID, unique in the ledger.
        run: The run's id.
        server_round: The round, from 1.
        attempt: The attempt that asked first.
        mechanism: The mechanism's name in the run plan.
        noise_multiplier: σ / C as a decimal string.
        clipping_norm: C as a decimal string.
        sampling_probability: The inclusion probability of a customer, as a decimal string.
        steps: How often the mechanism runs under this charge.
        permit_id: The permit that allows it.
        time: When, as a UTC timestamp; its year is the budget year.
    """

    charge_id: str
    run: str
    server_round: int
    attempt: int
    mechanism: str
    noise_multiplier: str
    clipping_norm: str
    sampling_probability: str
    steps: int
    permit_id: str
    time: str

    @property
    def year(self) -> int:
        """The budget year."""
        return int(self.time[:4])

    @property
    def event(self) -> GaussianEvent:
        """The privacy event this charge pays for."""
        return GaussianEvent(
            noise_multiplier=float(self.noise_multiplier),
            sampling_probability=float(self.sampling_probability),
            count=self.steps,
        )

    def to_record(self, seq: int, previous_head: str) -> dict[str, JsonValue]:
        """What the row's head is computed over."""
        return {
            "attempt": self.attempt,
            "charge_id": self.charge_id,
            "clipping_norm": self.clipping_norm,
            "mechanism": self.mechanism,
            "noise_multiplier": self.noise_multiplier,
            "permit_id": self.permit_id,
            "previous_head": previous_head,
            "round": self.server_round,
            "run": self.run,
            "sampling_probability": self.sampling_probability,
            "seq": seq,
            "steps": self.steps,
            "time": self.time,
        }


@dataclass(frozen=True)
class Charge:
    """One committed row: the request, its number and the ledger's head after it."""

    request: ChargeRequest
    seq: int
    head: str


@dataclass(frozen=True)
class Spending:
    """ε spent, at the ledger's δ; add-or-remove-one-customer, unit: customer.

    Attributes:
        run: By one run.
        year: By everything charged in the budget year.
        lifetime: By everything ever charged.
        cap: The year's hard total.
    """

    run: float
    year: float
    lifetime: float
    cap: float


def composed_epsilon(runs: Iterable[Sequence[GaussianEvent]], delta: float) -> float:
    """ε of all runs' events together, at ``delta``.

    Formal guarantees:
        One run's parameters are fixed when it is reserved, so its privacy loss distribution
        composes tightly (PLD). Several runs are chosen one after another, each perhaps because of
        what the last one showed: they compose by RDP, whose filter holds for adaptively chosen
        mechanisms (Feldman and Zrnic, 2021). Where it depends on the first run's outcome whether
        there is a second one, both statements are used, and δ of the whole is at most 2·δ.

    Args:
        runs: The events, run by run; empty runs are ignored.
        delta: δ of the statement, in (0, 1).
    """
    charged = [list(events) for events in runs if events]
    if not charged:
        return 0.0
    if len(charged) == 1:
        return epsilon(charged[0], delta)
    return epsilon_rdp([event for events in charged for event in events], delta)


class Ledger:
    """An open budget ledger. One writer at a time; use `open_ledger`."""

    def __init__(self, connection: apsw.Connection, path: Path, *, cap: float, delta: float):
        self._connection = connection
        self._path = path
        self._cap = cap
        self._delta = delta
        self._charges = self._load()

    @property
    def head(self) -> str:
        """The newest row's head, or `GENESIS_HEAD`."""
        return self._charges[-1].head if self._charges else GENESIS_HEAD

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Every charge, oldest first."""
        return tuple(self._charges)

    def find(self, run: str, server_round: int) -> Charge | None:
        """The charge of one round of a run, if it was made."""
        for charge in self._charges:
            if (charge.request.run, charge.request.server_round) == (run, server_round):
                return charge
        return None

    def spending(self, run: str, year: int, *, upto_seq: int | None = None) -> Spending:
        """The odometer's reading, after charge ``upto_seq`` if given."""
        seen = [charge for charge in self._charges if upto_seq is None or charge.seq <= upto_seq]
        of_run = [charge.request.event for charge in seen if charge.request.run == run]
        return Spending(
            run=composed_epsilon([of_run], self._delta),
            year=self._composed(charge for charge in seen if charge.request.year == year),
            lifetime=self._composed(seen),
            cap=self._cap,
        )

    def admit(self, run: str, year: int, planned: Sequence[GaussianEvent]) -> float:
        """Asks whether a whole run fits under the cap, before its first charge.

        Args:
            run: The run's id; what it was charged already counts as part of ``planned``.
            year: The budget year.
            planned: All events of the run's plan.

        Returns:
            ε of the year if the plan is carried out.

        Raises:
            BudgetError: The year's cap could not pay for it.
        """
        others = [
            charge
            for charge in self._charges
            if charge.request.year == year and charge.request.run != run
        ]
        total = composed_epsilon([*_by_run(others), list(planned)], self._delta)
        self._require_within_cap(total, year, f"run {run} as planned")
        return total

    def charge(self, request: ChargeRequest) -> Charge:
        """Commits a charge; returns only after it is durable.

        Raises:
            BudgetError: The cap would be exceeded, or the round is charged already.
            StorageError: The ledger cannot be written; nothing is charged.
        """
        if self.find(request.run, request.server_round) is not None:
            raise BudgetError(
                f"Round {request.server_round} of run {request.run} is charged already; "
                "a round is paid for once."
            )
        if self._charges and request.time < self._charges[-1].request.time:
            # A clock set back a year would find that year's budget unspent.
            raise StorageError(
                f"The clock says {request.time}, before the ledger's newest charge "
                f"({self._charges[-1].request.time}).",
                remedy="Correct the clock; nothing is charged till then.",
            )
        of_year = [charge for charge in self._charges if charge.request.year == request.year]
        runs = _by_run([*of_year, Charge(request, seq=0, head="")])
        self._require_within_cap(
            composed_epsilon(runs, self._delta),
            request.year,
            f"round {request.server_round} of run {request.run}",
        )
        reach(Point.LEDGER_ADMITTED)
        charge = self._insert(request)
        self._charges.append(charge)
        return charge

    def _composed(self, charges: Iterable[Charge]) -> float:
        return composed_epsilon(_by_run(charges), self._delta)

    def _require_within_cap(self, total: float, year: int, what: str) -> None:
        # Written so that a NaN is refused too.
        if not total <= self._cap:
            spent = self._composed(c for c in self._charges if c.request.year == year)
            raise BudgetError(
                f"The privacy budget of {year} cannot pay for {what}: it would bring ε to "
                f"{total:.4f} (δ = {self._delta:g}, per customer), the cap is {self._cap:g}, "
                f"{spent:.4f} is spent ({self._path.parent.name}).",
                remedy="Ask for a smaller ε or fewer rounds, or wait for the next budget year.",
            )

    def adopt(self, request: ChargeRequest, head: str) -> Charge:
        """Takes back a charge that the log has and this restored ledger lacks.

        Raises:
            StorageError: It is not this ledger's next row.
        """
        charge = self._insert(request, expected_head=head)
        self._charges.append(charge)
        return charge

    def _insert(self, request: ChargeRequest, *, expected_head: str | None = None) -> Charge:
        seq = len(self._charges) + 1
        record = request.to_record(seq, self.head)
        charge = Charge(request, seq, hashlib.sha256(canonical_json.encode(record)).hexdigest())
        if expected_head not in (None, charge.head):
            raise StorageError(
                f"Charge {request.charge_id} of the log does not continue the ledger {self._path}.",
                remedy="The ledger is of another history: restore a newer backup of it.",
            )
        with _storage_errors(self._path), self._connection:
            self._connection.execute(
                "INSERT INTO charges VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    seq,
                    request.charge_id,
                    request.run,
                    request.server_round,
                    request.attempt,
                    request.mechanism,
                    request.noise_multiplier,
                    request.clipping_norm,
                    request.sampling_probability,
                    request.steps,
                    request.permit_id,
                    request.time,
                    charge.head,
                ),
            )
            reach(Point.LEDGER_WRITTEN)
        reach(Point.LEDGER_COMMITTED)
        return charge

    def _load(self) -> list[Charge]:
        return _read_chain(self._connection, self._path)


def _read_chain(connection: apsw.Connection, path: Path) -> list[Charge]:
    charges: list[Charge] = []
    head = GENESIS_HEAD
    with _storage_errors(path):
        rows = list(connection.execute("SELECT * FROM charges ORDER BY seq"))
    for expected, row in enumerate(rows, start=1):
        seq, charge_id, *rest, stored_head = row
        request = ChargeRequest(charge_id, *rest)
        record = request.to_record(seq, head)
        head = hashlib.sha256(canonical_json.encode(record)).hexdigest()
        if (seq, stored_head) != (expected, head):
            raise StorageError(
                f"The budget ledger {path} was altered: row {expected} does not "
                "continue the chain of heads.",
                remedy="Restore its newest backup; nothing is trained till then.",
            )
        charges.append(Charge(request, seq, head))
    return charges


def read_charges(path: Path) -> list[Charge]:
    """A ledger's charges, oldest first, its chain of heads checked; beside its writer, too.

    Raises:
        StorageError: It is missing, unreadable or altered.
    """
    with _storage_errors(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return _read_chain(connection, path)
    finally:
        connection.close()


def _by_run(charges: Iterable[Charge]) -> list[list[GaussianEvent]]:
    runs: dict[str, list[GaussianEvent]] = {}
    for charge in charges:
        runs.setdefault(charge.request.run, []).append(charge.request.event)
    return list(runs.values())


def make_ledger(path: Path) -> None:
    """Makes an empty ledger, readable by its owner alone; once, when a region is set up.

    Raises:
        StorageError: There is one already, or the disk refuses.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise StorageError(
            f"The budget ledger {path} cannot be made: {error.strerror}.",
            remedy="A ledger is never begun anew; to begin another region, name another folder.",
        ) from error
    with _storage_errors(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            with connection:
                connection.execute(_SCHEMA)
        finally:
            connection.close()


@contextmanager
def open_ledger(path: Path, *, cap: float, delta: float) -> Iterator[Ledger]:
    """Opens a ledger and checks its chain of heads. It must be there: see `make_ledger`.

    Args:
        path: The database file.
        cap: The hard total of ε per budget year.
        delta: δ at which every ε of this ledger is stated.

    Raises:
        StorageError: Missing, locked by another process, unreadable, altered, or not a ledger.
    """
    if not path.is_file():
        # An empty ledger in its place would forget what was spent.
        raise StorageError(
            f"The budget ledger {path} is missing.",
            remedy="Restore its newest backup; nothing is trained till then.",
        )
    # One writer; readers, such as a backup, may look on meanwhile.
    lock = _writer_lock(path)
    try:
        with _storage_errors(path):
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("SELECT count(*) FROM charges")
            except BaseException:
                connection.close()
                raise
        try:
            yield Ledger(connection, path, cap=cap, delta=delta)
        finally:
            connection.close()
    finally:
        lock.release()


def _writer_lock(path: Path) -> WriterLock:
    try:
        return WriterLock(path)
    except WriterBusyError as error:
        raise StorageError(
            f"The budget ledger {path} is in use by another process.",
            remedy="Stop the other engine of this region first.",
        ) from error


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.BusyError as error:
        raise StorageError(
            f"The budget ledger {path} is in use by another process.",
            remedy="Stop the other engine of this region first.",
        ) from error
    except apsw.Error as error:
        raise StorageError(
            f"The budget ledger {path} cannot be used: {error}.",
            remedy="Check the disk's space and the file's mode and owner.",
        ) from error
