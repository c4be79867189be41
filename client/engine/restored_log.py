"""Whether a region's log may come from a backup: it never goes back, and never forks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from client.engine.home import RegionHome
from common.audit.checkpoint import Checkpoint, NoteKey, open_checkpoint, parse_note
from common.audit.log import AuditLog
from common.errors import FedprefError, InputError, VerificationError
from common.keys import Registry

_NO_LOG = """\
Name the newest checkpoint of it that another party holds (--at-least); if there is none, say \
--without-checkpoint: if the lost log was longer, the others will refuse to cosign the restored \
one as soon as it grows."""


def judge_log(
    home: RegionHome,
    copy_path: Path,
    registry: Registry,
    *,
    at_least: Sequence[bytes],
    without_checkpoint: bool,
) -> tuple[bool, str]:
    """Whether the home's own log is kept; the backup's takes its place otherwise.

    Args:
        home: The home.
        copy_path: The backup's log.
        registry: The key registry.
        at_least: Signed checkpoints that others hold; those of other logs are passed over.
        without_checkpoint: Whether a lost log is restored although there is none.

    Returns:
        Whether it is kept, and why.

    Raises:
        VerificationError: The two logs, or one and a checkpoint, are two histories; or entries
            that others have seen would be lost.
        InputError: The log is lost, and nothing shows that the backup's is new enough.
    """
    own = _open_log(home.log)
    with ExitStack() as stack:
        copy = stack.enter_context(AuditLog.open_read_only(copy_path))
        if own is None:
            if not _check_at_least(home, copy, registry, at_least) and not without_checkpoint:
                raise InputError(
                    f"The home has no sound log, and the backup's ends after {copy.size} entries.",
                    remedy=_NO_LOG,
                )
            return False, f"{copy.size} entries"
        stack.enter_context(own)
        common = min(own.size, copy.size)
        if own.root_at(common) != copy.root_at(common):
            raise VerificationError(
                f"The home's log ({own.size} entries) and the backup's ({copy.size}) are two "
                "histories: neither continues the other.",
                remedy="Compare both with the checkpoints that other parties hold.",
            )
        if own.size >= copy.size:
            _check_at_least(home, own, registry, at_least)
            return True, f"{own.size} entries; the backup has {copy.size}"
        _check_at_least(home, copy, registry, at_least)
        return False, f"{copy.size} entries; it had {own.size}"


def _check_at_least(
    home: RegionHome, log: AuditLog, registry: Registry, at_least: Sequence[bytes]
) -> bool:
    """Checks the log against the named checkpoints of it; whether there was one."""
    keys = [NoteKey(home.origin, key.public_key) for key in registry.keys_of(home.region, "log")]
    seen = False
    for note in at_least:
        if Checkpoint.parse(parse_note(note).text).origin != home.origin:
            continue
        stated = _signed_by_any(note, keys)
        seen = True
        if stated.size > log.size:
            raise VerificationError(
                f"Others hold a checkpoint of this log of size {stated.size}; what there is ends "
                f"at {log.size}: entries would be lost.",
                remedy="Look for a newer copy of the log. If there is none, this log has ended: "
                "keep it as it is, and enrol the region under a new party name.",
            )
        if log.root_at(stated.size) != stated.root:
            raise VerificationError(
                f"Others hold a checkpoint of size {stated.size} of another history than this "
                "log's.",
                remedy="One of the two is a fork: keep both, and ask the witnesses.",
            )
    return seen


def _open_log(path: Path) -> AuditLog | None:
    """The log, or None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        return AuditLog.open_read_only(path)
    except FedprefError:
        return None


def _signed_by_any(note: bytes, keys: Sequence[NoteKey]) -> Checkpoint:
    for key in keys:
        with suppress(FedprefError):
            return open_checkpoint(note, key).checkpoint
    raise VerificationError("A checkpoint named with --at-least is not signed by its log's key.")
