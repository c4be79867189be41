"""What stands on disk for a release: its seal, its charge, its entries in the log, read back anew.

For the egress guard (`client.engine.egress`): nothing here is handed over by the code that made the
release. A seal is read from its file, a charge from the ledger's, entries from the log's, and they
must say one thing: this run, this round, under this permit's plan, paid for once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from client.engine.home import RegionHome
from client.engine.ledger_store import read_charge
from client.engine.log_state import LoggedMask, LogState
from client.engine.permit import Permit
from client.engine.permit_shelf import PermitShelf
from client.engine.seal import Seal, SealStore
from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.log import AuditLog
from common.audit.merkle import leaf_hash, verify_inclusion
from common.canonical_json import JsonValue
from common.egress_form import EgressRefusedError
from common.envelope import Envelope, verify_envelope
from common.errors import FedprefError
from common.keys import Registry
from common.parameters import arrays_digest
from common.plan import Mechanism, RunPlan

Header = Mapping[str, JsonValue]


@dataclass(frozen=True)
class SealedRelease:
    """A round's release as everything on disk has it.

    Attributes:
        permit: The permit it was made under, valid now.
        server_round: The round.
        mechanism: The round's mechanism, by the permit's plan.
        seal: The seal, read from its file.
        update: Digest of the sealed arrays.
        index: Where its round entry stands in the log; its release entry is the next one.
        charge_id: The charge that paid for it.
    """

    permit: Permit
    server_round: int
    mechanism: Mechanism
    seal: Seal
    update: str
    index: int
    charge_id: str

    @property
    def plan(self) -> RunPlan:
        """The permit's plan."""
        return self.permit.plan


