"""Step 8: what should be there and is not, reported apart from what was altered."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from common.audit.verify.answers import ARRAYS_FILE, FACTS_FILE
from common.audit.verify.chain import MODEL_FILE
from common.audit.verify.files import BundleFolder, Manifest
from common.audit.verify.replay import SERVER, Entry, Evidence, LogReplay
from common.audit.verify.rounds import DISCARDED
from common.audit.verify.verdict import COMPLETENESS

# What must have been paid for.
_PAID = ("round", "release", "answer")


def verify_completeness(evidence: Evidence, folder: BundleFolder, manifest: Manifest) -> None:
    """Checks that no log, round, permit, charge, release or model is missing."""
    evidence.findings.begin(COMPLETENESS)
    _check_parties(evidence)
    for replay in evidence.regions():
        _check_region(evidence, replay)
        _check_cosigned(evidence, replay)
        _note_unused_charges(evidence, replay)
    _check_releases(evidence)
    _check_server(evidence)
    _check_model(evidence, folder, manifest)


def _check_parties(evidence: Evidence) -> None:
    if SERVER not in evidence.parties or len(evidence.parties) < 2:
        evidence.findings.fail(
            COMPLETENESS, "parties", "The run does not have a server and a region."
        )
    for party in sorted(evidence.parties - evidence.replays.keys()):
        evidence.findings.fail(
            COMPLETENESS, "log-missing", f"The log of {party} is not in the bundle.", party=party
        )
    evidence.findings.count(COMPLETENESS, "parties", len(evidence.parties))


def _check_region(evidence: Evidence, replay: LogReplay) -> None:
    permits: set[str] = set()
    queries: set[str] = set()
    # What stands under which kind of permission.
    under: dict[str, tuple[set[str], ...]] = {
        "charge": (permits, queries),
        "round": (permits,),
        "answer": (queries,),
    }
    charges = {entry.text("charge_id") for entry in replay.of_kind("charge")}
    last_seq = 0
    for entry in replay.entries:
        if entry.kind == "permit":
            permits.add(entry.text("permit_id"))
        elif entry.kind == "query":
            queries.add(entry.text("permit_id"))
        elif entry.kind in under and not any(
            entry.text("permit_id") in each for each in under[entry.kind]
        ):
            evidence.fail(
                COMPLETENESS, "no-permit", entry, "No permit that it names was logged before it."
            )
        if entry.kind == "charge":
            if entry.number("ledger_seq") > last_seq + 1:
                evidence.fail(
                    COMPLETENESS,
                    "ledger-gap",
                    entry,
                    f"Ledger rows {last_seq + 1} to {entry.number('ledger_seq') - 1} are missing.",
                )
            last_seq = max(last_seq, entry.number("ledger_seq"))
        elif entry.kind in _PAID and entry.text("charge_id") not in charges:
            evidence.fail(
                COMPLETENESS,
                "no-charge",
                entry,
                f"The {entry.kind} has no logged charge.",
            )


def _note_unused_charges(evidence: Evidence, replay: LogReplay) -> None:
    """A charge without a round or an answer spends budget for nothing; the log may say why."""
    used = {
        entry.text("charge_id") for kind in ("round", "answer") for entry in replay.of_kind(kind)
    }
    discarded = {
        (entry.record["run"], entry.record["round"])
        for entry in replay.of_kind("incident")
        if entry.record["reason"] == DISCARDED
    }
    unused = [e for e in replay.of_kind("charge") if e.text("charge_id") not in used]
    explained = [e for e in unused if (e.record["run"], e.record["round"]) in discarded]
    if explained:
        evidence.findings.note(
            f"{replay.party} discarded {len(explained)} rounds because someone in them withdrew; "
            "nothing of them left, their charges stay."
        )
    if len(unused) > len(explained):
        evidence.findings.note(
            f"{replay.party} charged {len(unused) - len(explained)} rounds that it does not log, "
            "and does not say why."
        )


def _check_cosigned(evidence: Evidence, replay: LogReplay) -> None:
    """Enough others have seen every round: without that, a region could still unsay it."""
    newest = lru_cache(replay.cosigned.newest)
    for entry in replay.of_kind("round"):
        # The later of what its own time and its place in the log say: a clock picks no quorum.
        quorum = max(
            evidence.ring.quorum_at(entry.time_ms("end")), replay.quorum_before(entry.index)
        )
        if quorum and newest(quorum) <= entry.index:
            evidence.fail(
                COMPLETENESS,
                "not-cosigned",
                entry,
                f"No checkpoint that covers it was cosigned by {quorum} other parties.",
            )


def _check_releases(evidence: Evidence) -> None:
    """Every round entry that the server used has its release in the region's log."""
    released = {
        (replay.party, entry.text("charge_id"))
        for replay in evidence.regions()
        for entry in replay.of_kind("release")
    }
    rounds = {
        entry.leaf: entry for replay in evidence.regions() for entry in replay.of_kind("round")
    }
    for aggregate in _of_run(evidence, "aggregate"):
        for part in aggregate.parts("regions"):
            entry = rounds.get(str(part["round_entry"]))
            if entry is not None and (entry.party, entry.text("charge_id")) not in released:
                evidence.fail(
                    COMPLETENESS,
                    "no-release",
                    entry,
                    "The server used its update, but no release of it is logged.",
                )


