"""A region asks of its further tables: consent, gate, charge, verifier, and what was drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.analytics.asking import Answered, ask
from client.data.tables.declaration import declaration_file
from client.engine.home import RegionHome
from client.recommend.experiment import Assignment, experiment_key
from client.recommend.exposure import FILE_NAME, Exposure, ExposureLog
from client.recommend.settings import RecommendSettings, recommend_folder
from common.analytics.further_questions import (
    EVENTS_DONE,
    FURTHER,
    JOURNEY,
    KANO,
    NPS,
    PAYMENTS,
    PURCHASE_UPLIFT,
)
from common.analytics.lines import Line
from common.audit.bundle import write_bundle
from common.audit.verify import verify_bundle
from common.consent import FEDERATED_ANALYTICS
from common.errors import InputError, QualityGateError
from common.registry_install import registry_envelopes
from common.timestamps import now_ms
from simulations.made_up_tables import EXPERIMENT, TRUTHS
from tests.support.asking_region import Federation, draft, reopened
from tests.support.small_federation import WINDOWS, home_of


def the_home(federation: Federation) -> RegionHome:
    return home_of(federation[0])


def lines(answered: Answered) -> dict[str, Line]:
    return {line.label: line for line in answered.lines}


def covers(line: Line, truth: float, slack: float) -> bool:
    return line.low is not None and line.low - slack <= truth <= line.high + slack  # type: ignore[operator] # both or none


def test_what_was_drawn_is_read_within_its_intervals(federation: Federation) -> None:
    with reopened(federation) as region:
        names = (NPS, PAYMENTS, KANO, JOURNEY)
        done = {
            each.statistic.name: each
            for each in ask(region.engine, draft(region, *names), anyway=True)
        }
        agreeing = len(region.engine.state.consents.eligible(FEDERATED_ANALYTICS, 1 << 42))
    # Who answered is itself drawn; within the window about four in five of the answers are.
    nps = lines(done[NPS])
    assert covers(nps["score"], 100 * (TRUTHS.promoters - TRUTHS.detractors), 25)
    assert covers(nps["answered"], 0.8 * TRUTHS.answering * agreeing, 30)
    payments = lines(done[PAYMENTS])
    for way, share in zip(("card", "cash", "mobile"), TRUTHS.payments, strict=True):
        assert covers(payments[way], 100 * share, 5)
    assert covers(lines(done[JOURNEY])["awareness"], agreeing, 15)


@pytest.mark.slow
def test_every_question_is_answered_charged_and_verified(
    federation: Federation, tmp_path: Path
) -> None:
    with reopened(federation) as region:
        asked = draft(region, *FURTHER, epsilon="7", experiment=EXPERIMENT)
        done = ask(region.engine, asked, anyway=True)
        home = region.engine.home
        assert [each.statistic.name for each in done] == [*FURTHER]
        assert len(region.engine.ledger.charges) == len(FURTHER)
        (plan,) = home.permits.glob("*.plan.json")
        bundle = tmp_path / "audited"
        bundle.mkdir()
        write_bundle(
            bundle,
            federation=home.federation,
            run=plan.name.removesuffix(".plan.json"),
            registry=registry_envelopes(home.registry),
            plan=plan.read_bytes(),
            logs={home.region: region.engine.log},
            artifacts=[],
            signer=home.signer("controller"),
            created_at_ms=now_ms(),
        )
    verdict = verify_bundle(bundle)
    assert {failure.step for failure in verdict.failures} <= {8}
    assert verdict.steps[5].counts["answers"] == len(FURTHER)


def test_customers_who_do_not_consent_are_in_no_table(federation: Federation) -> None:
    home = the_home(federation)
    with reopened(federation) as region:
        refusing = [each for each in region.customers if not region.registrar.consents(each)]
        agreeing = len(region.customers) - len(refusing)
        assert refusing
        # All events are of those who refuse, fifty each: nothing but noise may be left.
        events = [f"{who},2024-02-01T10:00:{n:02}Z,view" for who in refusing for n in range(50)]
        rows = "\n".join(["customer,time,kind", *events])
        (home.source.parent / "events.csv").write_text(f"{rows}\n")
        declaration_file(home).write_text(
            '[events]\nkind = "files"\npath = "events.csv"\n[events.columns]\n'
            'customer = "customer"\ntime = "time"\nkind = "kind"\n'
        )
        (done,) = ask(region.engine, draft(region, EVENTS_DONE, epsilon="7"), anyway=True)
        views = lines(done)["view"]
    assert views.value is not None
    assert views.value < 12 < len(refusing) < agreeing


def test_a_table_below_the_threshold_or_missing_costs_nothing(federation: Federation) -> None:
    home = the_home(federation)
    path = home.source.parent / "feedback.csv"
    good = path.read_text()
    with reopened(federation) as region:
        asked = draft(region, NPS)
        path.write_text(good.replace(",nps,", ",nonsense,"))
        with pytest.raises(QualityGateError, match="of the table feedback"):
            ask(region.engine, asked, anyway=True)
        path.unlink()
        with pytest.raises(InputError, match="no data files"):
            ask(region.engine, asked, anyway=True)
        declaration_file(home).unlink()
        with pytest.raises(InputError, match="declares no table feedback"):
            ask(region.engine, asked, anyway=True)
        assert region.engine.ledger.charges == ()


def test_exposures_that_are_not_declared_are_the_recommenders(federation: Federation) -> None:
    home = the_home(federation)
    declaration_file(home).unlink()
    with reopened(federation) as region:
        asked = draft(region, PURCHASE_UPLIFT, experiment="trial")
        with pytest.raises(InputError, match="runs no experiment"):
            ask(region.engine, asked, anyway=True)
        folder = recommend_folder(home)
        folder.mkdir(exist_ok=True)
        (folder / "settings.toml").write_text(
            '[experiment]\nname = "trial"\n'
            '[[experiment.arms]]\nname = "old"\nshare = 0.5\n'
            '[[experiment.arms]]\nname = "new"\nshare = 0.5\n'
        )
        settings = RecommendSettings.read(home).experiment
        assert settings is not None
        assignment, log = (
            Assignment(settings, experiment_key(home)),
            ExposureLog(folder / FILE_NAME),
        )
        sids = region.engine.state.consents.eligible(FEDERATED_ANALYTICS, 1 << 42)
        for sid in sids:
            arm, shown_ms = assignment.arm(sid).name, WINDOWS.train_from_ms + 1000
            log.add(Exposure("trial", assignment.pseudonym(sid), arm, shown_ms, ("item-00",)))
        log.add(Exposure("trial", bytes(16), "new", WINDOWS.train_from_ms, ()))
        log.close()
        (done,) = ask(region.engine, asked, anyway=True)
        found = done.answer.sealed.arrays["uplift_purchase"]
    assert found.sum() == pytest.approx(len(sids), abs=15)
