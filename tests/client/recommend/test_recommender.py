"""The recommender of one region: consent, live events, bad input, and what goes wrong around it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.consent_service.registrar import Choice
from client.engine.home import RegionHome
from client.recommend import recommender as recommender_module
from client.recommend.exposure import Exposure, ExposureLog
from client.recommend.recommender import Recommender
from client.recommend.release import MODEL_NAME, release_folder
from client.recommend.served import Served
from client.recommend.settings import RecommendSettings
from client.recommend.types import (
    MAX_K,
    NOT_PERSONAL,
    REASON_CODES,
    Answer,
    Event,
    Query,
    Recommended,
    RecommenderClosedError,
    Recommends,
    RefreshRunningError,
    Scene,
    UnknownItemError,
)
from common.catalogue import Catalogue
from common.errors import FedprefError, InputError, StorageError, VerificationError
from common.timestamps import now_ms
from tests.support.preference_data import END_MS
from tests.support.region_home import ALL
from tests.support.served_region import (
    CATALOGUE,
    N_ITEMS,
    SETTINGS,
    PublishedFiles,
    choose,
    make_served_region,
    model_arrays,
    model_plan,
    opened,
    withdraw,
    without_recommendations,
    write_store,
)

FORM = ("items", "personal", "why_not_personal", "model", "variant", "consent_size")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    return make_served_region(tmp_path_factory.mktemp("served") / "home")


@pytest.fixture(scope="module")
def serving(made: RegionHome) -> Iterator[Recommender]:
    """For tests that change nothing but customers' live events, each their own customer's."""
    recommender = opened(made)
    yield recommender
    recommender.close()


@pytest.fixture
def home(made: RegionHome, tmp_path: Path) -> RegionHome:
    """A region of one's own."""
    shutil.copytree(made.root, tmp_path / "home", symlinks=True)
    return replace(made, root=tmp_path / "home")


def names(answer: Answer | tuple[Recommended, ...]) -> list[str]:
    return [each.item for each in (answer.items if isinstance(answer, Answer) else answer)]


def numbers(answer: Answer) -> list[int]:
    return [CATALOGUE.index_of[item] for item in names(answer)]


def ask(recommender: Recommender, customer: str | None, **fields: Any) -> Answer:
    return recommender.recommend(Query(customer, **fields))


def event(customer: str, kind: Any, item: int | None = None, **fields: Any) -> Event:
    name = None if item is None else CATALOGUE.items[item]
    return Event(customer, kind, name, fields.get("category"), fields.get("at_ms", now_ms()))


def test_it_keeps_the_protocol(serving: Recommender) -> None:
    assert isinstance(serving, Recommends)
    assert serving.model == serving.served.release.digest
    assert serving.faults == ()


def test_a_customer_gets_a_list_of_her_own_with_reasons(serving: Recommender) -> None:
    answer = ask(serving, "ada")
    assert (answer.personal, answer.why_not_personal, answer.variant) == (True, None, "none")
    assert {0, 1, 6, 7, 12} <= set(numbers(answer))
    assert len(answer.items) == 10
    for each in answer.items:
        assert each.reasons
        assert {reason.code for reason in each.reasons} <= set(REASON_CODES)
    assert answer.items[0].reasons[0].code == "bought-before"
    assert [each.score for each in answer.items] == sorted(
        (each.score for each in answer.items), reverse=True
    )
    fresh = ask(serving, "ada", new_only=True)
    assert not set(numbers(fresh)) & {0, 1, 6, 7, 12, 18}
    likes = [each.reasons[0] for each in fresh.items if each.reasons[0].code == "like"]
    # What she has not bought is like something that she has; reasons name nothing else of hers.
    assert {reason.about for reason in likes} <= {
        CATALOGUE.items[item] for item in (0, 1, 6, 7, 12, 18)
    }
    assert likes


def test_everybody_else_gets_popularity_of_the_same_form(serving: Recommender) -> None:
    plain = ask(serving, None)
    found = {
        "no-customer": plain,
        "unknown-customer": ask(serving, "nobody-we-know"),
        "no-consent": ask(serving, "cy"),
        "no-history": ask(serving, "new"),
    }
    for why, answer in found.items():
        assert (answer.personal, answer.why_not_personal) == (False, why)
        assert why in NOT_PERSONAL
        assert answer.items == plain.items
        assert tuple(vars(answer)) == FORM
        assert answer.consent_size == plain.consent_size > 0
    popular = serving.served.tables.by_popularity[:10].tolist()
    assert numbers(plain) == popular
    assert {each.reasons[0].code for each in plain.items} == {"popular"}


