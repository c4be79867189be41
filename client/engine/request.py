"""A round's requests, read strictly: they come from a coordinator that nobody trusts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from common.audit.cosigners import MAX_LINE_CHARACTERS, MAX_LINES
from common.canonical_json import JsonValue
from common.egress_fields import ORIGIN
from common.errors import FormatError
from common.secure_aggregation import Roster, decode_roster

# A run's id names files: it must not be able to leave its folder.
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
MAX_ROUND = 1000
MAX_ATTEMPT = 1000
#: The steps of an execution of double masking, in their order.
EXECUTION_STEPS = ("pin", "share", "mask", "agree", "unmask")

MAX_SIZE = 1 << 53
MAX_SINCE = 256
MAX_CHECKPOINTS = 256
MAX_PROOF_NODES = 64
MAX_NOTE_CHARACTERS = 16 * 1024

_FIELDS = {
    "run": str,
    "round": int,
    "attempt": int,
    "mechanism": str,
    "plan": str,
    "cosignatures": list,
}
_MECHANISM = re.compile(r"[a-z][a-z-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TrainRequest:
    """A request to train, as the coordinator states it.

    Attributes:
        run: The run.
        server_round: The round.
        attempt: The attempt.
        mechanism: The round's mechanism.
        plan: Digest of the run plan.
        cosignatures: Other parties' signature lines of the checkpoint that the region published
            for this round.
    """

    run: str
    server_round: int
    attempt: int
    mechanism: str
    plan: str
    cosignatures: tuple[str, ...]

    @classmethod
    def parse(cls, header: Mapping[str, JsonValue]) -> TrainRequest:
        """Reads a request's header. What it accepts may stand in a log entry.

        Raises:
            FormatError: A field is missing, unknown, of the wrong type, or out of range.
        """
        if set(header) != set(_FIELDS):
            raise FormatError(f"A train request has exactly {', '.join(_FIELDS)}.")
        for name, kind in _FIELDS.items():
            if type(header[name]) is not kind:
                raise FormatError(f"The train request's {name} is not of type {kind.__name__}.")
        request = cls(
            run=str(header["run"]),
            server_round=int(str(header["round"])),
            attempt=int(str(header["attempt"])),
            mechanism=str(header["mechanism"]),
            plan=str(header["plan"]),
            cosignatures=_lines(header["cosignatures"]),
        )
        in_range = {
            "run": RUN_ID.fullmatch(request.run) is not None,
            "round": 1 <= request.server_round <= MAX_ROUND,
            "attempt": 1 <= request.attempt <= MAX_ATTEMPT,
            "mechanism": _MECHANISM.fullmatch(request.mechanism) is not None,
            "plan": _DIGEST.fullmatch(request.plan) is not None,
        }
        for name, holds in in_range.items():
            if not holds:
                raise FormatError(f"The train request's {name} is out of range.")
        return request


@dataclass(frozen=True)
class PublishRequest:
    """A request to publish the log's checkpoint.

    Attributes:
        run: The run.
        server_round: The round that begins with it; None once the last one is over.
        since: The sizes that witnesses hold: a consistency proof is wanted from each.
    """

    run: str
    server_round: int | None
    since: tuple[int, ...]

    @classmethod
    def parse(cls, header: Mapping[str, JsonValue]) -> PublishRequest:
        """Reads a request's header.

        Raises:
            FormatError: A field is missing, unknown, of the wrong type, or out of range.
        """
        _require_fields(header, {"run", "round", "since"}, "publish")
        since = header["since"]
        if not isinstance(since, list) or len(since) > MAX_SINCE:
            raise FormatError(f"The publish request's since is no list of at most {MAX_SINCE}.")
        number = header["round"]
        return cls(
            run=_run(header["run"]),
            server_round=None if number is None else _whole(number, "round", 1, MAX_ROUND),
            since=tuple(sorted({_whole(size, "since", 0, MAX_SIZE) for size in since})),
        )


@dataclass(frozen=True)
class ForeignCheckpoint:
    """Another party's checkpoint, to be witnessed.

    Attributes:
        origin: Its log's origin, as the coordinator says.
        note: The signed note.
        old_size: The size that this region holds of that log, as the coordinator believes.
        proof: The consistency proof from there.
    """

    origin: str
    note: bytes
    old_size: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True)
class CosignRequest:
    """A request to witness others' checkpoints."""

    run: str
    checkpoints: tuple[ForeignCheckpoint, ...]

    @classmethod
    def parse(cls, header: Mapping[str, JsonValue]) -> CosignRequest:
        """Reads a request's header.

        Raises:
            FormatError: A field is missing, unknown, of the wrong type, or out of range.
        """
        _require_fields(header, {"run", "checkpoints"}, "cosign")
        items = header["checkpoints"]
        if not isinstance(items, list) or len(items) > MAX_CHECKPOINTS:
            raise FormatError(f"A cosign request has a list of at most {MAX_CHECKPOINTS}.")
        return cls(_run(header["run"]), tuple(_checkpoint(item) for item in items))


