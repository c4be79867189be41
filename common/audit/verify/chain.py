"""Step 7: one unbroken chain of models, made of exactly what the regions released."""

from __future__ import annotations

import hashlib

from common.audit.verify.arrays_file import file_arrays_digest
from common.audit.verify.files import BundleFolder
from common.audit.verify.plan_facts import PlanFacts
from common.audit.verify.replay import PARTIES_TOLERANCE_MS, SERVER, Entry, Evidence
from common.audit.verify.verdict import CHAIN
from common.errors import InputError

MODEL_FILE = "model.safetensors"
# The digest of no arrays at all: the model before the first round.
EMPTY_MODEL = hashlib.sha256(b"").hexdigest()


def verify_chain(evidence: Evidence, folder: BundleFolder) -> None:
    """Checks the server's aggregates and published model against the regions' rounds."""
    evidence.findings.begin(CHAIN)
    chain = _Chain(evidence)
    chain.check_aggregates()
    chain.check_regions_rounds()
    chain.check_model(folder)


def _least_regions(plan: PlanFacts) -> int:
    """The fewest updates to which the plan's rule may be applied (its papers' conditions)."""
    if plan.rule == "secure-sum":
        return 3
    return 2 * plan.tolerated + (3 if plan.rule == "krum" else 1)


