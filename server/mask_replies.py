"""What regions answer in a secure sum, judged: the statements of their keys, and masked updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Message

from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import FormatError
from common.keys import Registry
from common.parameters import ArraySpec, arrays_digest
from common.secure_aggregation import (
    Roster,
    RoundContext,
    SecureSumRefusedError,
    open_statement,
    verify_statement,
)
from common.secure_aggregation.mask_entry import whole_entry
from common.secure_aggregation.quantiser import ring_specs
from common.timestamps import now_ms
from server.reply_checks import (
    ReplyRefusedError,
    check_context,
    check_logged,
    check_specs,
    decode_base64,
    open_entry,
    open_reply,
)

#: An attempt's number beyond which a region's word is not believed: rounds need a few.
MAX_CLAIMED_ATTEMPT = 500

_MASK_FIELDS = {
    "status",
    "run",
    "round",
    "attempt",
    "region",
    "roster",
    "masked",
    "mask_entry",
    "leaf_index",
    "checkpoint",
    "inclusion_proof",
}
#: The fields of a mask's entry.
MASK_ENTRY_FIELDS = {
    "v",
    "run",
    "round",
    "attempt",
    "region",
    "roster",
    "members",
    "masked",
    "bytes",
    "norm_bound",
    "time",
}


@dataclass(frozen=True)
class MaskOffer:
    """What a region that has trained gives in its update's place.

    Attributes:
        statement: The signed statement of its key for the round.
        attempt: The newest attempt that it has masked; 0 for none.
        regions: Whose sum that attempt was; a later one may only be of these.
    """

    statement: Envelope
    attempt: int
    regions: frozenset[str]


def read_offer(
    header: Mapping[str, JsonValue],
    context: RoundContext,
    region: str,
    round_entry: str,
    registry: Registry,
    *,
    now_ms: int,
) -> MaskOffer:
    """Reads what a reply to a training request has in the update's place.

    Args:
        header: The reply's header: ``masking_key`` and ``masked``.
        context: What the sum is about.
        region: The region that was asked.
        round_entry: Leaf hash of its round entry, in hex.
        registry: The verified key registry.
        now_ms: Now, in milliseconds since the epoch.

    Raises:
        ReplyRefusedError: Names the reason.
    """
    try:
        envelope = Envelope.decode(decode_base64(header["masking_key"]))
        if envelope.kind != "masking-key" or len(envelope.signatures) != 1:
            raise FormatError("It is no masking statement with one signature.")
        statement = open_statement(envelope)
    except FormatError as error:
        raise ReplyRefusedError("malformed-statement", error.message) from error
    if statement.region != region:
        raise ReplyRefusedError("other-region", "The masking key is another region's.")
    try:
        verify_statement(envelope, statement, registry, at_ms=now_ms)
        context.require_same(statement.context)
    except SecureSumRefusedError as error:
        raise ReplyRefusedError(error.reason, error.message) from error
    if statement.round_entry != round_entry:
        raise ReplyRefusedError("other-entry", "The masking key is for another round entry.")
    return MaskOffer(envelope, *_masked_before(header["masked"]))


def _masked_before(value: JsonValue) -> tuple[int, frozenset[str]]:
    if value is None:
        return 0, frozenset()
    malformed = ReplyRefusedError("malformed-reply", "What was masked before is malformed.")
    if not isinstance(value, dict) or set(value) != {"attempt", "regions"}:
        raise malformed
    attempt, regions = value["attempt"], value["regions"]
    if type(attempt) is not int or attempt < 1 or not isinstance(regions, list):
        raise malformed
    if attempt > MAX_CLAIMED_ATTEMPT:
        raise ReplyRefusedError("too-many-attempts", "It says it has masked more than is possible.")
    return attempt, frozenset(str(region) for region in regions)


@dataclass(frozen=True)
class MaskQuestion:
    """What every region of a roster is asked in one attempt.

    Attributes:
        context: What the sum is about.
        attempt: The attempt.
        roster: Whose sum it is.
        specs: What regions release.
        federation: The federation's name; it begins a log's origin.
        registry: The verified key registry.
    """

    context: RoundContext
    attempt: int
    roster: Roster
    specs: tuple[ArraySpec, ...]
    federation: str
    registry: Registry

    def read(self, reply: Message, node: int, region: str) -> dict[str, np.ndarray]:
        """Reads a masked update: int32 arrays of ring elements, by the released names.

        Args:
            reply: What came back.
            node: The node that was asked.
            region: Its region.

        Raises:
            ReplyRefusedError: Names the reason; the region's own if it refused.
        """
        specs = ring_specs(self.specs)
        header, received = open_reply(reply, node, specs, _MASK_FIELDS)
        expected: dict[str, JsonValue] = {
            "run": self.context.run,
            "round": self.context.server_round,
            "attempt": self.attempt,
            "region": region,
            "roster": self.roster.digest(self.context),
        }
        check_context(header, expected)
        arrays = check_specs(received, specs)
        masked = arrays_digest(arrays)
        if header["masked"] != masked:
            raise ReplyRefusedError("wrong-digest", "The update is not what its digest states.")
        entry = self._entry(header["mask_entry"], {**expected, "masked": masked}, arrays, region)
        check_logged(header, entry, region, f"{self.federation}/{region}", self.registry)
        return arrays

    def _entry(
        self,
        parts: JsonValue,
        expected: Mapping[str, JsonValue],
        arrays: Mapping[str, np.ndarray],
        region: str,
    ) -> bytes:
        """The entry that the region has signed for just this.

        Raises:
            ReplyRefusedError: ``malformed-entry``; or ``other-entry``: it has signed another.
        """
        known: dict[str, JsonValue] = {
            **expected,
            "v": "fedpref-mask/1",
            "members": [*self.roster.members()],
            "bytes": sum(array.nbytes for array in arrays.values()),
        }
        try:
            entry = whole_entry(known, parts)
        except FormatError as error:
            raise ReplyRefusedError("malformed-entry", error.message) from error
        try:
            open_entry(
                entry, region, self.registry, kind="mask", fields=MASK_ENTRY_FIELDS, now_ms=now_ms()
            )
        except ReplyRefusedError as error:
            raise ReplyRefusedError(
                "other-entry", f"{region} has signed another mask entry than for what it sent."
            ) from error
        return entry
