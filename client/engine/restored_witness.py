"""What a witness remembers must not go back: whether its memory may come from a backup."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from client.engine.home import RegionHome
from common.audit.checkpoint import (
    COSIGNATURE_V1,
    Checkpoint,
    NoteKey,
    open_checkpoint,
    parse_note,
)
from common.audit.witness.store import Seen, WitnessStore
from common.errors import FedprefError, InputError, VerificationError
from common.keys import Registry


def judge_witness(
    home: RegionHome,
    copy: Path,
    registry: Registry,
    *,
    at_least: Sequence[bytes],
    key_retires: bool,
) -> tuple[bool, str]:
    """Whether the home's own witness memory is kept; the backup's takes its place otherwise.

    Args:
        home: The home.
        copy: The backup's file; it need not be there.
        registry: The key registry.
        at_least: Checkpoints of others' logs that others hold. Those with this witness's own
            cosignature tell how far its memory must reach at least.
        key_retires: Whether its key is replaced before it cosigns again.

    Returns:
        Whether it is kept, and why.

    Raises:
        VerificationError: One would go back behind the other, or behind what this witness has
            cosigned.
        InputError: The memory is lost, and nothing shows that the backup's is new enough.
    """
    if not copy.is_file():
        return True, "the backup has none"
    theirs = _heads_of_copy(copy)
    ours = _heads(home.witness)
    if ours is not None:
        return _compare(ours, theirs)
    shown = _cosigned_by_us(home, registry, at_least)
    for origin, sizes in shown.items():
        reached = theirs[origin].size if origin in theirs else 0
        if max(sizes) > reached:
            raise VerificationError(
                f"This region has cosigned {origin} at size {max(sizes)}; the backup's memory of it"
                f" ends at {reached}: it could cosign another history now.",
                remedy="Look for a newer copy of witness.sqlite, or replace the witness key and say"
                " --witness-key-retires.",
            )
    unshown = sorted(theirs.keys() - shown.keys())
    if unshown and not key_retires:
        raise InputError(
            "The home has no sound witness.sqlite, and nothing shows that the backup's is as new as"
            f" what this region has cosigned of {', '.join(unshown)}.",
            remedy="Name the newest checkpoint of each that bears this region's cosignature "
            "(--at-least), or replace the witness key and say --witness-key-retires.",
        )
    return False, "replace the witness key before it cosigns again" if key_retires else "as shown"


def _compare(ours: dict[str, Seen], theirs: dict[str, Seen]) -> tuple[bool, str]:
    older = [name for name in theirs if name not in ours or ours[name].size < theirs[name].size]
    newer = [name for name in ours if name not in theirs or ours[name].size > theirs[name].size]
    forked = [
        name
        for name in ours.keys() & theirs.keys()
        if ours[name].size == theirs[name].size and ours[name].root != theirs[name].root
    ]
    if forked or (older and newer):
        names = ", ".join(sorted(forked or older))
        raise VerificationError(
            f"The home's and the backup's witness.sqlite contradict each other about {names}.",
            remedy="Keep both, and replace the witness key.",
        )
    return not older, f"{len(theirs if older else ours)} logs"


def _cosigned_by_us(
    home: RegionHome, registry: Registry, at_least: Sequence[bytes]
) -> dict[str, list[int]]:
    """By origin, the sizes of others' checkpoints that bear this region's cosignature."""
    witness_keys = [
        NoteKey(home.region, key.public_key, COSIGNATURE_V1)
        for key in registry.keys_of(home.region, "witness")
    ]
    found: dict[str, list[int]] = {}
    for note in at_least:
        origin = Checkpoint.parse(parse_note(note).text).origin
        party = origin.removeprefix(f"{home.federation}/")
        if origin == home.origin:
            continue
        for key in registry.keys_of(party, "log"):
            with suppress(FedprefError):
                opened = open_checkpoint(note, NoteKey(origin, key.public_key), witness_keys)
                if opened.cosigned_at_s:
                    found.setdefault(origin, []).append(opened.checkpoint.size)
                    break
        else:
            raise VerificationError(
                f"The checkpoint of {origin} named with --at-least is not signed by that log, or "
                "not cosigned by this region."
            )
    return found


def _heads(path: Path) -> dict[str, Seen] | None:
    """By origin, what a witness has seen; None if its file is missing or damaged."""
    try:
        with WitnessStore.open(path) as store:
            found = {origin: store.seen(origin) for origin in store.origins()}
    except FedprefError:
        return None
    return {origin: seen for origin, seen in found.items() if seen is not None}


def _heads_of_copy(copy: Path) -> dict[str, Seen]:
    """The same of a backup's file, which opening it would change."""
    with tempfile.TemporaryDirectory() as folder:
        heads = _heads(Path(shutil.copy(copy, folder)))
    if heads is None:
        raise VerificationError(
            f"The backup's {copy} is not a sound witness's file.", remedy="Use another backup."
        )
    return heads
