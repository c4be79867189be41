"""A bundle that was verified, opened for questions about single entries and customers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.audit.checkpoint import Checkpoint, parse_note
from common.audit.federation_keys import FederationKeys, read_federation_keys
from common.audit.logged_entry import LoggedEntry, verify_logged_entry
from common.audit.merkle import (
    SubtreeReader,
    leaf_hash,
    node_hash,
    prove_inclusion,
    range_root,
)
from common.audit.proof_file import LogProof
from common.audit.verify import Evidence, Verdict, verify_with_evidence
from common.audit.verify.files import BundleFolder
from common.audit.verify.replay import LogReplay
from common.audit.verify.tiles import log_folder, read_tiles
from common.errors import FedprefError, InputError, VerificationError


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle whose verdict is that it is whole and unaltered; made by `open_verified`.

    Attributes:
        path: What the user named.
        folder: The bundle's files.
        verdict: The verifier's verdict.
        evidence: What the verifier admitted.
        keys: The federation's keys.
    """

    path: Path
    folder: BundleFolder
    verdict: Verdict
    evidence: Evidence
    keys: FederationKeys
    _levels: dict[str, list[list[bytes]]] = field(default_factory=dict, repr=False)

    def replay(self, region: str) -> LogReplay:
        """A region's log, which must be whole in the bundle.

        Raises:
            InputError: The bundle has no such log, or not its consents.
        """
        replay = self.evidence.replays.get(region)
        if replay is None or (replay.size and not self._whole(region)):
            raise InputError(
                f"The bundle {self.path} does not hold the consents of {region}.",
                remedy=f"Ask {region} for its regional bundle.",
            )
        return replay

    def _whole(self, party: str) -> bool:
        return bool(self.folder.list_folder(f"{log_folder(party)}/tile/entries"))

    def entries(self, party: str) -> Iterator[tuple[int, bytes]]:
        """Every entry of a party's log, with its index."""
        for _, first, entries in read_tiles(self.folder, party, self.replay(party).size):
            yield from enumerate(entries, start=first)

    def entry(self, party: str, index: int) -> bytes:
        """One entry's bytes.

        Raises:
            InputError: The log has no such entry.
        """
        size = self.replay(party).size
        if not 0 <= index < size:
            raise InputError(f"The log of {party} has no entry {index}: it has {size}.")
        _, first, entries = next(read_tiles(self.folder, party, size, start=index))
        return entries[index - first]

    def root_at(self, party: str, size: int) -> bytes:
        """The root of a party's log at a size that it has reached."""
        return range_root(self._subtrees(party), 0, size)

    def _subtrees(self, party: str) -> SubtreeReader:
        """The hashes of all complete subtrees of a party's log; computed once."""
        levels = self._levels.get(party)
        if levels is None:
            levels = self._levels[party] = [[leaf_hash(data) for _, data in self.entries(party)]]
            while len(levels[-1]) > 1:
                below = levels[-1]
                pairs = zip(below[::2], below[1::2], strict=False)
                levels.append([node_hash(left, right) for left, right in pairs])
        held = levels
        return lambda level, index: held[level][index]

    def prove(self, party: str, index: int, *, kind: str) -> tuple[LogProof, LoggedEntry]:
        """A proof of one entry under the first checkpoint that enough other parties cosigned.

        Where there is none, under the newest checkpoint.

        Args:
            party: Whose log.
            index: The entry's index.
            kind: The kind of record it is, one that states its own time.

        Returns:
            The proof, and what it shows; verified as anyone else would.

        Raises:
            VerificationError: No checkpoint proves it.
        """
        data, read = self.entry(party, index), self._subtrees(party)
        last: tuple[LogProof, LoggedEntry] | None = None
        fault: FedprefError | None = None
        for size, note in self._notes(party):
            if size <= index:
                continue
            proof = LogProof(index, tuple(prove_inclusion(read, index, size)), note)
            try:
                logged = verify_logged_entry(data, proof, self.keys, party=party, kind=kind)
            except FedprefError as error:
                fault = error
                continue
            last = (proof, logged)
            if logged.witnessed:
                break
        if last is None:
            raise fault or VerificationError(f"No checkpoint covers entry {index} of {party}.")
        return last

    def _notes(self, party: str) -> Iterator[tuple[int, bytes]]:
        """A log's checkpoint notes, by size; the newest note comes last."""
        folder = log_folder(party)
        names = self.folder.list_folder(f"{folder}/checkpoints")
        for name in sorted((name for name in names if name.isdecimal()), key=int):
            yield int(name), self.folder.read(f"{folder}/checkpoints/{name}")
        newest = self.folder.read(f"{folder}/checkpoint")
        yield Checkpoint.parse(parse_note(newest).text).size, newest


def open_verified(path: Path, *, root_key_ids: Collection[str] = ()) -> VerifiedBundle:
    """Verifies a bundle and opens it.

    Args:
        path: The run folder, or the bundle folder itself.
        root_key_ids: Ids of the root keys the reader trusts; without them the bundle's own.

    Raises:
        InputError: There is no bundle at ``path``.
        VerificationError: It does not verify; the message says what fails first, and where.
    """
    verdict, evidence = verify_with_evidence(path, root_key_ids=root_key_ids)
    first = verdict.first_failure
    if first is not None or evidence is None or not verdict.verified:
        where = f" At {first.place}: {first.message}" if first else ""
        raise VerificationError(
            f"The bundle {path} does not verify, so nothing is concluded from it.{where}",
            remedy=f"`fedpref-audit verify {path}` lists all that fails.",
        )
    folder = BundleFolder(path)
    # The verifier has judged these very files, root keys that were named included.
    return VerifiedBundle(path, folder, verdict, evidence, read_federation_keys(folder.root))
