"""Why something of a secure sum is refused: one code for each reason."""

from __future__ import annotations

from common.errors import FedprefError


class SecureSumRefusedError(FedprefError):
    """A statement, a roster or a request that no masked value is given for.

    Args:
        reason: A kebab-case code; it is all that leaves a region.
        message: What is wrong, in a sentence of our own.
    """

    exit_code = 8

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(
            message, remedy="Nothing was released; see the reason's code in docs/operator.md."
        )
        self.reason = reason
