"""What regions answer when they publish a checkpoint or cosign others', read strictly.

Nothing in an answer is taken on trust. A checkpoint counts by its log's signature, a cosignature by
its witness's; sizes and proofs are only used to ask, and whoever is asked judges them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message

from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.cosigners import MAX_LINE_CHARACTERS
from common.canonical_json import JsonValue
from common.errors import FedprefError, FormatError
from common.messages import decode_message
from server.reply_checks import ReplyRefusedError, flower_reason, region_reason

_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_PROOF_NODES = 64
_MAX_SIZE = 1 << 53
_REFUSALS = frozenset({"stale", "conflict", "invalid"})


@dataclass(frozen=True)
class PublishedLog:
    """A log's checkpoint as its party published it.

    Attributes:
        party: Whose log it is.
        origin: The log's origin.
        note: The signed checkpoint.
        size: Its size.
        proofs: Consistency proofs to it, by the size that each begins at.
    """

    party: str
    origin: str
    note: bytes
    size: int
    proofs: Mapping[int, tuple[bytes, ...]]


@dataclass(frozen=True)
class CosignAnswer:
    """A witness's answer about one checkpoint.

    Attributes:
        origin: The log's origin.
        size: The checkpoint's size; for ``stale``, the size that the witness holds.
        line: The signature line with its newline; None for a refusal.
        refused: ``stale``, ``conflict`` or ``invalid``; None for a cosignature.
    """

    origin: str
    size: int
    line: str | None
    refused: str | None


def read_published(reply: Message, node: int, party: str, keys: Sequence[NoteKey]) -> PublishedLog:
    """Reads a region's answer to ``publish``.

    Args:
        reply: What came back.
        node: The node that was asked.
        party: The region.
        keys: Its log's keys that are in force.

    Raises:
        ReplyRefusedError: Names the reason.
    """
    header = _open(reply, node, {"checkpoint", "proofs"})
    note, proofs = header["checkpoint"], header["proofs"]
    if not isinstance(note, str) or not isinstance(proofs, dict):
        raise ReplyRefusedError("malformed-reply", "The published checkpoint is malformed.")
    for key in keys:
        try:
            head = open_checkpoint(note.encode(), key).checkpoint
        except FedprefError:
            continue
        read = {_read_size(size): _read_proof(proof) for size, proof in proofs.items()}
        return PublishedLog(party, key.name, note.encode(), head.size, read)
    raise ReplyRefusedError("wrong-signer", f"The log of {party} did not sign the checkpoint.")


def read_cosigned(reply: Message, node: int) -> list[CosignAnswer]:
    """Reads a region's answer to ``cosign``.

    Raises:
        ReplyRefusedError: Names the reason.
    """
    items = _open(reply, node, {"cosignatures"})["cosignatures"]
    if not isinstance(items, list):
        raise ReplyRefusedError("malformed-reply", "The cosignatures are no list.")
    return [_read_answer(item) for item in items]


def read_kept(reply: Message, node: int) -> int:
    """Reads a region's answer to ``keep``: how many cosignatures it keeps.

    Raises:
        ReplyRefusedError: Names the reason.
    """
    kept = _open(reply, node, {"kept"})["kept"]
    if type(kept) is not int:
        raise ReplyRefusedError("malformed-reply", "How many cosignatures are kept is no number.")
    return kept


def _open(reply: Message, node: int, fields: set[str]) -> dict[str, JsonValue]:
    if reply.has_error():
        raise ReplyRefusedError(
            flower_reason(reply.error.code), f"Flower reports error {int(reply.error.code)}."
        )
    if reply.metadata.src_node_id != node:
        raise ReplyRefusedError("other-node", "The reply is another node's than was asked.")
    try:
        header, _ = decode_message(reply.content, max_array_bytes=0)
    except FormatError as error:
        raise ReplyRefusedError("malformed-reply", error.message) from error
    if header.get("status") == "refused":
        raise ReplyRefusedError(region_reason(header), "The region refused the request.")
    if header.get("status") != "ok" or set(header) != {"status", "region", *fields}:
        raise ReplyRefusedError("malformed-reply", "The reply's fields are not a reply's.")
    return header


def _read_answer(item: JsonValue) -> CosignAnswer:
    if not isinstance(item, dict):
        raise ReplyRefusedError("malformed-reply", "A cosignature is no object.")
    origin, size = item.get("origin"), item.get("size")
    line, refused = item.get("line"), item.get("refused")
    if not isinstance(origin, str) or type(size) is not int or not 0 <= size < _MAX_SIZE:
        raise ReplyRefusedError("malformed-reply", "A cosignature names no log and size.")
    if set(item) == {"origin", "size", "line"} and isinstance(line, str):
        if len(line) > MAX_LINE_CHARACTERS:
            raise ReplyRefusedError("malformed-reply", "A cosignature is too long.")
        return CosignAnswer(origin, size, line, None)
    if set(item) == {"origin", "size", "refused"} and refused in _REFUSALS:
        return CosignAnswer(origin, size, None, str(refused))
    raise ReplyRefusedError("malformed-reply", "A cosignature is neither one nor a refusal.")


def _read_size(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and str(int(text)) == text):
        raise ReplyRefusedError("malformed-reply", "A consistency proof begins at no size.")
    return int(text)


def _read_proof(nodes: JsonValue) -> tuple[bytes, ...]:
    if not isinstance(nodes, list) or len(nodes) > _MAX_PROOF_NODES:
        raise ReplyRefusedError("malformed-reply", "A consistency proof is malformed.")
    for node in nodes:
        if not isinstance(node, str) or _HASH.fullmatch(node) is None:
            raise ReplyRefusedError("malformed-reply", "A consistency proof has no hash.")
    return tuple(bytes.fromhex(str(node)) for node in nodes)
