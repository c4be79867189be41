"""Notices (``fedpref-notice/1``): what customers are told, and the strict reading of it.

A consent names the notice it was given to by the digest of the notice's logged envelope. A notice
may supersede another; consents to the older one then lapse, after the time that the region's
policy grants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.canonical_json import JsonValue
from common.consent_record import LANGUAGE, NOTICE_ID, TERM
from common.errors import FormatError
from common.validate import array, exact_fields, line, matching, sha256_hex, timestamp

_VERSION = "fedpref-notice/1"
_TEXTS = ("recipients", "retention", "storage", "contact", "text")
_FIELDS = frozenset(
    {"v", "notice_id", "lang", "controller", "purposes", "supersedes", "in_force_from", *_TEXTS}
)
_PROSE = re.compile("[^\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]+")
MAX_TEXT_CHARACTERS = 40_000


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice whose every field was checked; made by `parse_notice`.

    Attributes:
        notice_id: Its name; all its versions and languages may have one each.
        lang: BCP 47 tag of its language.
        controller: The controller's identifier.
        purposes: What consent may be given to.
        recipients: Who receives what.
        retention: How long what is kept.
        storage: Where.
        contact: Whom to ask.
        text: The text itself.
        supersedes: SHA-256 of the superseded notice's envelope, or None.
        in_force_from: From when it may be consented to.
        in_force_from_ms: The same, in milliseconds since the epoch.
    """

    notice_id: str
    lang: str
    controller: str
    purposes: tuple[str, ...]
    recipients: str
    retention: str
    storage: str
    contact: str
    text: str
    supersedes: str | None
    in_force_from: str
    in_force_from_ms: int

    def to_record(self) -> dict[str, JsonValue]:
        """The record to be signed: what `parse_notice` read."""
        return {
            "v": _VERSION,
            "notice_id": self.notice_id,
            "lang": self.lang,
            "controller": self.controller,
            "purposes": list(self.purposes),
            "recipients": self.recipients,
            "retention": self.retention,
            "storage": self.storage,
            "contact": self.contact,
            "text": self.text,
            "supersedes": self.supersedes,
            "in_force_from": self.in_force_from,
        }


@dataclass(frozen=True, slots=True)
class LoggedNotice:
    """A notice as a log has it.

    Attributes:
        index: Its index in the log.
        sha256: The digest of its envelope: what a consent record names.
        notice: What it says.
    """

    index: int
    sha256: str
    notice: Notice


def parse_notice(record: JsonValue) -> Notice:
    """Reads a notice, every field of it.

    Raises:
        FormatError: A field is missing, unknown or malformed.
    """
    fields = exact_fields(record, _FIELDS, "The notice")
    if fields["v"] != _VERSION:
        raise FormatError(f"The record is not a notice ({_VERSION}).")
    purposes = tuple(
        matching(item, TERM, "A purpose", "a prefixed term such as fedpref:FederatedTraining")
        for item in array(fields["purposes"], "purposes")
    )
    if not purposes or len(set(purposes)) != len(purposes):
        raise FormatError("purposes names no purpose, or one twice.")
    supersedes = fields["supersedes"]
    in_force_from, in_force_from_ms = timestamp(fields["in_force_from"], "in_force_from")
    texts = {name: _prose(fields[name], name) for name in _TEXTS}
    return Notice(
        notice_id=matching(fields["notice_id"], NOTICE_ID, "notice_id", "a notice's id"),
        lang=matching(fields["lang"], LANGUAGE, "lang", "a BCP 47 language tag"),
        controller=line(fields["controller"], "controller"),
        purposes=purposes,
        supersedes=None if supersedes is None else sha256_hex(supersedes, "supersedes"),
        in_force_from=in_force_from,
        in_force_from_ms=in_force_from_ms,
        **texts,
    )


def _prose(value: JsonValue, where: str) -> str:
    if (
        type(value) is not str
        or len(value) > MAX_TEXT_CHARACTERS
        or _PROSE.fullmatch(value) is None
    ):
        raise FormatError(
            f"{where} is not a text of 1 to {MAX_TEXT_CHARACTERS} characters without control"
            " characters."
        )
    return value
