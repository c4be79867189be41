"""The attacks' names, for the command line: known before anything heavy is imported."""

from __future__ import annotations

import difflib

from common.errors import UsageError

#: In the table's order.
NAMES = (
    "basket-recovery",
    "shilling",
    "key-substitution",
    "unmask-twice",
    "norm-scaling",
    "replay",
)
ALL = "all"


def find_names(name: str, names: tuple[str, ...] = NAMES) -> tuple[str, ...]:
    """The attack of that name, or all of them.

    Args:
        name: The name, or ``all``.
        names: The attacks there are.

    Raises:
        UsageError: There is none; names the nearest and all there are.
    """
    if name == ALL:
        return names
    if name in names:
        return (name,)
    near = difflib.get_close_matches(name, [*names, ALL], n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"There is no attack {name[:80]!r}.{guess}",
        remedy=f"Attacks: {', '.join([*names, ALL])}.",
    )
