"""The attacks' names, for the command line: known before anything heavy is imported."""

from __future__ import annotations

from simulations.attack_demos import names

__all__ = ["ALL", "NAMES", "find_names"]

#: In the table's order.
NAMES = (
    "stolen-ca",
    "evil-bundle",
    "unpermitted-bundle",
    "lowered-noise",
    "extra-tensor",
    "replayed-message",
    "wrong-node-key",
    "revoked-region",
    "oversized-message",
    "local-user",
)
ALL = names.ALL


def find_names(name: str) -> tuple[str, ...]:
    """The attack of that name, or all of them.

    Raises:
        UsageError: There is none; names the nearest and all there are.
    """
    return names.find_names(name, NAMES)