def test_a_withdrawal_while_serving_takes_effect_on_the_next_request(home: RegionHome) -> None:
    recommender = opened(home)
    assert ask(recommender, "ada").personal
    assert recommender.history("ada")
    assert recommender.observe(event("ada", "view", 9))
    withdraw(home, "ada")
    answer = ask(recommender, "ada")
    assert (answer.personal, answer.why_not_personal) == (False, "no-consent")
    assert answer.items == ask(recommender, None).items
    assert recommender.history("ada") == ()
    assert not recommender.observe(event("ada", "view", 9))
    assert recommender.customers(10) == ("bo",)
    # Other customers notice nothing; and what she had done is forgotten should she come back.
    assert ask(recommender, "bo").personal
    choose(home, Choice.give("ada", ALL))
    again = ask(recommender, "ada")
    assert again.personal
    assert "viewed" not in {reason.code for each in again.items for reason in each.reasons}
    without_recommendations(home, "bo")
    assert ask(recommender, "bo").why_not_personal == "no-consent"
    recommender.close()


def test_a_refresh_keeps_nothing_of_whoever_withdrew(home: RegionHome) -> None:
    recommender = opened(home)
    sid = recommender.gate.judge("ada").sid
    assert sid is not None
    assert recommender.served.histories.row(sid).n_customers == 1
    withdraw(home, "ada")
    recommender.refresh()
    assert recommender.served.histories.row(sid).n_customers == 0
    choose(home, Choice.give("cy", ALL))
    assert ask(recommender, "cy").why_not_personal == "no-history"
    recommender.refresh()
    assert ask(recommender, "cy").personal
    recommender.close()


def test_a_phone_viewed_brings_phones_up_at_once(home: RegionHome) -> None:
    recommender = opened(home)

    def phones(answer: Answer) -> int:
        return sum(number % 6 == 3 for number in numbers(answer))

    before, others = ask(recommender, "ada"), ask(recommender, "bo")
    assert recommender.observe(event("ada", "view", 9))
    after = ask(recommender, "ada")
    assert phones(after) > phones(before)
    raised = next(each for each in after.items if each.item == CATALOGUE.items[9])
    assert ("viewed", CATALOGUE.items[9]) in {(each.code, each.about) for each in raised.reasons}
    # Nobody else's list moves; nor does a customer without consent have events.
    assert ask(recommender, "bo") == others
    assert not recommender.observe(event("cy", "view", 9))
    assert not recommender.observe(event("nobody-we-know", "view", 9))
    recommender.close()


def test_someone_new_is_known_by_her_first_event(home: RegionHome) -> None:
    recommender = opened(home)
    assert ask(recommender, "new").why_not_personal == "no-history"
    assert recommender.observe(event("new", "search", category="tea"))
    answer = ask(recommender, "new")
    assert answer.personal
    assert numbers(answer)[0] % 6 == 4
    assert answer.items[0].reasons[0].code == "searched"
    assert answer.items[0].reasons[0].about == "tea"
    recommender.close()


