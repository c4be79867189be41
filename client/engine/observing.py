"""What an engine tells those who look after it, as it happens: the hooks of its metrics.

An observer is told nothing that the coordinator and the other parties are not told anyway: reason
codes, times and sizes of rounds, ε, the size of a checkpoint that was published, and the number of
customers as the power-of-two interval of the round entry. No pseudonym, no count of customers, and
no size of the log between two published checkpoints, which would tell each choice as it is made.
"""

from __future__ import annotations

from typing import Protocol


class EngineObserver(Protocol):
    """Is told what an engine does, under the engine's lock: must return at once and never raise."""

    def refused(self, reason: str) -> None:
        """A request was refused, or a peer at the socket.

        Args:
            reason: The reason code, as the coordinator is told it; of a peer, the door's own.
        """

    def round_done(
        self, run: str, server_round: int, seconds: float, num_bytes: int, bucket: str
    ) -> None:
        """A round's update was trained, sealed and logged; not told of one that is sent again.

        Args:
            run: The run's id.
            server_round: The round, from 1.
            seconds: From the request till the release was logged.
            num_bytes: The sealed arrays' size, in bytes.
            bucket: The customers learnt from, as the round entry's interval, such as ``256-511``.
        """

    def charged(self, epsilon_spent: float, epsilon_cap: float) -> None:
        """What the year's budget stands at: when the engine was opened, and after each charge.

        Args:
            epsilon_spent: ε spent in the running budget year, at the ledger's δ, of any customer
                who was in all of it.
            epsilon_cap: The region's hard total of that year.
        """

    def log_size(self, size: int) -> None:
        """A checkpoint of the region's log was published.

        Args:
            size: Its size in entries. Never the log's size at any other moment.
        """

    def witness_lag(self, seconds: float) -> None:
        """A round's checkpoint was found cosigned by enough others.

        Args:
            seconds: The age, just now, of the oldest of the cosignatures that make the quorum.
        """


class Unobserved:
    """Tells nobody: the observer of an engine that nobody looks at, as in a simulation."""

    def refused(self, reason: str) -> None:
        """Does nothing."""

    def round_done(
        self, run: str, server_round: int, seconds: float, num_bytes: int, bucket: str
    ) -> None:
        """Does nothing."""

    def charged(self, epsilon_spent: float, epsilon_cap: float) -> None:
        """Does nothing."""

    def log_size(self, size: int) -> None:
        """Does nothing."""

    def witness_lag(self, seconds: float) -> None:
        """Does nothing."""


class Observers:
    """Tells several observers, in order.

    Args:
        observers: Each of them.
    """

    def __init__(self, *observers: EngineObserver) -> None:
        self._observers = observers

    def refused(self, reason: str) -> None:
        """Tells of a refusal."""
        for each in self._observers:
            each.refused(reason)

    def round_done(
        self, run: str, server_round: int, seconds: float, num_bytes: int, bucket: str
    ) -> None:
        """Tells of a round."""
        for each in self._observers:
            each.round_done(run, server_round, seconds, num_bytes, bucket)

    def charged(self, epsilon_spent: float, epsilon_cap: float) -> None:
        """Tells of the budget."""
        for each in self._observers:
            each.charged(epsilon_spent, epsilon_cap)

    def log_size(self, size: int) -> None:
        """Tells of a published checkpoint."""
        for each in self._observers:
            each.log_size(size)

    def witness_lag(self, seconds: float) -> None:
        """Tells of a round's cosignatures."""
        for each in self._observers:
            each.witness_lag(seconds)
