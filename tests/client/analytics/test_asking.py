"""A region asks its own customers: policy, outlook, charge, log, crash, and what is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.analytics.asking import ASKABLE, ask, expect, statistics, unfinished
from client.consent_service.registrar import Choice
from client.engine.policy import RegionPolicy
from client.engine.policy_desk import sign_policy
from common import failpoints
from common.analytics.purchase_questions import CATEGORIES, REPEATS, SCENES
from common.audit.bundle import write_bundle
from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.catalogue import Catalogue
from common.consent import FEDERATED_ANALYTICS, FEDERATED_TRAINING
from common.envelope import Envelope
from common.errors import BudgetError, ConsentError, InputError, PolicyError
from common.failpoints import AnswerPoint
from common.parameters import arrays_digest
from common.registry_install import registry_envelopes
from common.timestamps import now_ms
from simulations.provision import open_region
from tests.support.asking_region import (
    CLOCK,
    Federation,
    draft,
    reopened,
)
from tests.support.small_federation import home_of, make_federation


def records(log: AuditLog, kind: str) -> list[dict[str, Any]]:
    envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in envelopes if each.kind == kind]


def test_answers_are_charged_on_analytics_logged_and_read(federation: Federation) -> None:
    with reopened(federation) as region:
        done = ask(region.engine, draft(region, CATEGORIES, REPEATS, SCENES), anyway=True)
        answers, charges = (records(region.engine.log, kind) for kind in ("answer", "charge"))
        assert [each["mechanism"] for each in answers] == [CATEGORIES, REPEATS, SCENES]
        assert {each["purpose"] for each in charges} == {FEDERATED_ANALYTICS}
        assert float(charges[-1]["epsilon_run"]) <= 6.0
        for given, entry in zip(done, answers, strict=True):
            assert entry["values"] == arrays_digest(given.answer.sealed.arrays)
            assert given.lines
        counts = done[0].answer.sealed.arrays["category_customers"].astype(np.float64) * 2
        assert np.abs(counts - np.rint(counts)).max() > 0.01
        repeats = {line.label: line for line in done[1].lines}
        agreeing = len(region.engine.state.consents.eligible(FEDERATED_ANALYTICS, 1 << 42))
        # Of thirty purchases in a hundred days everyone has four days with one within eighty.
        for stage in ("purchase-1", "purchase-4"):
            line = repeats[stage]
            assert line.low is not None
            assert line.high is not None
            assert line.low - 15 <= agreeing <= line.high + 15


def test_only_who_consents_to_statistics_is_counted(federation: Federation) -> None:
    with reopened(federation) as region:
        before = ask(region.engine, draft(region, REPEATS, epsilon="3"))
        staying = [each for each in region.customers if region.registrar.consents(each)][:100]
        others = sorted(set(region.customers) - set(staying))
        only_training = {FEDERATED_TRAINING: True, FEDERATED_ANALYTICS: False}
        region.registrar.record(
            [Choice.give(each, only_training) for each in others if region.registrar.consents(each)]
        )
        after = ask(region.engine, draft(region, REPEATS, epsilon="3"), anyway=True)
    first, second = (each[0].lines[0].value for each in (before, after))
    assert first is not None
    assert second is not None
    assert first > 220
    assert 80 < second < 120


def test_the_verifier_recomputes_what_was_spent_and_whom_it_was_over(
    federation: Federation, tmp_path: Path
) -> None:
    run_folder = tmp_path / "audited"
    run_folder.mkdir()
    with reopened(federation) as region:
        ask(region.engine, draft(region, REPEATS, SCENES), anyway=True)
        home = region.engine.home
        (plan,) = home.permits.glob("*.plan.json")
        write_bundle(
            run_folder,
            federation=home.federation,
            run=plan.name.removesuffix(".plan.json"),
            registry=registry_envelopes(home.registry),
            plan=plan.read_bytes(),
            logs={home.region: region.engine.log},
            artifacts=[],
            signer=home.signer("controller"),
            created_at_ms=now_ms(),
        )
    verdict = verify_bundle(run_folder)
    # There is no server's log, and nobody else has seen this one: nothing else is wrong.
    assert {failure.step for failure in verdict.failures} <= {8}
    assert verdict.steps[5].counts["answers"] == 2
    assert verdict.steps[6].counts["charges"] == 2


def test_what_noise_would_swamp_is_said_before_anything_is_spent(federation: Federation) -> None:
    with reopened(federation) as region:
        size = region.engine.log.size
        asked = draft(region, CATEGORIES, SCENES, epsilon="0.5")
        (categories, scenes) = expect(region.engine, asked)
        assert categories.swamped
        assert scenes.swamped
        assert categories.customers == 256
        with pytest.raises(BudgetError, match="Nothing was spent: noise would swamp"):
            ask(region.engine, asked)
        assert region.engine.log.size == size
        assert region.engine.ledger.charges == ()


def test_a_question_that_the_policy_forbids_is_refused_and_costs_nothing(
    federation: Federation,
) -> None:
    folder, set_ups = federation
    with open_region(home_of(folder), set_ups[0]) as region:
        policy = {**region.engine.policy.to_record(), "queries": {CATEGORIES: "1"}}
        sign_policy(region.engine.home, region.engine.log, RegionPolicy.model_validate(policy))
    with reopened(federation) as region:
        for names, epsilon, field in (
            ((REPEATS,), "1", "queries = repeat-purchases"),
            ((CATEGORIES,), "2", "queries.category-customers"),
        ):
            with pytest.raises(PolicyError, match=field):
                ask(region.engine, draft(region, *names, epsilon=epsilon), anyway=True)
        assert region.engine.ledger.charges == ()


def test_a_budget_that_cannot_pay_pays_nothing(federation: Federation) -> None:
    folder, set_ups = federation
    with open_region(home_of(folder), set_ups[0]) as region:
        policy = {**region.engine.policy.to_record(), "epsilon_cap_per_year": "1"}
        sign_policy(region.engine.home, region.engine.log, RegionPolicy.model_validate(policy))
    with reopened(federation) as region:
        with pytest.raises(BudgetError, match="cannot pay"):
            ask(region.engine, draft(region, REPEATS))
        assert region.engine.ledger.charges == ()


def test_nobody_who_consents_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    folder, _, set_ups = make_federation(tmp_path / "run", regions=1, quorum=1, customers=5)
    with open_region(home_of(folder), set_ups[0]) as region:
        allowed = {"queries": dict.fromkeys(ASKABLE, "8")}
        policy = RegionPolicy.model_validate({**region.engine.policy.to_record(), **allowed})
        sign_policy(region.engine.home, region.engine.log, policy)
    with open_region(home_of(folder), set_ups[0]) as region:
        with pytest.raises(ConsentError):
            ask(region.engine, draft(region, REPEATS), anyway=True)
        assert region.engine.ledger.charges == ()


class KilledError(BaseException):
    """The process ends here."""


def test_interrupted_it_goes_on_and_charges_nothing_twice(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(at: failpoints.AnyPoint) -> None:
        if at == AnswerPoint.ANSWER_SEALED:
            raise KilledError

    with reopened(federation) as region:
        asked = draft(region, CATEGORIES, REPEATS)
        with monkeypatch.context() as patch:
            patch.setattr(failpoints, "hook", kill)
            with pytest.raises(KilledError):
                ask(region.engine, asked, anyway=True)
    with reopened(federation) as region:
        query = unfinished(region.engine, asked)
        assert query is not None
        # Another window is another question.
        assert unfinished(region.engine, replace(asked, start_ms=asked.start_ms + 1)) is None
        done = ask(region.engine, asked)
        assert {each.query.permit_id for each in done} == {query.permit_id}
        assert len(region.engine.ledger.charges) == 2
        # What is whole is not gone on with: to ask again is to spend again.
        assert unfinished(region.engine, asked) is None


@pytest.mark.parametrize(
    ("names", "words"), [(("everything",), "nothing that can"), ((REPEATS, REPEATS), "twice")]
)
def test_what_cannot_be_asked_is_refused(names: tuple[str, ...], words: str) -> None:
    catalogue = Catalogue.of(["a"], category=["food"])
    with pytest.raises(InputError, match=words):
        statistics(names, catalogue, CLOCK, start_ms=0, end_ms=1)


def test_an_empty_window_is_refused() -> None:
    catalogue = Catalogue.of(["a"], category=["food"])
    with pytest.raises(InputError, match="window"):
        statistics((REPEATS,), catalogue, CLOCK, start_ms=1, end_ms=1)