class _Chain:
    """The bundle's run as the server's log tells it, beside what the regions' logs tell."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        server = evidence.replays.get(SERVER)
        self._server = [] if server is None else server.entries
        self._rounds = {
            entry.leaf: entry
            for replay in evidence.regions()
            for entry in replay.of_kind("round")
            if entry.record["run"] == evidence.run
        }
        self._used: set[str] = set()
        self._aggregates: dict[int, Entry] = {}
        self._last: Entry | None = None

    def _fail(self, code: str, entry: Entry, message: str) -> None:
        self._evidence.fail(CHAIN, code, entry, message)

    def check_aggregates(self) -> None:
        for entry in self._server:
            if entry.kind != "aggregate":
                continue
            if entry.record["run"] != self._evidence.run:
                continue
            self._evidence.findings.count(CHAIN, "aggregates")
            self._check_link(entry)
            self._check_regions(entry)
            self._check_signal(entry)
            self._aggregates[entry.number("round")] = entry
            self._last = entry

    def _check_link(self, entry: Entry) -> None:
        if self._last is None:
            if entry.record["model_in"] != EMPTY_MODEL:
                self._fail("first-model", entry, "The first round does not begin from no model.")
            return
        if entry.number("round") != self._last.number("round") + 1:
            self._fail(
                "aggregate-order",
                entry,
                f"Round {entry.number('round')} follows round {self._last.number('round')}.",
            )
        if entry.record["model_in"] != self._last.record["model_out"]:
            self._fail("model-chain", entry, "Its model in is not the last round's model out.")

    def _check_regions(self, entry: Entry) -> None:
        parts = entry.parts("regions")
        names = [part["region"] for part in parts]
        refused = [part["region"] for part in entry.parts("refused")]
        if len({*names, *refused}) != len(names) + len(refused):
            self._fail("region-twice", entry, "A region is named twice.")
        self._check_planned(entry, {str(name) for name in names})
        if len(names) < entry.number("quorum"):
            self._fail(
                "quorum",
                entry,
                f"It is made of {len(names)} regions, its quorum is {entry.number('quorum')}.",
            )
        for part in parts:
            leaf, region = str(part["round_entry"]), str(part["region"])
            paired = self._rounds.get(leaf)
            if paired is None or paired.party != region:
                self._fail(
                    "round-entry-missing",
                    entry,
                    f"The log of {region} has no round entry {leaf[:12]}… of this run.",
                )
                continue
            if leaf in self._used:
                self._fail("round-entry-reused", entry, f"{region}'s round was used before.")
            self._used.add(leaf)
            self._check_pair(entry, paired, str(part["update"]))

    def _check_planned(self, entry: Entry, names: set[str]) -> None:
        plan = self._evidence.plan
        if plan is None:
            return
        if entry.record["mechanism"] != plan.mechanism_of(entry.number("round")):
            self._fail("not-planned", entry, "The plan has no such mechanism in this round.")
        if not names <= plan.regions:
            self._fail("not-planned", entry, "It uses a region that the plan does not name.")
        if entry.record["quorum"] != plan.record["quorum"]:
            self._fail("not-planned", entry, "Its quorum is not the plan's.")
        if (entry.record["rule"], entry.record["mode"]) != (plan.rule, plan.record["mode"]):
            self._fail("not-planned", entry, "Its rule or its mode is not the plan's.")
        least = _least_regions(plan)
        if len(names) < least:
            self._fail("too-few", entry, f"The plan's rule needs {least} regions.")

    def _check_signal(self, entry: Entry) -> None:
        """Signals are stated where the plan may end the run by them, and then they do end it."""
        plan = self._evidence.plan
        if plan is None:
            return
        # The first change of parameters, in round 2, has none before it.
        wanted = plan.may_end_early and entry.number("round") > 2
        if (entry.record["signal"] is not None) != wanted:
            self._fail("signal", entry, "Its signal is not stated as the plan has it.")
        if plan.ends([each.record["signal"] for each in self._aggregates.values()]):
            self._fail("after-end", entry, "By the rounds before it the plan had ended the run.")

    def _check_clocks(self, entry: Entry, paired: Entry) -> None:
        """A region cannot have trained on a model before it was made, nor after its sum was."""
        made_ms = self._last.time_ms("end") if self._last else 0
        if paired.time_ms("end") + PARTIES_TOLERANCE_MS < made_ms or paired.time_ms(
            "end"
        ) - PARTIES_TOLERANCE_MS > entry.time_ms("end"):
            self._evidence.fail(
                CHAIN,
                "clocks-apart",
                paired,
                "Its time does not lie between the server's last aggregate and the one that uses "
                "it.",
            )

    def _check_pair(self, entry: Entry, paired: Entry, update: str) -> None:
        self._evidence.findings.count(CHAIN, "updates")
        differing = [
            name
            for name in ("round", "mechanism", "model_in")
            if entry.record[name] != paired.record[name]
        ]
        if entry.record["mode"] != paired.part("dp")["mode"]:
            differing.append("mode")
        if update != paired.record["update"]:
            differing.append("update")
        # A retry sends the same sealed bytes, so the entry may be of an earlier attempt.
        if paired.number("attempt") > entry.number("attempt"):
            differing.append("attempt")
        self._check_clocks(entry, paired)
        if differing:
            self._fail(
                "aggregate-mismatch",
                entry,
                f"Its {', '.join(differing)} is not that of {paired.party}'s round entry "
                f"{paired.index}.",
            )

    def check_regions_rounds(self) -> None:
        """Every round a region logged is in an aggregate, or the server logged why not."""
        for leaf, entry in self._rounds.items():
            if leaf not in self._used and not self._excused(entry):
                self._fail(
                    "round-not-aggregated",
                    entry,
                    "The server's log neither uses this round entry nor says why not.",
                )

    def _excused(self, entry: Entry) -> bool:
        """Whether the server logged why it did not use a region's round."""
        aggregate = self._aggregates.get(entry.number("round"))
        if aggregate is not None:
            refused = any(part["region"] == entry.party for part in aggregate.parts("refused"))
            return refused or self._is_superseded(entry)
        # Of a round that was never closed there are incidents: of the region, or of all.
        return any(
            incident.kind == "incident"
            and incident.record["run"] == self._evidence.run
            and incident.record["round"] == entry.record["round"]
            and incident.record["region"] in (None, entry.party)
            for incident in self._server
        )

    def _is_superseded(self, entry: Entry) -> bool:
        """Whether the region made the round anew: what left once under double masks is dead."""
        return entry.part("dp")["mode"] == "distributed" and any(
            leaf in self._used
            and other.party == entry.party
            and other.record["round"] == entry.record["round"]
            and other.number("attempt") > entry.number("attempt")
            for leaf, other in self._rounds.items()
        )

    def check_model(self, folder: BundleFolder) -> None:
        models = [
            entry
            for entry in self._server
            if entry.kind == "model" and entry.record["run"] == self._evidence.run
        ]
        for entry in models:
            self._check_model_entry(entry)
        plan = self._evidence.plan
        if not models or folder.run_folder is None or (plan is not None and plan.asks):
            return
        try:
            digest = file_arrays_digest(folder.run_folder / MODEL_FILE)
        except InputError as error:
            self._evidence.findings.fail(
                CHAIN, "model-file", f"{MODEL_FILE}: {error.message}", file=MODEL_FILE
            )
            return
        self._evidence.findings.count(CHAIN, "model files")
        if digest != models[-1].record["model"]:
            self._evidence.findings.fail(
                CHAIN,
                "model-file",
                f"{MODEL_FILE} is not the model that was published (entry {models[-1].index} of "
                "the server's log).",
                file=MODEL_FILE,
            )

    def _check_model_entry(self, entry: Entry) -> None:
        before = [a for a in self._aggregates.values() if a.index < entry.index]
        if not before or before[-1] is not self._last:
            self._fail("model-early", entry, "It is published before the last round.")
            return
        if entry.record["model"] != before[-1].record["model_out"]:
            self._fail("model-chain", entry, "It is not the last round's model out.")
        if entry.number("rounds") != before[-1].number("round"):
            self._fail("model-rounds", entry, "Its number of rounds is not the server's.")
        if entry.record["plan"] != self._evidence.plan_sha256:
            self._fail("plan-mismatch", entry, "It is for another plan than plan.json.")
        plan = self._evidence.plan
        if plan is not None and entry.record["catalogue"] != plan.record["catalogue"]:
            self._fail("model-catalogue", entry, "Its catalogue is not the plan's.")