def test_a_purchase_counts_as_the_stores_would(home: RegionHome) -> None:
    """Observed, or found in the store at the window's end: the same list."""
    recommender = opened(home)
    assert recommender.observe(event("bo", "purchase", 5))
    live = ask(recommender, "bo")
    assert recommender.history("bo")[0][0] == CATALOGUE.items[5]
    from tests.support.served_region import SALES

    write_store(home, [*SALES, ("bo", 5, 1e-6)])
    stored = opened(home)
    assert names(ask(stored, "bo")) == names(live)
    # A refreshed recommender has it from both, and counts it once.
    days = 86_400_000
    at_end = Recommender.open(home, SETTINGS, clock_ms=lambda: END_MS + days // 2)
    assert at_end.observe(event("bo", "purchase", 5, at_ms=END_MS))
    assert names(ask(at_end, "bo")) == names(live)
    for each in (recommender, stored, at_end):
        each.close()


def test_three_carts_abandoned_in_a_row_do_what_is_configured(home: RegionHome) -> None:
    recommender = opened(home)
    plain = ask(recommender, "ada")
    assert CATALOGUE.items[0] in names(plain)
    for number in range(3):
        at_ms = now_ms() - 1000 * (10 - number)
        assert recommender.observe(event("ada", "cart", 0, at_ms=at_ms))
        assert recommender.observe(event("ada", "abandon", at_ms=at_ms + 1))
    answer = ask(recommender, "ada", k=20)
    assert CATALOGUE.items[0] not in names(answer)
    about = {
        reason for each in answer.items for reason in each.reasons if reason.code == "abandoned"
    }
    assert {reason.about for reason in about} == {CATALOGUE.items[0]}
    recommender.close()


def test_histories_are_latest_first_and_hers_alone(serving: Recommender) -> None:
    history = serving.history("ada")
    assert [item for item, _ in history[:5]] == [CATALOGUE.items[i] for i in (12, 7, 6, 1, 0)]
    assert history[-1][0] == CATALOGUE.items[18]
    times = [at_ms for _, at_ms in history]
    assert times == sorted(times, reverse=True)
    assert serving.history("cy") == serving.history("nobody-we-know") == ()
    hers = {item for item, _ in serving.history("ada")}
    assert not hers & {item for item, _ in serving.history("bo")}


def test_no_answer_depends_on_another_customers_purchases(made: RegionHome, tmp_path: Path) -> None:
    """Joint privacy: ada's list is the same whatever bo has bought, or whether he exists."""
    from tests.support.served_region import SALES

    lists = []
    for number, changed in enumerate(
        ([], [("bo", item, 0.1) for item in range(0, N_ITEMS, 2)], [("zoe", 3, 0.01)])
    ):
        root = tmp_path / str(number)
        shutil.copytree(made.root, root, symlinks=True)
        region = replace(made, root=root)
        shutil.rmtree(region.prepared, ignore_errors=True)
        ada = [sale for sale in SALES if sale[0] == "ada"]
        write_store(region, [*ada, *changed])
        recommender = opened(region)
        lists.append((ask(recommender, "ada").items, ask(recommender, None).items))
        recommender.close()
    assert lists[0] == lists[1] == lists[2]


def test_unknown_items_are_told_of_and_tell_nothing_of_customers(serving: Recommender) -> None:
    messages = set()
    for customer in ("ada", "cy", "nobody-we-know"):
        with pytest.raises(UnknownItemError) as error:
            serving.observe(Event(customer, "view", "unheard-of", None, now_ms()))
        messages.add(str(error.value))
        with pytest.raises(UnknownItemError):
            serving.observe(Event(customer, "search", None, "unheard-of", now_ms()))
    assert len(messages) == 1
    for question in (serving.similar, serving.also_bought):
        with pytest.raises(UnknownItemError):
            question("unheard-of", 5)
    # Among exclusions and stock an unknown item is no error: it is not shown either way.
    answer = ask(serving, "ada", exclude=frozenset({"unheard-of"}))
    assert answer.items == ask(serving, "ada").items


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1, True, 2.0, float("nan"), None])
def test_a_list_of_no_possible_length_is_refused(serving: Recommender, k: Any) -> None:
    with pytest.raises(InputError):
        ask(serving, "ada", k=k)
    for question in (serving.similar, serving.also_bought):
        with pytest.raises(InputError):
            question(CATALOGUE.items[0], k)


def test_a_list_is_not_longer_than_the_catalogue(serving: Recommender) -> None:
    for customer in ("ada", "new", None):
        answer = ask(serving, customer, k=MAX_K)
        assert sorted(numbers(answer)) == list(range(N_ITEMS))
    stocked = ask(serving, "ada", k=9, in_stock=frozenset({CATALOGUE.items[0], "unheard-of"}))
    assert names(stocked) == [CATALOGUE.items[0]]
    assert ask(serving, "ada", in_stock=frozenset()).items == ()
    assert len(serving.similar(CATALOGUE.items[0], MAX_K)) < N_ITEMS


@pytest.mark.parametrize(
    "fields",
    [
        {"customer": ""},
        {"customer": "a\x00b"},
        {"customer": "\ud800"},
        {"customer": "é" * 200},
        {"customer": 7},
        {"diversity": float("nan")},
        {"diversity": 1.5},
        {"scene": "evening"},
    ],
)
def test_a_malformed_query_is_refused(serving: Recommender, fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        serving.recommend(Query(**{"customer": "ada", **fields}))


def test_scenes_are_those_of_the_settings(serving: Recommender) -> None:
    evening = Scene("evening", 6, None)
    assert ask(serving, "ada", scene=evening).items == ask(serving, "ada").items
    for scene in (Scene(daypart="tea-time"), Scene(store_type="kiosk")):
        with pytest.raises(InputError, match="is not known"):
            ask(serving, "ada", scene=scene)
    for weekday in (7, -1, True):
        with pytest.raises(InputError, match="weekday"):
            Scene(weekday=weekday)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "stolen"},
        {"item": None},
        {"at_ms": -1},
        {"at_ms": 1 << 53},
        {"at_ms": 1.5},
        {"customer": "\n"},
    ],
)
def test_a_malformed_event_is_refused(fields: dict[str, Any]) -> None:
    plain = {"customer": "ada", "kind": "view", "item": "item-01", "category": None, "at_ms": 1}
    with pytest.raises(InputError):
        Event(**{**plain, **fields})


