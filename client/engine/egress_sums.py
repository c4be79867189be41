"""The egress guard's look at secure sums: keys, masked values, shares and what opens them.

What leaves here is not the sealed update, so it is held to it by what must be true of both: the
masked values are those that the log has under a roster of enough regions, and beside the sealed
ones they look like chance. For updates with shares of noise only, that is what stands between the
coordinator and numbers that protect nobody.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from client.engine.policy import RegionPolicy
from client.engine.release_evidence import (
    Header,
    ReleaseEvidence,
    SealedRelease,
    refused,
    require_digest,
    require_same,
)
from common.audit.merkle import leaf_hash
from common.canonical_json import JsonValue
from common.double_masking.records import KEYS, SHARES, SURVIVORS
from common.parameters import check_arrays
from common.secure_aggregation import Quantiser, to_ring
from common.secure_aggregation.mask_entry import entry_parts
from common.secure_aggregation.quantiser import ring_specs
from common.secure_aggregation.statement import KIND as MASKING_KEY

Arrays = Mapping[str, np.ndarray]

# A sum of two tells either the other's update.
_LEAST_SUMMED = 3
# A mask leaves a value as it was once in 2^32: of so few values hardly ever one, of a million
# hardly ever three.
_FEW_VALUES = 64
_MOST_UNCHANGED = 2
# Values that are looked at bit by bit; each bit is on in half of them, within 8 deviations.
_SAMPLE = 4096
_DEVIATIONS = 8.0
# How far back in the log the entry of what is opened just now can stand.
_NEWEST_ENTRIES = 64
_MAX_REMEMBERED = 1024


class MaskedReleases:
    """Judges what leaves in a secure sum. Calls are serialised by the engine.

    Args:
        region: The region's party name.
        policy: The policy in force.
        evidence: What stands on disk for a release.
    """

    def __init__(self, region: str, policy: RegionPolicy, evidence: ReleaseEvidence) -> None:
        self._region = region
        self._policy = policy
        self._evidence = evidence
        self._opened: dict[tuple[str, int, int], None] = {}

    def offered(self, header: Header, arrays: Arrays, release: SealedRelease) -> None:
        """What an answer to a training request has in the update's place.

        Raises:
            EgressRefusedError: It is not that.
        """
        if arrays:
            raise refused("in a confidential run no update leaves as it is")
        if release.plan.mode == "distributed":
            if "attempted" not in header:
                raise refused("with distributed noise it has no number of executions")
            return
        if "masking_key" not in header:
            raise refused("it has no key for a secure sum")
        statement = self._evidence.record(_decoded(header["masking_key"]), MASKING_KEY)
        require_same(
            statement,
            {
                "run": release.plan.run_id,
                "plan": release.plan.digest,
                "round": header["round"],
                "mechanism": release.mechanism.name,
                "model_in": release.seal.model_in,
                "round_entry": leaf_hash(release.seal.round_entry).hex(),
            },
        )
        before = header["masked"]
        if isinstance(before, dict):
            self._require_planned(before["regions"], release)

    def mask(self, header: Header, arrays: Arrays) -> None:
        """A sealed update under pairwise masks.

        Raises:
            EgressRefusedError: It is not that.
        """
        release = self._release(header, mode="local")
        entry = self._mask_entry(header, arrays, release)
        if entry_parts(entry) != header["mask_entry"]:
            raise refused("its mask entry is not the logged one")

    def execute(self, header: Header, arrays: Arrays) -> None:
        """A step of an execution of double masking.

        Raises:
            EgressRefusedError: It is not what the step lets out.
        """
        release = self._release(header, mode="distributed")
        step = header["step"]
        if step == "mask":
            if self._mask_entry(header, arrays, release) != _decoded(header["mask_entry"]):
                raise refused("its mask entry is not the logged one")
        elif step == "unmask":
            self._unmask(header, release)
        elif step == "share":
            self._share(header, release)
        else:
            kind, field = (KEYS, "keys") if step == "pin" else (SURVIVORS, "agreement")
            record = self._about(header, release, _decoded(header[field]), kind)
            if step == "agree":
                self._require_planned(record["survivors"], release)

    def _release(self, header: Header, *, mode: str) -> SealedRelease:
        release = self._evidence.release(str(header["run"]), int(str(header["round"])))
        plan = release.plan
        if (plan.aggregation.name, plan.mode) != ("confidential", mode):
            raise refused("the plan asks for no such sum")
        return release

    def _mask_entry(self, header: Header, arrays: Arrays, release: SealedRelease) -> bytes:
        """The logged entry of the values that leave, if they are masked and it is theirs."""
        check_arrays(
            arrays,
            ring_specs(release.plan.released_arrays(release.mechanism.name)),
            grid=None,
        )
        require_digest(arrays, header["masked"])
        index = int(str(header["leaf_index"]))
        if index <= release.index:
            raise refused("its mask was logged before its round")
        entry = self._evidence.entry(index)
        self._evidence.require_logged(header, entry)
        record = self._evidence.record(entry, "mask")
        require_same(
            record,
            {
                **{name: header[name] for name in ("run", "round", "attempt", "roster", "masked")},
                "bytes": sum(array.nbytes for array in arrays.values()),
            },
        )
        self._require_members(record["members"], release)
        if release.plan.mode == "distributed" and len(self._evidence.masks(release)) != 1:
            raise refused("what is sealed left under masks before")
        _require_masked(arrays, _sealed_ring(release))
        return entry

    def _require_members(self, members: JsonValue, release: SealedRelease) -> None:
        named = [
            each.get("region") if isinstance(each, dict) else None
            for each in (members if isinstance(members, list) else ())
        ]
        self._require_planned([*named], release)
        plan = release.plan
        survivors = plan.aggregation.honest_survivors_min
        least = max(_LEAST_SUMMED, plan.quorum, self._policy.quorum_min, survivors)
        if len(set(named)) != len(named) or len(named) < least or self._region not in named:
            raise refused("it is masked for too few regions, or not for this one")

    def _require_planned(self, regions: JsonValue, release: SealedRelease) -> None:
        listed = regions if isinstance(regions, list) else [None]
        if not all(isinstance(each, str) and each in release.plan.regions for each in listed):
            raise refused("it names regions that the plan does not have")

    def _share(self, header: Header, release: SealedRelease) -> None:
        shares = header["shares"]
        if not isinstance(shares, dict):
            raise refused("its shares are no object")
        self._about(header, release, _decoded(shares["statement"]), SHARES)
        commitments, ciphertexts = shares["commitments"], shares["ciphertexts"]
        if not isinstance(commitments, dict) or not isinstance(ciphertexts, dict):
            raise refused("its shares are not by region")
        self._require_planned([*commitments], release)
        # A region's own share never leaves, encrypted or not.
        if ciphertexts.keys() != commitments.keys() - {self._region}:
            raise refused("it has shares for others than it commits to")

    def _unmask(self, header: Header, release: SealedRelease) -> None:
        reveal = header["reveal"]
        if not isinstance(reveal, dict):
            raise refused("what it gives up is no object")
        seeds, keys = reveal["seed_shares"], reveal["key_shares"]
        if not isinstance(seeds, dict) or not isinstance(keys, dict) or seeds.keys() & keys.keys():
            raise refused("it gives up both secrets of a region")
        self._require_planned([*seeds, *keys], release)
        about: dict[str, JsonValue] = {
            name: header[name] for name in ("run", "round", "attempt", "region")
        }
        newest = self._evidence.newest("unmask", within=_NEWEST_ENTRIES)
        logged = next((each for each in newest if about.items() <= each.items()), None)
        if logged is None or logged["survivors"] != sorted(seeds):
            raise refused("whose sum it opens is not logged")
        mask = self._evidence.masks(release)[-1:]
        if not mask or mask[0].attempt != header["attempt"]:
            raise refused("what it opens was not masked in this execution")
        if {*seeds, *keys} != {*mask[0].regions}:
            raise refused("it gives up shares of others than were summed")
        self._require_once(header)

    def _require_once(self, header: Header) -> None:
        execution = (str(header["run"]), int(str(header["round"])), int(str(header["attempt"])))
        if execution in self._opened:
            raise refused("its execution was opened before")
        self._opened[execution] = None
        while len(self._opened) > _MAX_REMEMBERED:
            del self._opened[next(iter(self._opened))]

    def _about(
        self, header: Header, release: SealedRelease, data: bytes, kind: str
    ) -> dict[str, JsonValue]:
        """A signed record of an execution, if it is of this one."""
        record = self._evidence.record(data, kind)
        require_same(
            record,
            {
                **{name: header[name] for name in ("run", "round", "attempt")},
                "plan": release.plan.digest,
                "mechanism": release.mechanism.name,
                "model_in": release.seal.model_in,
            },
        )
        return record


def _decoded(value: JsonValue) -> bytes:
    return base64.b64decode(str(value), validate=True)


def _sealed_ring(release: SealedRelease) -> npt.NDArray[np.uint32]:
    """The sealed update as ring elements, without any mask."""
    seal, plan = release.seal, release.plan
    if plan.mode == "local":
        quantiser = Quantiser(release.mechanism.grid_exponent, len(plan.regions))
        return to_ring(seal.arrays, quantiser)
    flat = [seal.arrays[name].astype("<i4").reshape(-1) for name in sorted(seal.arrays)]
    return np.concatenate(flat).view(np.uint32)


def _require_masked(arrays: Arrays, sealed: npt.NDArray[np.uint32]) -> None:
    """Requires that what was added to the sealed values looks drawn by chance."""
    flat = [arrays[name].reshape(-1).view(np.uint32) for name in sorted(arrays)]
    # Wraps around, as the ring does.
    added = np.concatenate(flat) - sealed
    most = 0 if added.size <= _FEW_VALUES else _MOST_UNCHANGED
    if int(np.count_nonzero(added == 0)) > most:
        raise refused("values leave without a mask")
    sample = added[:: max(1, added.size // _SAMPLE)]
    slack = _DEVIATIONS * np.sqrt(sample.size) / 2
    for bit in range(32):
        ones = int(((sample >> np.uint32(bit)) & 1).sum())
        if not abs(ones - sample.size / 2) <= slack:
            raise refused("its masks do not look drawn by chance")
