"""Which notices are in force, and how a new one is published.

A notice is signed by the controller and logged; its log entry's digest is what consents name. One
that supersedes another asks for consent anew: consents to the older one lapse, after the policy's
grace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from client.engine.home import RegionHome
from client.engine.log_state import LogState
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.envelope import Envelope, verify_envelope
from common.errors import FormatError, InputError
from common.keys import Signer
from common.notice import LoggedNotice, Notice, parse_notice
from common.timestamps import format_time, now_ms
from common.toml_file import read_toml

AUTOMATIC = "auto"
_VERSION = "fedpref-notice/1"
# A notice's text has at most forty thousand characters.
_MAX_FILE_BYTES = 1 << 20
_PAYLOAD_TYPE = b'"payloadType":"application/vnd.fedpref.notice+json"'
# Two clocks may disagree a little about what is past.
_PAST_MS = 60_000


def in_force(notices: Iterable[LoggedNotice], at_ms: int) -> list[LoggedNotice]:
    """The notices that may be consented to at a time: in force, and superseded by none in force.

    Args:
        notices: The notices of a log, in its order.
        at_ms: The time, in milliseconds since the epoch.
    """
    begun = [each for each in notices if each.notice.in_force_from_ms <= at_ms]
    superseded = {each.notice.supersedes for each in begun}
    return [each for each in begun if each.sha256 not in superseded]


def offered(notices: Iterable[LoggedNotice], at_ms: int) -> dict[str, LoggedNotice]:
    """The notice that customers are asked about, by language: the newest one in force.

    Args:
        notices: The notices of a log, in its order.
        at_ms: The time, in milliseconds since the epoch.
    """
    return {each.notice.lang: each for each in in_force(notices, at_ms)}


def read_notice_file(path: Path) -> Notice:
    """Reads a notice's declaration (TOML): every field of a notice but what publishing adds.

    Raises:
        InputError: It is missing or malformed: names the file and the field.
    """
    remedy = (
        "Give notice_id, lang, controller, purposes, recipients, retention, storage, contact and "
        "text."
    )
    fields = read_toml(path, "The notice", max_bytes=_MAX_FILE_BYTES, remedy=remedy)
    try:
        return parse_notice(
            {"v": _VERSION, "supersedes": None, "in_force_from": format_time(0)} | fields
        )
    except FormatError as error:
        raise InputError(f"The notice {path}: {error.message}", remedy=remedy) from error


def publish(
    log: AuditLog,
    state: LogState,
    notice: Notice,
    signer: Signer,
    *,
    supersedes: str | None,
    in_force_from_ms: int,
    clock_ms: int | None = None,
) -> LoggedNotice:
    """Signs and logs a notice.

    Args:
        log: The region's open log.
        state: Its replayed state.
        notice: The notice; its ``supersedes`` and ``in_force_from`` are replaced.
        signer: The region's ``controller`` key.
        supersedes: The digest of the notice that it replaces, `AUTOMATIC` for the newest one of its
            language that nothing has superseded, or None.
        in_force_from_ms: From when it may be consented to, in milliseconds since the epoch.
        clock_ms: Now; the system clock's if None.

    Raises:
        InputError: The superseded notice is unknown or superseded already, or would lapse in the
            past.
    """
    now = now_ms() if clock_ms is None else clock_ms
    with state.lock:
        state.refresh()
        older = _superseded_by(state.notices, notice, supersedes)
        if older is not None and in_force_from_ms < now - _PAST_MS:
            raise InputError(
                "A notice that supersedes another cannot have been in force before it was logged.",
                remedy="Let it be in force from now or later: --in-force-from.",
            )
        record = replace(
            notice,
            supersedes=None if older is None else older.sha256,
            in_force_from=format_time(in_force_from_ms),
            in_force_from_ms=in_force_from_ms,
        ).to_record()
        parse_notice(record)
        log.append([make_entry(record, signer)])
        state.refresh()
        return state.notices[-1]


def _superseded_by(
    notices: Sequence[LoggedNotice], notice: Notice, supersedes: str | None
) -> LoggedNotice | None:
    gone = {each.notice.supersedes for each in notices}
    if supersedes == AUTOMATIC:
        open_ones = [
            each for each in notices if each.notice.lang == notice.lang and each.sha256 not in gone
        ]
        return open_ones[-1] if open_ones else None
    if supersedes is None:
        return None
    for each in notices:
        if each.sha256 == supersedes:
            if supersedes in gone:
                raise InputError(
                    f"The notice {supersedes[:12]}… was superseded already.",
                    remedy="Supersede the one that took its place: fedpref-region notice list.",
                )
            return each
    raise InputError(
        f"There is no notice {supersedes[:12]}… in the log to supersede.",
        remedy="fedpref-region notice list shows them.",
    )


def logged_notices(home: RegionHome) -> list[LoggedNotice]:
    """The notices of a region's log, which may be in use by its engine meanwhile.

    Raises:
        VerificationError: The controller has not signed one of them.
    """
    keys = {
        key.key_id: key.public_key
        for key in home.read_registry().keys_of(home.region, "controller")
    }
    notices = []
    with AuditLog.open_read_only(home.log) as log:
        for index, data in log.entries():
            # The type stands in plain text in the envelope: a million consents need no decoding.
            if _PAYLOAD_TYPE in data:
                envelope = Envelope.decode(data)
                verify_envelope(envelope, keys)
                sha256 = hashlib.sha256(data).hexdigest()
                notices.append(LoggedNotice(index, sha256, parse_notice(envelope.record())))
    return notices


def notice_row(notices: Sequence[LoggedNotice], each: LoggedNotice) -> dict[str, JsonValue]:
    """A notice as ``notice list --json`` shows it."""
    by = [other.sha256 for other in notices if other.notice.supersedes == each.sha256]
    return {
        "index": each.index,
        "sha256": each.sha256,
        "notice_id": each.notice.notice_id,
        "lang": each.notice.lang,
        "in_force_from": each.notice.in_force_from,
        "supersedes": each.notice.supersedes,
        "superseded_by": by[0] if by else None,
    }