def test_events_of_another_time_do_not_stay(home: RegionHome) -> None:
    recommender = opened(home)
    assert not recommender.observe(event("bo", "view", 9, at_ms=1_000))
    # A clock that is ahead: the event counts as of now.
    assert recommender.observe(event("bo", "view", 9, at_ms=now_ms() + 10**9))
    sid = recommender.gate.judge("bo").sid
    assert sid is not None
    (kept,) = recommender._live.of(sid, now_ms())
    assert kept.at_ms <= now_ms()
    recommender.close()


def test_similar_and_bought_together(serving: Recommender) -> None:
    similar = serving.similar(CATALOGUE.items[0], 5)
    assert len(similar) == 5
    assert CATALOGUE.items[0] not in names(similar)
    assert all(CATALOGUE.index_of[item] % 6 == 0 for item in names(similar)[:3])
    assert similar[0].reasons[0].code == "like"
    also = serving.also_bought(CATALOGUE.items[0], 5)
    assert CATALOGUE.items[0] not in names(also)
    assert len(also) == 5
    assert also[0].reasons[0].about == CATALOGUE.items[0]
    # Outside the model's vocabulary the catalogue has to do.
    rare = serving.similar(CATALOGUE.items[52], 5)
    assert {CATALOGUE.index_of[item] % 6 for item in names(rare)} == {4}
    assert names(serving.also_bought(CATALOGUE.items[52], 5)) == names(rare)


def test_a_region_where_nobody_has_bought_anything_is_served(home: RegionHome) -> None:
    """A cold region: a store with another's customers only, and one that cannot be read."""
    write_store(home, [("zoe", 3, 2.0)])
    shutil.rmtree(home.prepared, ignore_errors=True)
    cold = opened(home)
    answer = ask(cold, "ada")
    assert (answer.personal, answer.why_not_personal) == (False, "cold-region")
    assert answer.items == ask(cold, None).items
    assert cold.observe(event("ada", "view", 9))
    assert ask(cold, "ada").personal
    cold.close()
    (home.source.parent / "sales.csv").unlink()
    shutil.rmtree(home.prepared, ignore_errors=True)
    without = opened(home)
    assert ask(without, "ada").why_not_personal == "cold-region"
    assert len(without.faults) == 1
    without.close()


def test_a_region_without_any_consent_is_served(tmp_path: Path) -> None:
    recommender = opened(make_served_region(tmp_path / "home", consenting=()))
    assert ask(recommender, "ada").why_not_personal == "unknown-customer"
    assert ask(recommender, "cy").why_not_personal == "no-consent"
    assert recommender.customers(5) == ()
    assert recommender.consenting().customer_refs == frozenset()
    recommender.close()


def test_a_catalogue_out_of_step_with_the_model_is_not_served(home: RegionHome) -> None:
    labels = [CATALOGUE.category_names[code] for code in CATALOGUE.category]
    Catalogue.of(CATALOGUE.items, category=labels[::-1]).save(home.catalogue)
    with pytest.raises(VerificationError, match="another catalogue"):
        opened(home)
    Catalogue.of(CATALOGUE.items[:-1], category=labels[:-1]).save(home.catalogue)
    with pytest.raises(VerificationError, match="another catalogue"):
        opened(home)


def test_a_tampered_release_is_neither_opened_nor_taken_up(home: RegionHome) -> None:
    recommender = opened(home)
    plan = model_plan()
    newer = PublishedFiles(plan, model_arrays(plan, seed=8))
    newer.put(home)
    assert recommender.model != newer.digest
    recommender.refresh()
    assert recommender.model == newer.digest
    before = ask(recommender, "ada")
    path = release_folder(home) / newer.digest / MODEL_NAME
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(VerificationError, match="is not served"):
        recommender.refresh()
    # What was verified when it was loaded goes on; a new start does not get so far.
    assert ask(recommender, "ada") == before
    recommender.close()
    with pytest.raises(VerificationError, match="is not served"):
        opened(home)