@dataclass(frozen=True)
class KeepRequest:
    """A request to keep others' cosignatures of the region's own checkpoint."""

    run: str
    size: int
    cosignatures: tuple[str, ...]

    @classmethod
    def parse(cls, header: Mapping[str, JsonValue]) -> KeepRequest:
        """Reads a request's header.

        Raises:
            FormatError: A field is missing, unknown, of the wrong type, or out of range.
        """
        _require_fields(header, {"run", "size", "cosignatures"}, "keep")
        return cls(
            run=_run(header["run"]),
            size=_whole(header["size"], "size", 0, MAX_SIZE),
            cosignatures=_lines(header["cosignatures"]),
        )


@dataclass(frozen=True)
class MaskRequest:
    """A request to mask a sealed update for the sum of a roster's regions."""

    run: str
    server_round: int
    attempt: int
    roster: Roster

    @classmethod
    def parse(cls, header: Mapping[str, JsonValue]) -> MaskRequest:
        """Reads a request's header. Of the roster only the form is checked yet.

        Raises:
            FormatError: A field is missing, unknown, of the wrong type, or out of range.
        """
        _require_fields(header, {"run", "round", "attempt", "roster"}, "mask")
        return cls(
            run=_run(header["run"]),
            server_round=_whole(header["round"], "round", 1, MAX_ROUND),
            attempt=_whole(header["attempt"], "attempt", 1, MAX_ATTEMPT),
            roster=decode_roster(header["roster"]),
        )


@dataclass(frozen=True)
class ExecuteRequest:
    """A request to take a step of an execution of double masking.

    Attributes:
        run: The run.
        server_round: The round.
        attempt: The execution's number within the round.
        step: Which step, one of `EXECUTION_STEPS`.
        content: What the coordinator gives for it; its form is the step's.
    """

    run: str
    server_round: int
    attempt: int
    step: str
    content: JsonValue

    @classmethod
    def parse(cls, header: Mapping[str, JsonValue]) -> ExecuteRequest:
        """Reads a request's header.

        Raises:
            FormatError: A field is missing, unknown, of the wrong type, or out of range.
        """
        _require_fields(header, {"run", "round", "attempt", "step", "content"}, "execute")
        step = header["step"]
        if not isinstance(step, str) or step not in EXECUTION_STEPS:
            raise FormatError(f"An execution's step is one of {', '.join(EXECUTION_STEPS)}.")
        return cls(
            run=_run(header["run"]),
            server_round=_whole(header["round"], "round", 1, MAX_ROUND),
            attempt=_whole(header["attempt"], "attempt", 1, MAX_ATTEMPT),
            step=step,
            content=header["content"],
        )


def _checkpoint(item: JsonValue) -> ForeignCheckpoint:
    if not isinstance(item, dict):
        raise FormatError("A checkpoint to cosign is no object.")
    _require_fields(item, {"origin", "note", "old", "proof"}, "cosign")
    origin, note, proof = item["origin"], item["note"], item["proof"]
    # The origin is said back with the answer.
    if not isinstance(origin, str) or ORIGIN.fullmatch(origin) is None:
        raise FormatError("A checkpoint to cosign is of no log's origin.")
    if not isinstance(note, str) or len(note) > MAX_NOTE_CHARACTERS:
        raise FormatError("A checkpoint to cosign has no note of a checkpoint's size.")
    if not isinstance(proof, list) or len(proof) > MAX_PROOF_NODES:
        raise FormatError(f"A consistency proof is a list of at most {MAX_PROOF_NODES} hashes.")
    return ForeignCheckpoint(
        origin=origin,
        note=note.encode(),
        old_size=_whole(item["old"], "old", 0, MAX_SIZE),
        proof=tuple(_hash(node) for node in proof),
    )


def _require_fields(header: Mapping[str, JsonValue], fields: set[str], method: str) -> None:
    if set(header) != fields:
        raise FormatError(f"A {method} request has exactly {', '.join(sorted(fields))}.")


def _run(value: JsonValue) -> str:
    if not isinstance(value, str) or RUN_ID.fullmatch(value) is None:
        raise FormatError("The request's run is no run's id.")
    return value


def _whole(value: JsonValue, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise FormatError(f"The request's {name} is not a whole number from {least} to {most}.")
    return value


def _hash(value: JsonValue) -> bytes:
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise FormatError("A consistency proof has something that is no hash.")
    return bytes.fromhex(value)


def _lines(value: JsonValue) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_LINES:
        raise FormatError(f"Cosignatures are a list of at most {MAX_LINES} lines.")
    lines = []
    for line in value:
        if not isinstance(line, str) or len(line) > MAX_LINE_CHARACTERS:
            raise FormatError("A cosignature is a signature line.")
        lines.append(line)
    return tuple(lines)
