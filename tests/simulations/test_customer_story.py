"""One customer's story by commands alone: docs/customer-story.md, run as it stands.

Consent → rounds 1 to 3 include → withdraw → round 4 excludes → receipt, proofs, lineage → erase →
still verifies. Each step's words are looked at, and what it left on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from client.consent_service.evidence import Evidence
from client.engine.home import RegionHome
from client.engine.subjects import open_subject_keys
from common import canonical_json
from common.audit.log import AuditLog
from common.consent import GIVEN, WITHDRAWN
from common.envelope import Envelope
from common.errors import InputError
from simulations.rebundle import rebundle
from simulations.run_folder import RunFolder, RunSettings, RunState

PAGE = Path(__file__).resolve().parents[2] / "docs" / "customer-story.md"
CUSTOMER = "customer-0001"
_BLOCK = re.compile(
    r"(?:<!-- exit code: (?P<code>\d+) -->\n)?^```sh\n(?P<script>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Step:
    """A block of the page that was run."""

    script: str
    code: int
    expected: int
    shown: str


@dataclass(frozen=True)
class Story:
    """All steps, and the folder that they were run in."""

    folder: Path
    steps: list[Step]
    evidence: bytes

    def shown(self, words: str) -> str:
        """What the one block with these words in it put out, on one line."""
        (step,) = [each for each in self.steps if words in each.script]
        return step.shown

    def json(self, name: str) -> dict[str, object]:
        """A JSON file that a step wrote."""
        value: dict[str, object] = json.loads((self.folder / name).read_bytes())
        return value

    @property
    def home(self) -> RegionHome:
        """The customer's region."""
        return RegionHome.read(self.folder / "runs" / "story" / "regions" / "region-1")


def run(script: str, folder: Path, expected: int) -> Step:
    """Runs a block with this environment's commands first on the path."""
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "300",
            "NO_COLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    shown = " ".join((ended.stdout + ended.stderr).split())
    return Step(script, ended.returncode, expected, shown)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder, steps, evidence = tmp_path_factory.mktemp("story"), [], b""
    for found in _BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        steps.append(run(found["script"], folder, int(found["code"] or 0)))
        # What fails here makes whatever follows meaningless.
        assert steps[-1].code == steps[-1].expected, f"{found['script']}\n{steps[-1].shown}"
        assert "Traceback" not in steps[-1].shown
        if "--document" in found["script"]:
            home = RegionHome.read(folder / "runs" / "story" / "regions" / "region-1")
            with open_subject_keys(home.subjects, home.stored_key) as subjects:
                evidence = Evidence.read(subjects.evidence(CUSTOMER)[-1]).token
    return Story(folder, steps, evidence)


def test_the_page_has_the_whole_story() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(_BLOCK.findall(page)) == page.count("```sh\n") >= 12
    order = (
        "--pause-after-round 3",
        "--withdraw",
        "check-receipt withdrawn.json",
        "prove-consent",
        "prove-absence",
        "lineage runs",
        "erase runs",
        "verify runs",
    )
    places = [page.index(words) for words in order]
    assert places == sorted(places)


def test_the_run_pauses_and_goes_on(story: Story) -> None:
    paused = story.shown("--pause-after-round")
    assert "Paused after round 3 of 5" in paused
    assert "The same command goes on from here: without --pause-after-round" in paused
    assert "Verified" not in paused
    (rest,) = [
        step.shown
        for step in story.steps
        if "fedpref-sim run" in step.script and "--pause" not in step.script
    ]
    assert "Going on with" in rest
    assert re.findall(r"round (\d) \(", rest) == ["4", "5"]
    assert "Verified: 9 steps" in rest


def test_the_consent_has_a_receipt_that_holds_alone(story: Story) -> None:
    shown = story.shown("consent.json")
    assert "the consent." in shown
    assert "The receipt holds." in shown
    assert f"Record {GIVEN}" in shown
    assert "cosigned by region-2, region-3, server, witness." in shown
    assert story.json("consent.json")["first_excluded"] is None


def test_the_letter_s_withdrawal_is_logged_with_its_evidence(story: Story) -> None:
    shown = story.shown("--withdraw")
    assert "region-1: the withdrawal is logged, entry " in shown
    assert "No training round that takes its consents from now on includes them." in shown
    letter = hashlib.sha256((story.folder / "letter.txt").read_bytes()).hexdigest()
    assert json.loads(story.evidence) == {"document_sha256": letter, "method": "letter"}
    # On the day itself there was no round yet to name.
    assert story.json("withdrawn-today.json")["first_excluded"] is None


def test_the_receipt_names_the_first_round_without_them(story: Story) -> None:
    shown = story.shown("--out withdrawn.json")
    assert "First round without them: 4 of run synthetic-3-" in shown
    assert "The receipt holds." in shown
    assert "cosigned by region-2, region-3, server, witness." in shown
    assert "the region cannot take it back unnoticed" in shown
    assert [(n, e) for n, e in in_rounds(shown)] == [(4, "no"), (5, "no")]
    excluded = story.json("withdrawn.json")["first_excluded"]
    assert isinstance(excluded, dict)
    assert excluded["round"] == 4


