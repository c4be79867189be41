"""Steps 2 and 3 for a log of which a bundle holds some entries, each with a proof.

So it is in a bundle that crosses a border: no consent is there, thus no tree to rebuild. What is
there is proved to be in the log at its index, and each checkpoint to extend the one before.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import pairwise

from common.audit.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from common.audit.proof_file import LogProof
from common.audit.verify.checkpoints import NEWEST, SignedCheckpoint
from common.audit.verify.files import BundleFolder
from common.audit.verify.logs import LogReplayer
from common.audit.verify.tiles import log_folder
from common.audit.verify.verdict import LOGS, RECORDS
from common.envelope import Envelope
from common.errors import FedprefError, FormatError, InputError, VerificationError

ENTRIES, PROOFS, CONSISTENCY = "entries", "proofs", "consistency"

_INDEX = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_MAX_CONSISTENCY_BYTES = 1 << 16
_MAX_PROOF_BYTES = 1 << 18


class PartialReplayer(LogReplayer):
    """One pass over the entries that a bundle holds of a log."""

    def replay(self, folder: BundleFolder) -> None:
        """Reads what is there; faults are recorded, and entries that do not hold left out."""
        self._log.whole = False
        place = log_folder(self._log.party)
        roots = self._proved_roots(folder, place)
        newest = folder.read(f"{place}/{NEWEST}")
        pending = sorted(roots)
        for index in _indexes(folder, f"{place}/{ENTRIES}"):
            while pending and pending[0] <= index:
                self._compare_roots(pending[0], roots[pending.pop(0)])
            self._read_proved(folder, place, index, newest)
        for size in pending:
            self._compare_roots(size, roots[size])
        self._note_left_out()

    def _proved_roots(self, folder: BundleFolder, place: str) -> dict[int, bytes]:
        """The log's root at every size that a checkpoint names, from the newest downwards."""
        final = self._log.size
        roots = {final: self._checkpoints[final][0].checkpoint.root}
        for larger, smaller in pairwise(sorted(self._checkpoints, reverse=True)):
            if smaller == 0:
                roots[0] = EMPTY_ROOT  # Every log extends it: there is nothing to prove.
                break
            name = f"{place}/{CONSISTENCY}/{smaller}-{larger}"
            self._log.files.add(name)
            try:
                proof = parse_hashes(folder.read(name, max_bytes=_MAX_CONSISTENCY_BYTES))
                roots[smaller] = _consistent_root(
                    self._checkpoints[smaller], larger, roots[larger], proof
                )
            except FedprefError as error:
                self._fail(
                    LOGS,
                    "consistency",
                    f"Nothing shows that the log of size {larger} extends that of size {smaller}: "
                    f"{error.message}",
                    index=None,
                    file=name,
                )
                break
        return roots

    def _read_proved(self, folder: BundleFolder, place: str, index: int, newest: bytes) -> None:
        file, proof_file = f"{place}/{ENTRIES}/{index}", f"{place}/{PROOFS}/{index}"
        self._log.files |= {file, proof_file}
        try:
            data = folder.read(file)
            leaf = leaf_hash(data)
            proof = LogProof.parse(folder.read(proof_file, max_bytes=_MAX_PROOF_BYTES))
            if (proof.index, proof.checkpoint, proof.extra) != (index, newest, None):
                raise VerificationError("Its proof is of another entry or checkpoint.")
            root = self._checkpoints[self._log.size][0].checkpoint.root
            verify_inclusion(leaf, index, self._log.size, proof.hashes, root)
        except FedprefError as error:
            self._fail(LOGS, "inclusion", error.message, index=index, file=proof_file)
            return
        self._findings.count(LOGS, "entries")
        if _is_consent(data):
            self._fail(
                RECORDS,
                "consent-in-bundle",
                "A consent is personal data; this bundle must not hold one.",
                index=index,
                file=file,
            )
            return
        self._read_entry(index, data, leaf, file)

    def _note_left_out(self) -> None:
        held = len(self._log.entries)
        self._findings.note(
            f"Of the log of {self._log.party}, {held} of {self._log.size} entries are in this "
            "bundle, each proved to be in it. That the others are consents, only that log's whole "
            "copy shows."
        )


def parse_hashes(data: bytes) -> list[bytes]:
    """Reads a consistency proof file: a hash a line, in base64.

    Raises:
        FormatError: It is not of the exact form.
    """
    try:
        text = data.decode("ascii")
        hashes = [base64.b64decode(line, validate=True) for line in text.split("\n")[:-1]]
    except (UnicodeDecodeError, binascii.Error) as error:
        raise FormatError("It is no list of hashes in base64.") from error
    if "".join(f"{base64.b64encode(each).decode()}\n" for each in hashes) != text:
        raise FormatError("It is no list of hashes in base64, one a line.")
    return hashes


def _consistent_root(
    notes: list[SignedCheckpoint], larger: int, root: bytes, proof: list[bytes]
) -> bytes:
    """The root of the first note that the proof is of; the others must then agree with it."""
    fault: VerificationError | None = None
    for signed in notes:
        checkpoint = signed.checkpoint
        try:
            verify_consistency(checkpoint.size, larger, proof, checkpoint.root, root)
        except VerificationError as error:
            fault = fault or error
        else:
            return checkpoint.root
    raise fault or InputError("There is no checkpoint of it.")


def _indexes(folder: BundleFolder, place: str) -> Iterator[int]:
    names = folder.list_folder(place)
    return iter(sorted(int(name) for name in names if _INDEX.fullmatch(name)))


def _is_consent(data: bytes) -> bool:
    try:
        return Envelope.decode(data).kind == "consent"
    except FedprefError:
        return False
