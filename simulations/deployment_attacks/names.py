"""The attacks' names, for the command line: known before anything heavy is imported."""

from __future__ import annotations

import difflib

from common.errors import UsageError

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
ALL = "all"


def find_names(name: str) -> tuple[str, ...]:
    """The attack of that name, or all of them.

    Raises:
        UsageError: There is none; names the nearest and all there are.
    """
    if name == ALL:
        return NAMES
    if name in NAMES:
        return (name,)
    near = difflib.get_close_matches(name, [*NAMES, ALL], n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"There is no attack {name[:80]!r}.{guess}",
        remedy=f"Attacks: {', '.join([*NAMES, ALL])}.",
    )
