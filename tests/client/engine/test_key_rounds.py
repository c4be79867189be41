"""A round of keys in the engine: its δ in permit, charge and log, and the guard before the door."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.tables.declaration import declaration_file
from client.engine import round_release
from client.engine import round_training as module
from client.engine.charging import Charging
from client.engine.policy import RegionPolicy
from client.engine.policy_desk import sign_policy
from client.engine.round_training import RoundTraining
from common.analytics.key_arrays import packed_keys, unpacked_keys
from common.analytics.key_questions import SEARCH_TERMS, search_terms
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import InputError, PolicyError
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.privacy import epsilon_gaussian
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask
from tests.support.keyed_federation import keyed_plan, make_keyed
from tests.support.small_federation import home_of

PLAN = keyed_plan((SEARCH_TERMS,), regions=["region-1"], quorum=1)
MECHANISM = PLAN.mechanism_of(1)
LEAST = search_terms().least_released(MECHANISM.noise_stddev, MECHANISM.grid_exponent)
Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
Header = dict[str, JsonValue]


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_keyed(tmp_path_factory.mktemp("keyed") / "run", PLAN)


@pytest.fixture
def folder(provisioned: Federation, tmp_path: Path) -> RunFolder:
    shutil.copytree(provisioned[0].root, tmp_path / "run", symlinks=True)
    return RunFolder(tmp_path / "run")


@pytest.fixture
def region(folder: RunFolder, provisioned: Federation) -> Iterator[OpenRegion]:
    with open_region(home_of(folder), provisioned[2][0]) as opened:
        yield opened


def header(**changes: JsonValue) -> Header:
    request: Header = {
        "run": PLAN.run_id,
        "round": 1,
        "attempt": 1,
        "mechanism": SEARCH_TERMS,
        "plan": PLAN.digest,
        "cosignatures": [],
    }
    return request | changes


def records(log: AuditLog, kind: str) -> list[Any]:
    found = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in found if each.kind == kind]


def keys(**values: float) -> dict[str, np.ndarray]:
    return packed_keys(search_terms(), [*values], np.array([*values.values()], dtype=np.float32))


def test_the_delta_for_keys_is_permitted_charged_and_logged(region: OpenRegion) -> None:
    reply, arrays = ask(region.engine, header(), {})
    assert reply["status"] == "ok"
    found, _ = unpacked_keys(search_terms(), arrays)
    # What everybody searches for, in one spelling; nobody's own words.
    assert found == ("bread", "milk")
    (charge,) = region.engine.ledger.charges
    assert charge.request.key_delta == "0.00000001"
    log = region.engine.log
    (permit,), (logged,) = records(log, "permit"), records(log, "charge")
    (entry,), (release,) = records(log, "round"), records(log, "release")
    stated = (permit["mechanisms"][0], logged, entry["dp"])
    assert [each["key_delta"] for each in stated] == ["0.00000001"] * 3
    assert release["update"] == arrays_digest(arrays) == reply["update"]
    # What the ledger says was spent is reckoned at the rest of δ.
    least = epsilon_gaussian(float(MECHANISM.noise_multiplier), 1e-6 - 1e-8)
    assert float(logged["epsilon_run"]) == pytest.approx(least, rel=1e-4)
    assert float(logged["epsilon_run"]) >= least


def test_a_repeated_request_gets_the_same_keys_and_no_second_charge(region: OpenRegion) -> None:
    first, second = (ask(region.engine, header(), {})[1] for _ in range(2))
    assert arrays_digest(first) == arrays_digest(second)
    assert len(region.engine.ledger.charges) == 1


def test_a_region_without_searches_refuses_before_a_charge(
    folder: RunFolder, provisioned: Federation
) -> None:
    file = declaration_file(home_of(folder))
    whole = file.read_text(encoding="utf-8")
    for declared, words in (
        (None, "declares no table events"),
        (whole.replace('query = "words"\n', ""), "has no column query"),
    ):
        if declared is None:
            file.unlink()
        else:
            file.write_text(declared, encoding="utf-8")
        with open_region(home_of(folder), provisioned[2][0]) as region:
            with pytest.raises(InputError, match=f"noise alone: it.* {words}"):
                region.engine.preflight(PLAN)
            assert ask(region.engine, header(), {})[1] == {}
            assert region.engine.ledger.charges == ()


@pytest.mark.parametrize(
    ("allowed", "words"),
    [({"nps": "8"}, "server_queries = search-terms"), ({SEARCH_TERMS: "39.99"}, "at most 39.99")],
)
def test_a_policy_that_does_not_name_it_or_not_for_so_much_ends_the_permit(
    allowed: dict[str, str], words: str, folder: RunFolder, provisioned: Federation
) -> None:
    with open_region(home_of(folder), provisioned[2][0]) as region:
        changed = region.engine.policy.to_record() | {"server_queries": {**allowed}}
        sign_policy(region.engine.home, region.engine.log, RegionPolicy.model_validate(changed))
    with open_region(home_of(folder), provisioned[2][0]) as region:
        with pytest.raises(PolicyError, match=words):
            region.engine.preflight(PLAN)
        assert region.engine.call("train", header(), {})[0]["reason"] == "not-permitted"
        assert region.engine.ledger.charges == ()


def test_the_policys_cap_on_a_question_is_at_the_delta_that_is_left(region: OpenRegion) -> None:
    """At the whole of δ the question would be within the cap."""
    noise = float(MECHANISM.noise_multiplier)
    whole, left = (epsilon_gaussian(noise, delta) for delta in (1e-6, 1e-6 - 1e-8))
    assert left > whole
    policy = region.engine.policy.model_copy(
        update={"server_queries": {SEARCH_TERMS: repr((whole + left) / 2)}}
    )
    with pytest.raises(PolicyError, match=r"server_queries\.search-terms"):
        policy.check_plan(PLAN)


# -- the guard, whatever the engine makes ----------------------------------------------------------

WRONG: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a lowered threshold": lambda _: keys(milk=50.0, hers=LEAST - 2.0**-10),
    "no noise": lambda _: keys(milk=50.0, hers=0.5),
    "keys without values": lambda given: {**given, "search_terms": np.zeros(256, np.float32)},
    "no UTF-8": lambda given: {
        **given,
        "search_terms_keys": np.where(given["search_terms_keys"] != 0, -1, 0).astype("<i4"),
    },
    "more than keys": lambda given: given | {"raw": np.ones(4, np.float32)},
    "a longer key": lambda given: {
        **given,
        "search_terms_keys": np.zeros((256, 17), dtype="<i4"),
    },
    "values alone": lambda given: {"search_terms": given["search_terms"]},
    "off the grid": lambda _: {
        **keys(milk=50.0),
        "search_terms": keys(milk=50.3)["search_terms"],
    },
}


@pytest.mark.parametrize("where", ["made", "sealed"])
def test_what_is_no_answer_of_keys_never_leaves(
    where: str, region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor if the engine's own look at it were gone: the guard reads it anew."""
    whole = round_release.key_answer
    for what, values in WRONG.items():
        with monkeypatch.context() as patch:
            patch.setattr(
                round_release,
                "key_answer",
                lambda *given, made=values, **named: made(whole(*given, **named)),
            )
            if where == "sealed":
                patch.setattr(module, "check_release", lambda *given, **named: None)
            reply, arrays = ask(region.engine, header(), {})
            assert (reply["status"], arrays) == ("refused", {}), what
        if where == "sealed":
            # It was sealed, so it is what the charge paid for: it stays where it is.
            assert ask(region.engine, header(), {})[1] == {}
            break
    assert len(region.engine.ledger.charges) == 1


