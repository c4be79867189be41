"""From a made-up retailer's tables to the page: every question asked, every section there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from client.data.tables.declaration import load_tables
from common.analytics.answers import GLOBAL
from common.catalogue import Catalogue
from common.errors import EXIT_OK
from common.questions_plan import QuestionsFile
from server.commands.insights import PageLanguage, insights
from simulations.analytics_run import QuestionsRun, run_questions
from simulations.insights import prepare_insights
from simulations.insights_study import BY_REGION
from simulations.made_up_regions import INSIGHT_WINDOWS
from simulations.scenarios import find_scenario
from tests.support.html_page import parse_page

FEW = {"region-1": 60, "region-2": 40, "region-3": 30}


def test_every_customer_is_in_the_store_and_every_table_is_declared(tmp_path: Path) -> None:
    prepared = prepare_insights(tmp_path, seed=1, regions=FEW)
    catalogue = Catalogue.load(prepared.catalogue)
    assert [(each.name, each.households) for each in prepared.regions] == list(FEW.items())
    for each in prepared.regions:
        frame = pd.read_parquet(each.source.parent / "transactions.parquet")
        assert set(frame["item"]) <= set(catalogue.items)
        times = frame["bought_at"].astype("datetime64[ms, UTC]").astype("int64")
        assert times.min() >= INSIGHT_WINDOWS.train_from_ms
        assert times.max() < INSIGHT_WINDOWS.train_until_ms
        tables = load_tables(each.source.with_name("tables.toml"))
        assert {"events", "feedback", "exposures", "members", "keys"} <= set(tables)
    customers = [
        set(pd.read_parquet(each.source.parent / "transactions.parquet")["customer"])
        for each in prepared.regions
    ]
    assert len(set.union(*customers)) == sum(map(len, customers))


def test_the_same_seed_makes_the_same_retailer(tmp_path: Path) -> None:
    few = {"region-1": 20}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_insights(tmp_path / name, seed=seed, regions=few)
    one, other, another = (
        (tmp_path / name / "region-1" / "data" / "feedback.csv").read_bytes() for name in "abc"
    )
    assert one == other
    assert one != another


@pytest.mark.slow
def test_every_question_of_the_shipped_plan_makes_its_section(tmp_path: Path) -> None:
    scenario = replace(
        find_scenario("insights-4"),
        jurisdictions=("DE", "FR", "IE"),
        planned_customers=sum(FEW.values()),
        prepare=partial(prepare_insights, regions=FEW),
    )
    # With so much ε even so few customers say something; noise is drawn all the same.
    run = QuestionsRun(scenario, QuestionsFile.read(BY_REGION), epsilon="60", anyway=True)
    found = run_questions(run, tmp_path / "run")
    assert {each.scope for each in found.answers} == {GLOBAL, *FEW}
    page = tmp_path / "page.html"
    code = insights(tmp_path / "run", page, lang=PageLanguage.zh)
    assert code == EXIT_OK
    parsed = parse_page(page.read_text(encoding="utf-8"))
    sections = [each.attributes["aria-labelledby"] for each in parsed.all("section")]
    assert sections == [
        *("glance", "preferences", "changes", "scenes", "segments", "funnels"),
        *("satisfaction", "experiments", "wishes", "priority", "asked", "reading"),
    ]