class ReleaseEvidence:
    """Reads what a region has of a release. Calls are serialised by the engine.

    Args:
        home: The region's home.
        registry: The verified key registry.
        permits: The region's permits.
        log: Its open log.
        state: What the log says.
    """

    def __init__(
        self,
        home: RegionHome,
        registry: Registry,
        permits: PermitShelf,
        log: AuditLog,
        state: LogState,
    ) -> None:
        self._home = home
        self._registry = registry
        self._permits = permits
        self._log = log
        self._state = state

    def release(self, run: str, server_round: int) -> SealedRelease:
        """A round's release, if it is sealed, logged and charged.

        Raises:
            EgressRefusedError: Something is missing, or does not agree; says what.
            PolicyError: No permit covers it now.
            StorageError: A file cannot be read, or is damaged.
        """
        permit = self._permits.open(run)
        mechanism = permit.plan.mechanism_of(server_round)
        seal = SealStore(self._home.seals).read(run, server_round)
        if seal is None:
            raise refused("nothing is sealed for the round")
        update = arrays_digest(seal.arrays)
        entry = self.record(seal.round_entry, "round")
        release = self.record(seal.release_entry, "release")
        require_same(
            entry,
            {
                "run": run,
                "round": server_round,
                "region": self._home.region,
                "mechanism": mechanism.name,
                "plan": permit.plan.digest,
                "permit_id": permit.permit_id,
                "model_in": seal.model_in,
                "update": update,
            },
        )
        charge_id = str(entry["charge_id"])
        require_same(
            release,
            {
                "run": run,
                "round": server_round,
                "region": self._home.region,
                "attempt": entry["attempt"],
                "charge_id": charge_id,
                "update": update,
                "bytes": sum(array.nbytes for array in seal.arrays.values()),
                "grid_exponent": mechanism.grid_exponent,
            },
        )
        index = self._index_of(seal)
        self._require_charged(charge_id, permit, mechanism, run, server_round)
        return SealedRelease(permit, server_round, mechanism, seal, update, index, charge_id)

    def entry(self, index: int) -> bytes:
        """An entry of the log.

        Raises:
            EgressRefusedError: The log has none there.
        """
        if not 0 <= index < self._log.size:
            raise refused("the log has no such entry")
        ((_, entry),) = self._log.entries(index, index + 1)
        return entry

    def newest(self, kind: str, *, within: int) -> Iterable[Mapping[str, JsonValue]]:
        """The records of a kind among the log's newest entries, the newest first."""
        size = self._log.size
        found = [data for _, data in self._log.entries(max(0, size - within), size)]
        for data in reversed(found):
            envelope = Envelope.decode(data)
            if envelope.kind == kind:
                yield envelope.record()

    def masks(self, release: SealedRelease) -> list[LoggedMask]:
        """The mask entries that the log has of a release, in order."""
        self._state.refresh()
        key = (release.plan.run_id, release.server_round)
        return [each for each in self._state.masks.get(key, []) if each.index > release.index]

    def record(self, data: bytes, kind: str) -> dict[str, JsonValue]:
        """The record of an envelope of a kind that the region's trainer key has signed.

        Raises:
            EgressRefusedError: It is none.
        """
        try:
            envelope = Envelope.decode(data)
            keys = self._registry.keys_of(self._home.region, "trainer")
            verify_envelope(envelope, {key.key_id: key.public_key for key in keys})
            record = envelope.record()
        except FedprefError as error:
            raise refused(f"a {kind} record is not this region's: {error.message}") from error
        if envelope.kind != kind:
            raise refused(f"what should be a {kind} record is a {envelope.kind} record")
        if record.get("region") != self._home.region:
            raise refused(f"a {kind} record is another region's")
        return record

    def require_checkpoint(self, note: str) -> int:
        """Requires that a note is a checkpoint of the region's own log; gives its size.

        Raises:
            EgressRefusedError: It is none.
        """
        for key in self._registry.keys_of(self._home.region, "log"):
            try:
                head = open_checkpoint(
                    note.encode(), NoteKey(self._home.origin, key.public_key)
                ).checkpoint
            except FedprefError:
                continue
            if head.size <= self._log.size and head.root == self._log.root_at(head.size):
                return head.size
        raise refused("the checkpoint is not this log's")

    def require_logged(self, header: Header, entry: bytes) -> None:
        """Requires that an answer's place, checkpoint and proof are an entry's in the log.

        Raises:
            EgressRefusedError: They are not.
        """
        index, proof = header["leaf_index"], header["inclusion_proof"]
        if type(index) is not int or not isinstance(proof, list) or self.entry(index) != entry:
            raise refused("the entry is not where the answer says")
        size = self.require_checkpoint(str(header["checkpoint"]))
        nodes = [bytes.fromhex(str(node)) for node in proof]
        try:
            verify_inclusion(leaf_hash(entry), index, size, nodes, self._log.root_at(size))
        except FedprefError as error:
            raise refused("the proof does not show that the entry is logged") from error

    def _index_of(self, seal: Seal) -> int:
        wanted = leaf_hash(seal.round_entry)
        for index in range(seal.log_size, self._log.size - 1):
            if self._log.leaf_hash(index) == wanted:
                if self._log.leaf_hash(index + 1) != leaf_hash(seal.release_entry):
                    break
                return index
        raise refused("the round and its release are not logged one after the other")

    def _require_charged(
        self,
        charge_id: str,
        permit: Permit,
        mechanism: Mechanism,
        run: str,
        server_round: int,
    ) -> None:
        charge = read_charge(self._home.ledger, charge_id)
        if charge is None:
            raise refused("the ledger has no charge for it")
        paid, plan = charge.request, permit.plan
        holds = (
            (paid.run, paid.server_round) == (run, server_round)
            and (paid.model, paid.purpose) == (plan.model, plan.purpose)
            and paid.permit_id == permit.permit_id
            and paid.mechanism == mechanism.name
            and paid.noise_multiplier == mechanism.noise_multiplier
            and paid.clipping_norm == mechanism.clipping_norm
            and paid.sampling_probability == mechanism.sampling_probability
            and paid.steps == mechanism.steps
            and paid.key_delta == mechanism.key_delta
        )
        if not holds:
            raise refused("its charge is for something else")
        self._state.refresh()
        logged = self._state.charges.get(charge_id)
        if logged is None or (logged.ledger_seq, logged.ledger_head) != (charge.seq, charge.head):
            raise refused("its charge is not logged as the ledger has it")


def require_same(stated: Mapping[str, JsonValue], expected: Mapping[str, JsonValue]) -> None:
    """Requires that a record or an answer states what it must.

    Raises:
        EgressRefusedError: Names the first field that differs.
    """
    for name, value in expected.items():
        # True == 1 in Python; a round is a number.
        if type(stated.get(name)) is not type(value) or stated[name] != value:
            raise refused(f"its {name} is not what is sealed, charged and logged")


def require_digest(arrays: Mapping[str, np.ndarray], stated: JsonValue) -> None:
    """Requires that arrays have the digest that is stated of them.

    Raises:
        EgressRefusedError: They have not.
    """
    if arrays_digest(arrays) != stated:
        raise refused("its arrays are not those that the digest is of")


def refused(why: str) -> EgressRefusedError:
    """The refusal of an answer that was about to leave."""
    return EgressRefusedError(
        f"An answer was kept back: {why}.",
        remedy="Nothing left. This is a defect, or an attack: look into the region's log.",
    )
