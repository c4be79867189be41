"""The engine's own log of what it does, as events with fields (`common.structured_log`)."""

from __future__ import annotations

import logging

from client.engine.entries import format_epsilon
from common.structured_log import say

_logger = logging.getLogger("fedpref.engine")


class EngineJournal:
    """Says each thing that an engine's observers are told.

    Args:
        region: The region's party name.
    """

    def __init__(self, region: str) -> None:
        self._region = region

    def refused(self, reason: str) -> None:
        """A request was refused, or a peer at the socket."""
        say(_logger, logging.WARNING, "refused", region=self._region, reason=reason)

    def round_done(
        self, run: str, server_round: int, seconds: float, num_bytes: int, bucket: str
    ) -> None:
        """A round's update was trained, sealed and logged."""
        say(
            _logger,
            logging.INFO,
            "round-done",
            region=self._region,
            run=run,
            round=server_round,
            seconds=round(seconds, 3),
            bytes=num_bytes,
            customers=bucket,
        )

    def charged(self, epsilon_spent: float, epsilon_cap: float) -> None:
        """What the year's budget stands at."""
        say(
            _logger,
            logging.INFO,
            "budget",
            region=self._region,
            epsilon=format_epsilon(epsilon_spent),
            epsilon_cap=f"{epsilon_cap:.6f}",
        )

    def log_size(self, size: int) -> None:
        """A checkpoint of the region's log was published."""
        say(_logger, logging.INFO, "log-published", region=self._region, log_size=size)

    def witness_lag(self, seconds: float) -> None:
        """A round's checkpoint was found cosigned by enough others."""
        say(
            _logger,
            logging.INFO,
            "log-witnessed",
            region=self._region,
            witness_lag_s=round(max(seconds, 0.0), 3),
        )
