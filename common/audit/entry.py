"""Entries of an audit log: which kinds there are, who may sign each, and how one is made."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from common.canonical_json import JsonValue
from common.envelope import sign_record
from common.errors import FormatError
from common.keys import Signer

#: The C2SP entry bundle prefixes each entry with its length in two bytes.
MAX_ENTRY_BYTES = 65_535

#: The roles (see ``common/keys.py``) of the keys that may sign a record of each kind.
SIGNING_ROLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "access-approval": frozenset({"approver"}),
        "access-expiry": frozenset({"trainer"}),
        "access-request": frozenset({"requester"}),
        "access-revocation": frozenset({"approver"}),
        "access-use": frozenset({"requester"}),
        "aggregate": frozenset({"aggregator"}),
        "answer": frozenset({"trainer"}),
        "answers": frozenset({"aggregator"}),
        "charge": frozenset({"trainer"}),
        "consent": frozenset({"consent"}),
        "incident": frozenset({"aggregator", "trainer"}),
        "keys": frozenset({"root"}),
        "keys-digest": frozenset({"aggregator", "trainer"}),
        "ledger": frozenset({"trainer"}),
        "manifest": frozenset({"aggregator", "controller"}),
        "mask": frozenset({"trainer"}),
        "model": frozenset({"aggregator"}),
        "notice": frozenset({"controller"}),
        "permit": frozenset({"permit"}),
        "policy": frozenset({"controller"}),
        "query": frozenset({"permit"}),
        "release": frozenset({"trainer"}),
        "round": frozenset({"trainer"}),
        "unmask": frozenset({"trainer"}),
    }
)

# A manifest describes a bundle from outside; it is signed alike but stands in no log.
LOGGED_KINDS = frozenset(SIGNING_ROLES) - {"manifest"}


def entry_kind(record: Mapping[str, JsonValue]) -> str:
    """The kind of a record that may stand in a log, from its field ``v``.

    Raises:
        FormatError: If ``v`` does not name a kind of entry in its version 1.
    """
    version = record.get("v")
    for kind in LOGGED_KINDS:
        if version == f"fedpref-{kind}/1":
            return kind
    raise FormatError(f"No log entry has the version {version!r}.")


def make_entry(record: dict[str, JsonValue], signer: Signer) -> bytes:
    """Signs a record and gives the bytes of its log entry.

    Args:
        record: The record, with its kind and version in ``v``.
        signer: A key of a role that may sign this kind (the verifier checks the role).

    Returns:
        The canonical DSSE envelope, which is at most ``MAX_ENTRY_BYTES`` long.

    Raises:
        FormatError: If the kind is unknown, or the entry would be too long.
    """
    entry_kind(record)
    return sign_record(record, signer, max_bytes=MAX_ENTRY_BYTES)