def _check_server(evidence: Evidence) -> None:
    regions = evidence.parties - {SERVER}
    seen: set[int] = set()
    for entry in _of_run(evidence, "aggregate"):
        seen.add(entry.number("round"))
        named = {str(p["region"]) for p in [*entry.parts("regions"), *entry.parts("refused")]}
        for region in sorted(regions - named):
            evidence.fail(
                COMPLETENESS,
                "region-unmentioned",
                entry,
                f"It neither uses an update of {region} nor says why not.",
            )
    last = max(seen, default=0)
    evidence.findings.count(COMPLETENESS, "rounds", len(seen))
    for before, after in pairwise([0, *sorted(seen)]):
        if after > before + 1:
            missing = (
                f"round {before + 1}"
                if after == before + 2
                else (f"rounds {before + 1} to {after - 1}")
            )
            evidence.findings.fail(
                COMPLETENESS, "round-gap", f"The aggregate of {missing} is missing.", party=SERVER
            )
    signals = [entry.record["signal"] for entry in _of_run(evidence, "aggregate")]
    if evidence.plan is not None and evidence.plan.ends(signals):
        evidence.findings.note(
            f"The run ended after round {last} of {evidence.plan.rounds}, as its plan has it: the "
            "signals of its last rounds were too low."
        )
    elif evidence.plan is not None and last < evidence.plan.rounds:
        evidence.findings.fail(
            COMPLETENESS,
            "rounds-missing",
            f"The plan has {evidence.plan.rounds} rounds; the server's log ends with {last}.",
            party=SERVER,
        )
    kind, _ = _wanted(evidence)
    if not _of_run(evidence, kind):
        evidence.findings.fail(
            COMPLETENESS,
            "run-unfinished",
            f"The server's log publishes no {kind} of run {evidence.run}.",
            party=SERVER,
        )


def _check_model(evidence: Evidence, folder: BundleFolder, manifest: Manifest) -> None:
    kind, wanted = _wanted(evidence)
    if not _of_run(evidence, kind):
        return
    for name in wanted:
        if name not in manifest.artifacts:
            evidence.findings.fail(
                COMPLETENESS,
                "model-not-covered",
                f"The manifest does not cover {name}.",
                file="manifest.json" if folder.run_folder is None else name,
            )


def _wanted(evidence: Evidence) -> tuple[str, tuple[str, ...]]:
    """The kind of entry that publishes what the run came to, and the files that it is about."""
    if evidence.plan is not None and evidence.plan.asks:
        return "answers", (ARRAYS_FILE, FACTS_FILE)
    return "model", (MODEL_FILE,)


def _of_run(evidence: Evidence, kind: str) -> list[Entry]:
    server = evidence.replays.get(SERVER)
    if server is None:
        return []
    return [entry for entry in server.of_kind(kind) if entry.record["run"] == evidence.run]
