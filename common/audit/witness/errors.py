"""Why a witness does not cosign, each with the HTTP status that C2SP ``tlog-witness`` names."""

from __future__ import annotations

from common.errors import FederationError, VerificationError


class WitnessRefusalError(VerificationError):
    """A witness did not cosign a checkpoint.

    Attributes:
        status: The HTTP status of the answer.
    """

    status = 400


class OldSizeError(WitnessRefusalError):
    """The old size of a request is larger than its checkpoint."""


class UnsignedError(WitnessRefusalError):
    """No key that the log may use now signed the checkpoint."""

    status = 403


class UnknownLogError(WitnessRefusalError):
    """The checkpoint is of a log that this witness does not watch."""

    status = 404


class StaleSizeError(WitnessRefusalError):
    """The old size of a request is not that of the newest checkpoint the witness cosigned.

    Args:
        message: What went wrong and where.
        known_size: The size of the newest checkpoint that the witness cosigned; 0 if none.
        split_view: Whether the checkpoint contradicts one that the witness cosigned; both are kept.
    """

    status = 409

    def __init__(self, message: str, *, known_size: int, split_view: bool = False) -> None:
        super().__init__(message, remedy=f"Prove the way from size {known_size}, and ask again.")
        self.known_size = known_size
        self.split_view = split_view


class ProofError(WitnessRefusalError):
    """The proof of a request does not hold, in a way that says nothing about its log."""

    status = 422


class ConflictError(ProofError):
    """A checkpoint signed by its log is not shown to continue what the witness cosigned.

    Where the witness itself found it, both signed notes are kept as evidence.
    """


class UnreachableWitnessError(FederationError):
    """A witness gave no answer in time, or none of the protocol."""
