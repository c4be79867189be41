"""A region's signed statement of its public key for one round (``fedpref-masking-key/1``).

It says which update the key is for: the round entry that the region has logged, and all that a sum
must have in common: run, plan, round, mechanism, model, quantiser. The region's pinned ``trainer``
key signs it, so that nobody can put another key in its place, and it is of no use elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.canonical_json import JsonValue
from common.envelope import Envelope, sign_record, verify_envelope
from common.errors import FedprefError, FormatError
from common.keys import Registry, Signer
from common.secure_aggregation.quantiser import RING_BITS, Quantiser
from common.secure_aggregation.refusal import SecureSumRefusedError
from common.validate import exact_fields, party, sha256_hex, whole_number

if TYPE_CHECKING:  # A plan checks its grids against the ring.
    from common.plan import RunPlan

KIND = "masking-key"
VERSION = f"fedpref-{KIND}/1"
#: The fields that every statement of one sum has in common.
SHARED_FIELDS = ("v", "run", "plan", "round", "mechanism", "model_in", "quantiser")
#: Those that are each region's own.
OWN_FIELDS = ("region", "round_entry", "public_key")
MAX_STATEMENT_BYTES = 4096

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_MECHANISM = re.compile(r"[a-z][a-z-]{0,63}")


@dataclass(frozen=True)
class RoundContext:
    """What all regions of a sum must agree on.

    Attributes:
        run: The run.
        plan: Digest of its plan.
        server_round: The round.
        mechanism: The mechanism's name.
        model_in: Digest of the model that the round started from.
        quantiser: How values become ring elements.
    """

    run: str
    plan: str
    server_round: int
    mechanism: str
    model_in: str
    quantiser: Quantiser

    @classmethod
    def of(cls, plan: RunPlan, server_round: int, model_in: str) -> RoundContext:
        """What a plan says about a round's sum.

        Args:
            plan: The run plan.
            server_round: The round.
            model_in: Digest of the model that it started from.
        """
        mechanism = plan.mechanism_of(server_round)
        return cls(
            run=plan.run_id,
            plan=plan.digest,
            server_round=server_round,
            mechanism=mechanism.name,
            model_in=model_in,
            quantiser=Quantiser(mechanism.grid_exponent, len(plan.regions)),
        )

    def to_record(self) -> dict[str, JsonValue]:
        """As statements begin."""
        return {
            "v": VERSION,
            "run": self.run,
            "plan": self.plan,
            "round": self.server_round,
            "mechanism": self.mechanism,
            "model_in": self.model_in,
            "quantiser": self.quantiser.to_record(),
        }

    def require_same(self, other: RoundContext) -> None:
        """Requires that another statement is about the very same sum.

        Raises:
            SecureSumRefusedError: Names what differs: ``other-run`` for a key of another run,
                ``other-round`` for one of another round, ``other-model`` where regions were sent
                different models, and so on.
        """
        differing = {
            "other-run": (self.run, other.run),
            "other-plan": (self.plan, other.plan),
            "other-round": (self.server_round, other.server_round),
            "other-mechanism": (self.mechanism, other.mechanism),
            "other-model": (self.model_in, other.model_in),
            "other-quantiser": (self.quantiser, other.quantiser),
        }
        for reason, (ours, theirs) in differing.items():
            if ours != theirs:
                what = reason.removeprefix("other-")
                raise SecureSumRefusedError(reason, f"A statement is of another {what}.")


@dataclass(frozen=True)
class MaskingStatement:
    """A statement as read; who signed it, `verify_statement` says.

    Attributes:
        context: What it is for.
        region: Whose key it is.
        round_entry: Leaf hash of the region's round entry, in hex.
        public_key: The key, 32 bytes.
    """

    context: RoundContext
    region: str
    round_entry: str
    public_key: bytes

    def to_record(self) -> dict[str, JsonValue]:
        """The record that is signed."""
        return {
            **self.context.to_record(),
            "region": self.region,
            "round_entry": self.round_entry,
            "public_key": self.public_key.hex(),
        }


def make_statement(statement: MaskingStatement, signer: Signer) -> bytes:
    """Signs a statement with the region's ``trainer`` key."""
    return sign_record(statement.to_record(), signer, max_bytes=MAX_STATEMENT_BYTES)


def open_statement(envelope: Envelope) -> MaskingStatement:
    """Reads a statement strictly, whoever signed it.

    Raises:
        FormatError: It is no statement of this version.
    """
    record = exact_fields(envelope.record(), {*SHARED_FIELDS, *OWN_FIELDS}, "A masking statement")
    if record["v"] != VERSION:
        raise FormatError(f"The record is not a {VERSION}.")
    return MaskingStatement(
        context=_context(record),
        region=party(record["region"], "region"),
        round_entry=sha256_hex(record["round_entry"], "round_entry"),
        # A public key has as many bytes as a SHA-256.
        public_key=bytes.fromhex(sha256_hex(record["public_key"], "public_key")),
    )


def verify_statement(
    envelope: Envelope, statement: MaskingStatement, registry: Registry, *, at_ms: int
) -> None:
    """Checks that a statement is its region's own word.

    Args:
        envelope: The statement's envelope.
        statement: What `open_statement` gave of it.
        registry: The verified key registry.
        at_ms: Now, in milliseconds since the epoch.

    Raises:
        SecureSumRefusedError: ``wrong-signer``: no ``trainer`` key that the registry pins for the
            region and that is valid now has signed exactly this.
    """
    keys = {key.key_id: key.public_key for key in registry.keys_of(statement.region, "trainer")}
    try:
        for key_id in verify_envelope(envelope, keys):
            registry.find(key_id, party=statement.region, role="trainer", at_ms=at_ms)
    except FedprefError as error:
        raise SecureSumRefusedError(
            "wrong-signer", f"{statement.region} has not signed the key that is given as its own."
        ) from error


def _context(record: dict[str, JsonValue]) -> RoundContext:
    run, mechanism = record["run"], record["mechanism"]
    if not isinstance(run, str) or _RUN.fullmatch(run) is None:
        raise FormatError("The statement's run is no run's id.")
    if not isinstance(mechanism, str) or _MECHANISM.fullmatch(mechanism) is None:
        raise FormatError("The statement's mechanism is no mechanism's name.")
    quantiser = exact_fields(
        record["quantiser"], {"grid_exponent", "most_summed", "ring_bits"}, "quantiser"
    )
    exponent = quantiser["grid_exponent"]
    if type(exponent) is not int or not -1074 <= exponent <= 1023:
        raise FormatError("The quantiser's grid_exponent is not a float's exponent.")
    if quantiser["ring_bits"] != RING_BITS:
        raise FormatError(f"The quantiser's ring is not of {RING_BITS} bits.")
    return RoundContext(
        run=run,
        plan=sha256_hex(record["plan"], "plan"),
        server_round=whole_number(record["round"], "round", least=1),
        mechanism=mechanism,
        model_in=sha256_hex(record["model_in"], "model_in"),
        quantiser=Quantiser(
            exponent, whole_number(quantiser["most_summed"], "most_summed", least=1)
        ),
    )
