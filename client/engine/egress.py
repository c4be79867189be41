"""The egress guard: the last look at whatever is about to leave a region, by what was asked.

Default deny. An answer has exactly the form of its method's answers (`common.egress_form`); what
it states is signed by this region's keys; and arrays are let out only if they are what is sealed,
charged and logged, read back from disk (`client.engine.release_evidence`), finite, on the grid,
within the plan's norm bound, with noise in every row, in the shapes that permit and policy name.
The guard uses nothing of the code that made the answer: a defect there, an array too many, a number
without noise, a seal that was swapped, ends here and is an incident.

It stands inside the engine, before the socket, so that it looks at simulations' answers too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

import numpy as np

from client.engine.egress_sums import MaskedReleases
from client.engine.home import RegionHome
from client.engine.policy import RegionPolicy
from client.engine.policy_fields import any_allows
from client.engine.provenance import engine_digest
from client.engine.release_evidence import (
    Header,
    ReleaseEvidence,
    SealedRelease,
    refused,
    require_digest,
    require_same,
)
from common.audit.checkpoint import COSIGNATURE_V1, NoteKey, parse_note
from common.audit.log import AuditLog
from common.audit.merkle import verify_consistency
from common.egress_form import check_form
from common.errors import FedprefError, FormatError, VerificationError
from common.keys import Registry
from common.messages import PROTOCOL_VERSION
from common.parameters import array_specs, measure_floats
from common.planned_keys import check_release, keys_of
from common.release_bounds import release_norm_bound

Arrays = Mapping[str, np.ndarray]

# Enough for the rounds of many runs; a charge of longer ago is held to its seal alone.
_MAX_REMEMBERED = 4096
# A time and a signature: a line has room for nothing else.
_COSIGNATURE_BYTES = 8 + 64
_ANY_TEXT = "the text of a note\n"


class EgressGuard:
    """Judges answers before they leave. Calls are serialised by the engine.

    Args:
        home: The region's home.
        policy: The policy in force.
        registry: The verified key registry.
        log: The region's open log.
        evidence: What stands on disk for a release.
    """

    def __init__(
        self,
        home: RegionHome,
        policy: RegionPolicy,
        registry: Registry,
        log: AuditLog,
        evidence: ReleaseEvidence,
    ) -> None:
        self._home = home
        self._policy = policy
        self._registry = registry
        self._log = log
        self._evidence = evidence
        self._sums = MaskedReleases(home.region, policy, evidence)
        self._paid: dict[str, str] = {}
        self._judges: dict[str, Callable[[Header, Arrays], None]] = {
            "describe": self._describe,
            "publish": self._publish,
            "cosign": self._cosign,
            "train": self._train,
            "mask": self._sums.mask,
            "execute": self._sums.execute,
        }

    def check(self, method: str, header: Header, arrays: Arrays) -> None:
        """Judges one answer.

        Args:
            method: What was asked.
            header: The answer's header.
            arrays: Its arrays.

        Raises:
            EgressRefusedError: It must not leave; says why, for the region's own log.
            FedprefError: It cannot be judged, so it must not leave either.
        """
        check_form(method, header, arrays)
        if header.get("region") != self._home.region:
            raise refused("it is another region's")
        judge = self._judges.get(method)
        if judge is None or header.get("status") == "refused":
            return
        try:
            judge(header, arrays)
        except (FormatError, VerificationError, KeyError, TypeError, ValueError) as error:
            words = error.message if isinstance(error, FedprefError) else type(error).__name__
            raise refused(f"it does not hold together: {words}") from error

    def _describe(self, header: Header, _: Arrays) -> None:
        keys = {key.key_id for key in self._registry.keys_of(self._home.region, "trainer")}
        require_same(header, {"protocol": PROTOCOL_VERSION, "engine": engine_digest()})
        if header["trainer_key"] not in keys:
            raise refused("the trainer's key is not this region's")

    def _publish(self, header: Header, _: Arrays) -> None:
        size = self._evidence.require_checkpoint(str(header["checkpoint"]))
        proofs = header["proofs"]
        for old, nodes in proofs.items() if isinstance(proofs, dict) else ():
            if not isinstance(nodes, list):
                raise refused("a proof is no list")
            proof, at = [bytes.fromhex(str(node)) for node in nodes], int(old)
            if not proof and (at in (0, size)):
                continue
            if not 0 < at < size:
                raise refused("a proof is from a size that the checkpoint does not continue")
            verify_consistency(at, size, proof, self._log.root_at(at), self._log.root_at(size))

    def _cosign(self, header: Header, _: Arrays) -> None:
        keys = {
            NoteKey(self._home.region, key.public_key, COSIGNATURE_V1).id
            for key in self._registry.keys_of(self._home.region, "witness")
        }
        answers = header["cosignatures"]
        for answer in answers if isinstance(answers, list) else ():
            if isinstance(answer, dict) and "line" in answer:
                (line,) = parse_note(f"{_ANY_TEXT}\n{answer['line']}".encode()).signatures
                own = line.name == self._home.region and line.key_id in keys
                if not own or len(line.signature) != _COSIGNATURE_BYTES:
                    raise refused("a cosignature is not this witness's")

    def _train(self, header: Header, arrays: Arrays) -> None:
        run, server_round = str(header["run"]), int(str(header["round"]))
        release = self._evidence.release(run, server_round)
        seal = release.seal
        require_same(header, {"mechanism": release.mechanism.name, "update": release.update})
        if base64.b64decode(str(header["round_entry"])) != seal.round_entry:
            raise refused("its round entry is not the sealed one")
        self._evidence.require_logged(header, seal.round_entry)
        if header["leaf_index"] != release.index:
            raise refused("its round entry is not where the log has it first")
        self._require_one_payload(release)
        if release.plan.aggregation.name == "confidential":
            # The update itself stays: what of it leaves later was looked at before its key did.
            self._require_values(seal.arrays, release)
            self._sums.offered(header, arrays, release)
            return
        # What goes out in the open must be private by the region's own noise.
        if release.plan.mode != "local" or {"masking_key", "attempted"} & header.keys():
            raise refused("the plan lets nothing leave in the open, or nothing else")
        require_digest(arrays, release.update)
        self._require_values(arrays, release)

    def _require_one_payload(self, release: SealedRelease) -> None:
        """A charge pays for one payload, whatever the files say later."""
        if self._paid.setdefault(release.charge_id, release.update) != release.update:
            raise refused("its charge has paid for another payload")
        while len(self._paid) > _MAX_REMEMBERED:
            del self._paid[next(iter(self._paid))]

    def _require_values(self, arrays: Arrays, release: SealedRelease) -> None:
        plan, mechanism = release.plan, release.mechanism
        bound = release_norm_bound(plan, mechanism)
        allowed = self._policy.arrays
        for spec in array_specs(arrays):
            if allowed is not None and not any_allows(allowed, spec):
                raise refused("an array is none that the policy lets out")
        local = plan.mode == "local"
        check_release(arrays, plan, mechanism, max_norm=bound)
        unit = 1.0 if local else 2.0**mechanism.grid_exponent
        # Keys' texts have no norm; their form and their values were looked at.
        keys = keys_of(plan, mechanism) is not None
        values = [each for each in arrays.values() if not keys or each.dtype.kind == "f"]
        square = sum((measure_floats(each, None).norm * unit) ** 2 for each in values)
        # The bound is on all of them together. Written so that what is no number does not pass.
        if not square <= bound**2:
            raise refused("it is over the public norm bound")