def test_an_answer_that_was_not_charged_for_its_keys_is_kept_back(
    region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's row is read from disk: one without the δ for keys has not paid for them."""
    whole = Charging.charge

    def charge(self: Charging, request: Any, permit: Any, mechanism: Any, **named: Any) -> Any:
        bare = mechanism.model_copy(update={"key_delta": "0"})
        return whole(self, request, permit, bare, **named)

    monkeypatch.setattr(Charging, "charge", charge)
    reply, arrays = ask(region.engine, header(), {})
    assert (reply["reason"], arrays) == ("egress-refused", {})


def test_keys_in_the_place_of_others_are_kept_back(
    region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RoundTraining.train

    def train(self: RoundTraining, *given: Any) -> Any:
        reply, _ = whole(self, *given)
        return reply, keys(somebody=LEAST)

    monkeypatch.setattr(RoundTraining, "train", train)
    reply, arrays = ask(region.engine, header(), {})
    assert (reply["reason"], arrays) == ("egress-refused", {})


def test_a_permit_for_another_delta_is_none(
    folder: RunFolder, provisioned: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan whose keys may pass more often than was permitted is another plan."""
    record: Any = PLAN.to_record()
    record["mechanisms"][0]["key_delta"] = "0.000000009"
    record["questions"][0]["question"]["key_delta"] = "9e-09"
    record["questions"][0]["parameters"]["key_delta"] = "9e-09"
    other = RunPlan.from_record(record)
    assert other.question(SEARCH_TERMS).asked == search_terms(9e-9)
    with open_region(home_of(folder), provisioned[2][0]) as region:
        with pytest.raises(PolicyError, match="another plan"):
            region.engine.preflight(other)
