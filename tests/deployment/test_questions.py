"""Questions in a real deployment: planned, permitted, asked, verified, and made into the page."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from common.analytics.answers import ReleasedAnswers
from common.analytics.purchase_questions import CLUSTERS, RECENCY, REPEATS, SCENES
from common.consent import FEDERATED_ANALYTICS
from simulations.deployment_attacks.our_federation import our_federation
from simulations.faults.evidence import read_files
from tests.support.deployed import Deployed
from tests.support.shared_python import shared_scripts

pytestmark = pytest.mark.slow

#: The run of questions, and what each may take by itself.
RUN, NAMES, CAP = "asked", (REPEATS, RECENCY, CLUSTERS, SCENES), "6"
#: Of the clusters two steps, each a round of its own.
ROUNDS = (REPEATS, RECENCY, CLUSTERS, CLUSTERS, SCENES)


def questions_too(shops: Path) -> None:
    """Declares a run of questions, which policies allow and customers consented to."""
    declaration = shops / "federation.toml"
    tables = tomllib.loads(declaration.read_text(encoding="utf-8"))
    window = {each: tables["run"]["first"][each] for each in ("train_from", "train_until")}
    tables["run"][RUN] = {
        **window,
        "epsilon": CAP,
        "aggregation": "secure-sum",
        "planned_customers": tables["run"]["first"]["planned_customers"],
        "round_timeout_s": 120,
        # A few hundred customers: much of it is noise, and the page says so.
        "anyway": True,
        "question": [{"name": name} for name in NAMES],
        "clusters": {"clusters": 3, "steps": 2},
    }
    declaration.write_text(tomli_w.dumps(tables), encoding="utf-8")
    for answers in shops.glob("*/region.toml"):
        values = tomllib.loads(answers.read_text(encoding="utf-8"))
        values["policy"]["server_queries"] = dict.fromkeys(NAMES, CAP)
        values["consents"]["grant"] += ["analytics"]
        answers.write_text(tomli_w.dumps(values), encoding="utf-8")


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    with tempfile.TemporaryDirectory(prefix="fp-") as folder:
        Path(folder).chmod(0o711)
        with our_federation(
            Path(folder) / "f",
            scripts=shared_scripts(Path(folder)),
            runs=("first", RUN),
            decide=questions_too,
        ) as ours:
            yield Deployed(ours)


def test_questions_are_asked_of_running_regions_and_their_answers_verify(
    deployed: Deployed,
) -> None:
    ours = deployed.ours
    page = ours.root / "insights.html"
    said = ours.command(
        "fedpref-server", "insights", "deployment", "--run", RUN, "--html", page, "--json"
    )
    assert deployed.entry(RUN).state == "finished"
    told: Any = json.loads(said)
    assert [each["question"] for each in told["answers"]] == [*NAMES]
    assert told["epsilon"] == CAP
    assert ReleasedAnswers.load(ours.deployment.home(RUN).folder).run in page.read_text()
    assert len(ours.server_records("answers")) == 1
    assert ours.server_records("model") == []
    assert deployed.verify(RUN, "evidence").startswith("Verified.")
    for region in ours.regions:
        charges = read_files(ours.settings(region).home.root).records("charge")
        assert [each["mechanism"] for each in charges] == [*ROUNDS]
        assert {each["purpose"] for each in charges} == {FEDERATED_ANALYTICS}
    shown = ours.command("fedpref-server", "answers", "deployment", "--run", RUN)
    assert all(name in shown for name in NAMES)
    assert ours.command("fedpref-server", "answers", "evidence", "--json")


def test_training_goes_on_beside_them(deployed: Deployed) -> None:
    deployed.submit("first")
    assert deployed.wait_for_end("first").state == "finished"
    assert deployed.faults("first") == []
    assert deployed.verify("first", "trained").startswith("Verified.")