def in_rounds(shown: str) -> list[tuple[int, str]]:
    """Of a receipt's table: each round, and whether they were in it."""
    rows = re.findall(r"synthetic-3-\S+ (\d) \d+ (yes|no) consent", shown)
    return [(int(number), word) for number, word in rows]


def test_the_export_is_the_customer_s_own(story: Story) -> None:
    assert "2 consent record(s), 3 training round(s)" in story.shown("--out mine.zip")
    parts = json.loads((story.folder / "mine" / "participation.json").read_bytes())
    assert [(each["round"], each["included"]) for each in parts] == [
        (number, number < 4) for number in range(1, 6)
    ]
    with zipfile.ZipFile(story.folder / "mine.zip") as archive:
        names = archive.namelist()
    assert {"customer-key.json", "receipts/0001.json", "receipts/0002.json"} <= set(names)


def test_each_round_s_proof_says_whether_they_were_in_it(story: Story) -> None:
    shown = story.shown("prove-consent")
    told = re.findall(r"this customer (was|was not) in round (\d) of run", shown)
    assert told == [("was" if n < 4 else "was not", str(n)) for n in range(1, 6)]
    assert shown.count("The proof holds.") == 5
    absent = story.shown("--out not-in-round-4.json")
    assert re.search(r"Not in round 4 of run \S+: consent withdrawn", absent)
    assert re.search(r"The proof holds\. .* was not in round 4 of run", absent)
    present = story.shown("--out not-in-round-3.json")
    assert "their absence cannot be proved" in present
    assert not (story.folder / "not-in-round-3.json").exists()


def test_the_lineage_is_told_in_careful_words(story: Story) -> None:
    shown = story.shown("fedpref-audit lineage")
    assert "from rounds 1, 2, 3." in shown
    assert re.search(r"bounded by \(ε = 7\.99\d+, δ = 0\.000001\)-differential privacy", shown)
    assert "if the region's statements about its noise are true" in shown
    assert "A withdrawal works forward" in shown
    assert "It does not reach back into rounds and models made before." in shown
    assert "It is not unlearning" in shown


def test_after_the_erasure_all_still_verifies(story: Story) -> None:
    erased = story.shown("fedpref-region erase")
    assert "their key and their evidence are destroyed" in erased
    assert "erasing is not unlearning" in erased
    shown = story.shown("fedpref-sim bundle")
    assert "Verified: 9 steps" in shown
    assert re.search(r"Verified\. runs/story is whole and unaltered\.", shown)
    assert "The receipt holds." in shown
    assert re.search(r"The proof holds\. .* was not in round 4 of run", shown)
    # The bundle is the new one: it holds what the erasure logged.
    with AuditLog.open_read_only(story.home.log) as log:
        envelopes = [Envelope.decode(data).record() for _, data in log.entries()]
        note = (story.folder / "runs/story/bundle/logs/region-1/checkpoint").read_text()
        assert int(note.splitlines()[1]) == log.size
    sid = story.json("mine/customer-key.json")["sid"]
    theirs = [record for record in envelopes if record.get("sid") == sid]
    assert [(record["state"], record["method"]) for record in theirs] == [
        (GIVEN, "web-form"),
        (WITHDRAWN, "letter"),
        (WITHDRAWN, "erasure"),
    ]


def test_the_customer_s_key_cannot_be_had_any_more(story: Story) -> None:
    shown = story.shown("--out again.zip")
    assert "who was erased cannot be found any more" in shown
    assert not (story.folder / "again.zip").exists()
    with open_subject_keys(story.home.subjects, story.home.stored_key) as subjects:
        assert subjects.secret(CUSTOMER) is None
        assert not subjects.evidence(CUSTOMER)
    secret = str(story.json("mine/customer-key.json")["k_subject"])
    for path in story.home.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert bytes.fromhex(secret) not in data, path
            assert secret.encode() not in data, path


def test_what_is_no_finished_run_is_not_bundled(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        rebundle(tmp_path / "missing", Console())
    assert not (tmp_path / "missing").exists()
    settings = RunSettings(
        scenario="synthetic-3",
        strategy="factors",
        epsilon="8",
        delta="0.000001",
        epsilon_cap="8",
        seed=1,
        engine="inprocess",
        refusal_share="0",
        withdrawal_share="0",
        withdrawal_in_round="finish",
        quality_seeds=1,
        aggregation="sum",
        tolerated=0,
        noise="local",
        server_learning_rate_decay="1",
        patience_rounds=0,
    )
    RunFolder(tmp_path).write_state(RunState(run_id="r", settings=settings, stage="trained"))
    assert canonical_json.decode((tmp_path / "run.json").read_bytes())
    with pytest.raises(InputError, match="not finished"):
        rebundle(tmp_path, Console())
