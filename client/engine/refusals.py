"""Refusals of the engine's own that a coordinator is told of by a reason code each."""

from __future__ import annotations

from common.errors import PolicyError


class NotWitnessedError(PolicyError):
    """No fresh checkpoint of the region's log, cosigned by enough others, stands for the round."""


class ClockError(PolicyError):
    """The engine's clock is behind what its own log or ledger has already."""


class DiscardedError(PolicyError):
    """A round's update stays in the region: someone in it withdrew before it could leave."""


class OutdatedError(PolicyError):
    """A round's update stays in the region: it was sealed too long ago to be logged as of then."""


class BundleNotPermittedError(PolicyError):
    """An app bundle is not run: no permit in force names it."""


class TooManyRunsError(PolicyError):
    """As many other runs as may be are between a checkpoint of the region's log and a round."""
