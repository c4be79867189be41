"""Everything a report says, as plain data: the page draws it, ``--json`` prints it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from common.audit.report.access import AccessGrant, access_grants
from common.audit.report.answers import Answer, answers
from common.audit.report.budget import Spent, budgets
from common.audit.report.consents import Notice, RegionConsents, notices, region_consents
from common.audit.report.files import BundleFiles, bundle_files
from common.audit.report.incidents import Incident, incidents
from common.audit.report.journal import Journal, read_journal
from common.audit.report.material import Material, read_material
from common.audit.report.policies import Permit, Policy, permits, policies
from common.audit.report.registry import Key, RegistryVersion, registry_keys, registry_versions
from common.audit.report.rounds import (
    RegionRound,
    Release,
    ReleaseKind,
    region_rounds,
    release_kinds,
    releases,
)
from common.audit.report.trust import Trust, section_trust
from common.audit.report.withdrawals import RegionWithdrawals, region_withdrawals
from common.audit.report.witnesses import Conflict, WitnessedLog, conflicts, witnessed_logs
from common.audit.verify import Evidence, Verdict
from common.audit.verify.fields import Record
from common.audit.verify.records import CROSS_BORDER
from common.audit.verify.replay import SERVER
from common.canonical_json import JsonValue


@dataclass(frozen=True)
class Model:
    """A model, or the answers to questions, that the run published.

    Attributes:
        index: Its entry in the server's log.
        sha256: Its digest.
        rounds: From how many rounds it is.
        at: When.
        kind: ``model`` or ``answers``.
    """

    index: int
    sha256: str
    rounds: int
    at: str
    kind: str = "model"


@dataclass(frozen=True)
class ReportFacts:
    """What a report says of a bundle.

    Attributes:
        verdict: The verifier's verdict.
        created_at: When the bundle was written; empty likewise.
        ascribed: Whether anything could be ascribed to anyone: without it all that follows but
            ``files`` is empty.
        trust: Whether each section may be relied on.
        regions: The regions that take part.
        plan: The run plan's fields; None if it cannot be used.
        plan_sha256: Its digest.
        model: The model published last, if any.
        without_consents: Regions whose consents are not in the bundle.
        consents: Consents by region.
        notices: Notices by region and log order.
        rounds: Every region's part of every round.
        releases: Everything that left.
        kinds: The same, releases of the same arrays together.
        budgets: What was spent, by region.
        answers: What regions computed of their customers for themselves; none of it left.
        incidents: What did not go as planned.
        withdrawals: Withdrawals by region.
        registry: The registry's versions.
        keys: Its keys.
        quorum: How many other parties must cosign a checkpoint.
        logs: What others have seen of each log.
        conflicts: Contradictions that witnesses keep.
        policies: The regions' policies.
        permits: The regions' permits.
        access: Requests to read sensitive columns, and what became of them.
        files: The bundle's files and their digests.
    """

    verdict: Verdict
    created_at: str
    ascribed: bool
    trust: Mapping[str, Trust]
    regions: tuple[str, ...]
    plan: Record | None
    plan_sha256: str | None
    model: Model | None
    without_consents: tuple[str, ...]
    consents: tuple[RegionConsents, ...]
    notices: tuple[Notice, ...]
    rounds: tuple[RegionRound, ...]
    releases: tuple[Release, ...]
    kinds: tuple[ReleaseKind, ...]
    budgets: tuple[Spent, ...]
    answers: tuple[Answer, ...]
    incidents: tuple[Incident, ...]
    withdrawals: tuple[RegionWithdrawals, ...]
    registry: tuple[RegistryVersion, ...]
    keys: tuple[Key, ...]
    quorum: int
    logs: tuple[WitnessedLog, ...]
    conflicts: tuple[Conflict, ...]
    policies: tuple[Policy, ...]
    permits: tuple[Permit, ...]
    access: tuple[AccessGrant, ...]
    files: BundleFiles

    @property
    def cross_border(self) -> bool:
        """Whether the bundle is one that may cross borders."""
        return self.verdict.scope == CROSS_BORDER

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values, whole: nothing is left out that the page has no room for."""
        record = asdict(self)
        record["verdict"] = self.verdict.to_record()
        record["trust"] = {name: trust.state for name, trust in self.trust.items()}
        return {"v": "fedpref-compliance-report/1"} | record


