"""The engine's reading of a policy's bounds and the verifier's own agree, over drawn bounds."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from client.engine import policy
from client.engine.permit import CodeIdentity, make_permit
from client.engine.policy import RegionPolicy
from common.analytics.key_questions import SEARCH_TERMS
from common.audit.verify import policy_bounds
from common.audit.verify.fields import Record
from common.audit.verify.replay import Entry
from common.errors import PolicyError
from common.plan import RunPlan
from common.strategies import SUMS
from tests.client.engine.test_policy import POLICY, policy_of
from tests.support.asked_federation import NAMES, asked_plan
from tests.support.keyed_federation import keyed_plan
from tests.support.local_plan import local_plan

APP = "a" * 64
PLAN = local_plan()
PERMIT = make_permit(
    PLAN,
    policy_of(),
    CodeIdentity(app=APP, engine="e" * 64, deps="d" * 64),
    issued_at_ms=1_700_000_000_000,
    valid_for_s=60,
)


class PermitEntry:
    """A permit as the verifier has it, of which it reads the record and its lists."""

    record = PERMIT

    def parts(self, name: str) -> list[Record]:
        return cast("list[Record]", self.record[name])


def test_both_know_which_mechanisms_take_everyone() -> None:
    everyone = {"popularity", *SUMS}
    assert set(policy._FULL_BATCH) == everyone
    assert everyone == policy_bounds._FULL_BATCH


def engine_allows(policy: RegionPolicy, plan: RunPlan) -> bool:
    try:
        policy.check_plan(plan)
        policy.check_app(APP)
    except PolicyError:
        return False
    return True


def verifier_allows(policy: Record) -> bool:
    entry = cast("Entry", PermitEntry())
    bounds = [
        policy_bounds._at_most(PERMIT["epsilon_cap"], policy, "epsilon_max_per_run"),
        policy_bounds._app_allowed(entry, policy),
        policy_bounds._catalogue_allowed(PLAN.to_record(), policy),
        policy_bounds._arrays_allowed(entry, policy),
    ]
    for mechanism in entry.parts("mechanisms"):
        bounds += [
            holds
            for _, holds in policy_bounds._mechanism_bounds(
                mechanism, policy, full_batch=mechanism["name"] in policy_bounds._FULL_BATCH
            )
        ]
    return all(bounds)


def near(value: str) -> st.SearchStrategy[str]:
    """Decimals at, just below and just above a value."""
    return st.sampled_from([value, str(Decimal(value) * 2), str(Decimal(value) / 2)])


ARRAYS = [
    {"name": array["name"], "dtype": array["dtype"], "shape_max": array["shape"]}
    for array in cast("list[Record]", PERMIT["arrays"])
]


@st.composite
def array_bounds(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The permitted arrays' bounds, some of them widened, tightened, renamed or left out."""
    bounds = []
    for array in ARRAYS:
        shape = [max(1, length + draw(st.integers(-1, 1))) for length in array["shape_max"]]
        name = draw(st.sampled_from([array["name"], array["name"], array["name"], "another"]))
        dtype = draw(st.sampled_from(["<f4", "<f4", "<f4", "<i4"]))
        if draw(st.integers(0, 9)):
            bounds.append({"name": name, "dtype": dtype, "shape_max": shape})
    return bounds or ARRAYS


BOUNDS = st.fixed_dictionaries(
    {},
    optional={
        "epsilon_max_per_run": near(PLAN.epsilon),
        "clipping_norm_min": near("0.5"),
        "clipping_norm_max": near("1"),
        "noise_multiplier_min": near("1"),
        "app_bundles": st.lists(st.sampled_from([APP, "b" * 64]), min_size=1, max_size=2),
        "catalogues": st.lists(st.sampled_from([PLAN.catalogue, "b" * 64]), min_size=1, max_size=2),
        "arrays": array_bounds(),
        "steps_max": st.sampled_from([4, 5, 6]),
        "access": st.fixed_dictionaries(
            {
                "grant_s_max": st.integers(60, 31 * 86_400),
                "people": st.just({"a": ["a" * 64], "b": ["b" * 64, "c" * 64]}),
            }
        ),
        "sampling_probability_min": near("0.5"),
        "sampling_probability_max": st.sampled_from(["0.4", "0.5", "1"]),
    },
)