def test_a_model_of_another_run_is_not_served(home: RegionHome) -> None:
    asked = RecommendSettings.model_validate({"model": {"run": "run-7"}})
    with pytest.raises(VerificationError, match="run-7"):
        Recommender.open(home, asked)


def test_scores_that_are_no_numbers_make_way_for_popularity(
    home: RegionHome, caplog: pytest.LogCaptureFixture
) -> None:
    recommender = opened(home)
    served = recommender.served
    broken = replace(served.tables, factors=np.full_like(served.tables.factors, np.nan))
    recommender._served = replace(served, tables=broken)
    answer = ask(recommender, "ada")
    assert (answer.personal, answer.why_not_personal) == (False, "scores-not-finite")
    assert answer.items == ask(recommender, None).items
    assert "Popularity is shown instead" in caplog.text
    also = recommender.also_bought(CATALOGUE.items[0], 3)
    assert names(also) == names(recommender.similar(CATALOGUE.items[0], 3))
    recommender.close()


def test_consents_that_cannot_be_read_are_nobodys(home: RegionHome) -> None:
    recommender = opened(home)
    for path in home.root.glob("log.sqlite*"):
        path.rename(path.with_name(f"away-{path.name}"))
    answer = ask(recommender, "ada")
    assert (answer.why_not_personal, answer.consent_size) == ("consents-unreadable", 0)
    assert answer.items == ask(recommender, None).items
    assert recommender.history("ada") == ()
    assert recommender.faults
    recommender.close()


def test_without_a_model_nothing_is_served(home: RegionHome) -> None:
    shutil.rmtree(release_folder(home))
    with pytest.raises(InputError, match="recommend install"):
        opened(home)


def test_a_closed_recommender_says_so(home: RegionHome) -> None:
    recommender = opened(home)
    recommender.close()
    recommender.close()
    for question in (
        lambda: ask(recommender, None),
        lambda: recommender.similar(CATALOGUE.items[0], 3),
        lambda: recommender.history("ada"),
        lambda: recommender.observe(event("ada", "view", 1)),
        recommender.refresh,
    ):
        with pytest.raises(RecommenderClosedError):
            question()


def test_many_threads_ask_observe_withdraw_and_refresh(home: RegionHome) -> None:
    recommender = opened(home)
    hers = {item for item, _ in recommender.history("ada")}
    faults: list[BaseException] = []
    stop = threading.Event()

    def work(customer: str) -> None:
        try:
            while not stop.is_set():
                recommender.observe(event(customer, "view", 9))
                answer = ask(recommender, customer)
                told = {each.about for item in answer.items for each in item.reasons}
                if customer == "bo" and told & hers:
                    raise AssertionError(f"bo was told of ada's {told & hers}")
        except (FedprefError, AssertionError) as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ada", "bo", "cy")]
    for thread in threads:
        thread.start()
    withdraw(home, "ada")
    recommender.refresh()
    assert ask(recommender, "ada").why_not_personal == "no-consent"
    choose(home, Choice.give("ada", ALL))
    recommender.refresh()
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
    assert not faults
    assert ask(recommender, "ada").personal
    recommender.close()


def experiment(*arms: dict[str, Any], name: str = "trial") -> RecommendSettings:
    return RecommendSettings.model_validate(
        {"history": {"until": "model"}, "experiment": {"name": name, "arms": list(arms)}}
    )


HALVES = (
    {"name": "usual", "share": 0.5, "method": "history"},
    {"name": "popular", "share": 0.5, "method": "popular"},
)


def exposures(recommender: Recommender, name: str = "trial") -> list[Exposure]:
    assert recommender._exposures is not None
    return list(recommender._exposures.all(name))


def test_each_customer_stays_in_an_arm_and_what_she_saw_is_logged(tmp_path: Path) -> None:
    several = tuple(f"customer-{number}" for number in range(12))
    sales = tuple((customer, 7, 2.0) for customer in several)
    home = make_served_region(tmp_path / "home", sales=sales, consenting=(*several, "new"))
    recommender = opened(home, experiment(*HALVES))
    arms: dict[str, set[str]] = {}
    for customer in several * 2:
        answer = ask(recommender, customer, k=3)
        arms.setdefault(customer, set()).add(answer.variant)
        popular = answer.variant == "popular"
        assert answer.personal is not popular
        assert answer.why_not_personal == ("experiment" if popular else None)
        assert (names(answer)[0] == CATALOGUE.items[7]) is not popular
    assert all(len(each) == 1 for each in arms.values())
    assert set.union(*arms.values()) == {"usual", "popular"}
    # Nobody else is in it, nor in the log: the one who refused, the unknown, nobody at all.
    for other in ("cy", "nobody-we-know", None):
        assert ask(recommender, other).variant == "none"
    logged = exposures(recommender)
    assert len(logged) == 24
    assert {each.arm for each in logged} == {"usual", "popular"}
    assert all(len(each.items) == 3 for each in logged)
    recommender.close()