def read_facts(path: Path, *, root_key_ids: Collection[str] = ()) -> ReportFacts:
    """Verifies a bundle and reads what its report says.

    Args:
        path: The run folder, or the bundle folder itself.
        root_key_ids: Ids of the root keys the reader trusts, in hex.

    Raises:
        InputError: There is no bundle at ``path``.
        UsageError: A root key id is not 64 hex digits.
    """
    material = read_material(path, root_key_ids=root_key_ids)
    evidence = material.evidence
    journals = _journals(material, evidence) if evidence else {}
    consents = tuple(
        region_consents(evidence.replays[party], journal, material.created_ms)
        for party, journal in journals.items()
        if evidence
    )
    left = tuple(releases(evidence)) if evidence else ()
    regions = _regions(evidence)
    return ReportFacts(
        verdict=material.verdict,
        created_at=material.manifest.created_at if material.manifest else "",
        ascribed=evidence is not None,
        trust=section_trust(material.verdict),
        regions=regions,
        plan=evidence.plan.record if evidence and evidence.plan else None,
        plan_sha256=evidence.plan_sha256 if evidence else None,
        model=_model(evidence),
        without_consents=tuple(region for region in regions if region not in journals),
        consents=consents,
        notices=_notices(material, evidence, journals),
        rounds=_rounds(evidence, consents),
        releases=left,
        kinds=tuple(release_kinds(list(left))),
        budgets=tuple(budgets(evidence)) if evidence else (),
        answers=tuple(answers(evidence)) if evidence else (),
        incidents=tuple(incidents(evidence)) if evidence else (),
        withdrawals=tuple(
            region_withdrawals(evidence.replays[party], journal)
            for party, journal in journals.items()
            if evidence
        ),
        registry=tuple(registry_versions(material)),
        keys=tuple(registry_keys(material)),
        quorum=evidence.ring.witness_quorum if evidence else 0,
        logs=tuple(witnessed_logs(evidence)) if evidence else (),
        conflicts=tuple(conflicts(material)),
        policies=tuple(policies(evidence)) if evidence else (),
        permits=tuple(permits(evidence)) if evidence else (),
        access=tuple(access_grants(evidence)) if evidence else (),
        files=bundle_files(material),
    )


def _regions(evidence: Evidence | None) -> tuple[str, ...]:
    if evidence is None:
        return ()
    named = evidence.plan.regions if evidence.plan else frozenset()
    return tuple(sorted((evidence.replays.keys() | named) - {SERVER}))


def _journals(material: Material, evidence: Evidence) -> dict[str, Journal]:
    """The consents of every region whose log is whole in the bundle."""
    broken: dict[str | None, set[int]] = {}
    for failure in material.verdict.failures:
        if failure.index is not None:
            broken.setdefault(failure.party, set()).add(failure.index)
    return {
        replay.party: read_journal(material.folder, replay, broken.get(replay.party, set()))
        for replay in evidence.regions()
        if material.whole(replay.party)
    }


def _model(evidence: Evidence | None) -> Model | None:
    server = evidence.replays.get(SERVER) if evidence else None
    if evidence is None or server is None:
        return None
    kind = "answers" if evidence.plan is not None and evidence.plan.asks else "model"
    entries = [each for each in server.of_kind(kind) if each.text("run") == evidence.run]
    if not entries:
        return None
    last = entries[-1]
    return Model(last.index, last.text(kind), last.number("rounds"), last.text("time"), kind)


def _notices(
    material: Material, evidence: Evidence | None, journals: Mapping[str, Journal]
) -> tuple[Notice, ...]:
    if evidence is None:
        return ()
    return tuple(
        notice
        for replay in evidence.regions()
        for notice in notices(replay, journals.get(replay.party), material.created_ms)
    )


def _rounds(
    evidence: Evidence | None, consents: tuple[RegionConsents, ...]
) -> tuple[RegionRound, ...]:
    if evidence is None:
        return ()
    counted = {
        each.region: {(count.run, count.number): count.in_force for count in each.snapshots}
        for each in consents
    }
    return tuple(
        part
        for replay in evidence.regions()
        for part in region_rounds(evidence, replay, counted.get(replay.party, {}))
    )
