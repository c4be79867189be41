"""How a log reaches a witness, wherever it is: in this process, or over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from common.audit.checkpoint import Checkpoint, parse_note
from common.audit.witness.errors import ConflictError, StaleSizeError, UnreachableWitnessError
from common.audit.witness.witness import Submission, Witness
from common.errors import FedprefError

#: Gives the consistency proof of one's own log from a smaller size to a larger one.
Prover = Callable[[int, int], Sequence[bytes]]

#: How often a witness may say that it knows another size: someone else submits to it, too.
_MAX_TURNS = 4


class WitnessChannel(Protocol):
    """A witness, as whoever has a checkpoint to submit sees it."""

    def add_checkpoint(self, note: bytes, old_size: int, proof: Sequence[bytes]) -> list[str]:
        """Asks for a cosignature; as `Witness.cosign`.

        Returns:
            Signature lines, each with its newline. They are not verified: keep those that verify
            under the witness's registered key (`CosignatureStore.keep`).

        Raises:
            WitnessRefusalError: The witness does not cosign; see its subclasses.
            UnreachableWitnessError: It gave no answer of the protocol in time.
        """


class LocalWitness:
    """A witness in this process.

    Args:
        witness: It.
    """

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    def add_checkpoint(self, note: bytes, old_size: int, proof: Sequence[bytes]) -> list[str]:
        """Asks for a cosignature; as `Witness.cosign`."""
        return [self._witness.cosign(note, old_size, proof)]

    def add_checkpoints(
        self, submissions: Sequence[Submission]
    ) -> Iterator[list[str] | FedprefError]:
        """Asks for several cosignatures at once; as `Witness.cosign_all`."""
        for answer in self._witness.cosign_all(submissions):
            yield answer if isinstance(answer, FedprefError) else [answer]


def submit_all(
    channel: WitnessChannel, submissions: Sequence[Submission]
) -> Iterator[list[str] | FedprefError]:
    """Asks a witness for cosignatures of several checkpoints: at once where it is in this process.

    Args:
        channel: The witness.
        submissions: The checkpoints, of any logs.

    Yields:
        For each, in order, what `WitnessChannel.add_checkpoint` returns, or the error it raises.

    Raises:
        UnreachableWitnessError: It gave no answer; it is not asked again for those that follow.
    """
    if isinstance(channel, LocalWitness):
        yield from channel.add_checkpoints(submissions)
        return
    for each in submissions:
        try:
            lines = channel.add_checkpoint(each.note, each.old_size, each.proof)
        except UnreachableWitnessError:
            raise
        except FedprefError as error:
            yield error
        else:
            yield lines


def submit_checkpoint(
    channel: WitnessChannel, note: bytes, prove: Prover, *, old_size: int = 0
) -> list[str]:
    """Has an own checkpoint cosigned, whatever size the witness knows of the log.

    Args:
        channel: The witness.
        note: The own signed checkpoint.
        prove: Makes consistency proofs of the own log.
        old_size: The size that the witness is believed to know; if it is another one, the witness
            says so, and is asked again.

    Returns:
        As `WitnessChannel.add_checkpoint`.

    Raises:
        ConflictError: The witness holds a larger checkpoint of this log, or another branch of it:
            the log was rolled back or split, or its key was used elsewhere.
        WitnessRefusalError: The witness does not cosign for another reason.
        UnreachableWitnessError: It gave no answer of the protocol in time.
    """
    checkpoint = Checkpoint.parse(parse_note(note).text)
    refusal: StaleSizeError | None = None
    for _ in range(_MAX_TURNS):
        proof = prove(old_size, checkpoint.size) if 0 < old_size < checkpoint.size else []
        try:
            return channel.add_checkpoint(note, old_size, proof)
        except StaleSizeError as error:
            if error.known_size > checkpoint.size:
                raise ConflictError(
                    f"The witness has cosigned {error.known_size} entries of {checkpoint.origin};"
                    f" this checkpoint has {checkpoint.size}.",
                    remedy="If the log's newest checkpoint is smaller, the log was rolled back:"
                    " stop, and compare it with its newest backup.",
                ) from error
            old_size, refusal = error.known_size, error
    raise refusal or ConflictError(f"{checkpoint.origin} was not submitted.")