def test_what_only_the_operator_looks_at_is_no_exposure(home: RegionHome) -> None:
    recommender = opened(home, experiment(*HALVES))
    looked = recommender.recommend(Query("ada", dry=True))
    assert exposures(recommender) == []
    # It is what she is shown all the same.
    assert recommender.recommend(Query("ada")) == looked
    assert len(exposures(recommender)) == 1
    recommender.close()


def test_an_arm_may_leave_live_events_out(home: RegionHome) -> None:
    arms = ({"name": "a", "share": 0.5, "live": False}, {"name": "b", "share": 0.5, "live": False})
    recommender = opened(home, experiment(*arms))
    before = ask(recommender, "bo").items
    assert recommender.observe(event("bo", "view", 9))
    assert ask(recommender, "bo").items == before
    wide = (
        {"name": "a", "share": 0.5, "diversity": 1.0},
        {"name": "b", "share": 0.5, "diversity": 1.0},
    )
    spread = opened(home, experiment(*wide))
    kinds = [number % 6 for number in numbers(ask(spread, "bo", k=5))]
    assert len(set(kinds)) == 5
    for each in (recommender, spread):
        each.close()


def test_a_refresh_takes_out_the_exposures_of_whoever_withdrew(home: RegionHome) -> None:
    recommender = opened(home, experiment(*HALVES))
    ask(recommender, "ada")
    ask(recommender, "bo")
    assert len(exposures(recommender)) == 2
    withdraw(home, "ada")
    recommender.refresh()
    (left,) = exposures(recommender)
    bo = recommender.gate.judge("bo").sid
    assert recommender._assignment is not None
    assert left.customer == recommender._assignment.pseudonym(str(bo))
    recommender.close()


def test_a_refresh_does_not_wait_for_another(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = opened(home)
    begun, go_on = threading.Event(), threading.Event()
    load = recommender_module.load_served

    def slow(*args: Any, **options: Any) -> Served:
        begun.set()
        assert go_on.wait(60)
        return load(*args, **options)

    monkeypatch.setattr(recommender_module, "load_served", slow)
    with ThreadPoolExecutor(2) as others:
        running = others.submit(recommender.refresh)
        try:
            assert begun.wait(60)
            waited = others.submit(recommender.refresh)
            with pytest.raises(RefreshRunningError):
                waited.result(timeout=30)
        finally:
            go_on.set()
        running.result(timeout=60)
    # The one that is through leaves the way free.
    recommender.refresh()
    recommender.close()


def test_a_start_takes_out_the_exposures_of_whoever_withdrew_meanwhile(home: RegionHome) -> None:
    recommender = opened(home, experiment(*HALVES))
    ask(recommender, "ada")
    ask(recommender, "bo")
    recommender.close()
    withdraw(home, "ada")
    again = opened(home, experiment(*HALVES))
    assert again._assignment is not None
    kept = again._assignment.pseudonym(str(again.gate.judge("bo").sid))
    assert [each.customer for each in exposures(again)] == [kept]
    again.close()


def test_a_refresh_without_an_experiment_takes_out_the_exposures_of_the_last(
    home: RegionHome,
) -> None:
    recommender = opened(home, experiment(*HALVES))
    ask(recommender, "bo")
    recommender.close()
    without = opened(home)
    without.refresh()
    without.close()
    again = opened(home, experiment(*HALVES))
    assert exposures(again) == []
    again.close()


def test_a_disk_that_refuses_exposures_keeps_nobody_from_her_list(
    home: RegionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = opened(home, experiment(*HALVES))

    def full(log: ExposureLog, exposure: Exposure) -> None:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(ExposureLog, "add", full)
        assert len(ask(recommender, "bo").items) == 10
        assert recommender.faults == ("The disk is full.",)
    ask(recommender, "bo")
    assert recommender.faults == ()
    recommender.close()