@given(BOUNDS)
def test_what_the_engine_allows_the_verifier_allows_and_nothing_else(
    bounds: dict[str, Any],
) -> None:
    policy = RegionPolicy.model_validate({**POLICY, "quorum_min": 1, **bounds})
    assert engine_allows(policy, PLAN) == verifier_allows(policy.to_record())


@given(BOUNDS)
def test_a_drawn_policy_is_of_the_form_that_the_verifier_reads(bounds: dict[str, Any]) -> None:
    policy = RegionPolicy.model_validate({**POLICY, "quorum_min": 1, **bounds}).to_record()
    checks = policy_bounds._FIELDS | {
        name: check for name, check in policy_bounds._OPTIONAL.items() if name in policy
    }
    for name, check in checks.items():
        check(policy[name], name)


def test_the_verifier_reads_every_bound_that_there_is() -> None:
    """Only the threshold of the store's own quality binds nothing that leaves the region."""
    read = policy_bounds._FIELDS.keys() | policy_bounds._OPTIONAL.keys()
    assert set(RegionPolicy.model_fields) - read == {"quality_threshold"}


ASKED = asked_plan()
ASKED_PERMIT = make_permit(
    ASKED,
    policy_of(server_queries=dict.fromkeys(NAMES, "8"), region="region-1"),
    CodeIdentity(app=APP, engine="e" * 64, deps="d" * 64),
    issued_at_ms=1_700_000_000_000,
    valid_for_s=60,
)
# What one question of the plan comes to by itself: 4.25 at the plan's δ.
CAPS = st.sampled_from(["4", "4.5", "8"])


@given(st.dictionaries(st.sampled_from([*NAMES, "others"]), CAPS, min_size=1))
def test_both_allow_the_same_questions_of_the_federation(allowed: dict[str, str]) -> None:
    policy = RegionPolicy.model_validate(
        {**POLICY, "region": "region-1", "quorum_min": 1, "server_queries": allowed}
    )
    caps = policy_bounds._caps(policy.to_record(), "server_queries")
    mechanisms = cast("list[Record]", ASKED_PERMIT["mechanisms"])
    verifier = all(
        policy_bounds._query_allowed(each, caps, str(ASKED_PERMIT["delta"])) for each in mechanisms
    )
    assert engine_allows(policy, ASKED) == verifier


KEYED = keyed_plan((SEARCH_TERMS, NAMES[0]), regions=["region-1"], quorum=1)


@given(near("0.00000001"))
def test_both_bound_the_part_of_delta_that_is_for_keys(most: str) -> None:
    """Noise bounds ε, whatever keys take of δ; and what they took nobody has in that year."""
    allowed = dict.fromkeys((SEARCH_TERMS, NAMES[0]), "40")
    policy = RegionPolicy.model_validate(
        {
            **POLICY,
            "region": "region-1",
            "quorum_min": 1,
            "server_queries": allowed,
            "key_delta_max": most,
        }
    )
    mechanisms = [cast("Record", each.model_dump(mode="json")) for each in KEYED.mechanisms]
    bounds = [
        holds
        for each in mechanisms
        for _, holds in policy_bounds._mechanism_bounds(each, policy.to_record(), full_batch=True)
    ]
    assert engine_allows(policy, KEYED) == all(bounds) == (Decimal(most) >= Decimal("1e-8"))


def test_what_a_policy_does_not_speak_of_neither_allows() -> None:
    policy = RegionPolicy.model_validate({**POLICY, "region": "region-1", "quorum_min": 1})
    assert "server_queries" not in policy.to_record()
    assert not engine_allows(policy, ASKED)
    assert policy_bounds._caps(policy.to_record(), "server_queries") == {}
