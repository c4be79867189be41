"""Queries as records, and what a policy lets a region ask itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from client.engine.policy import RegionPolicy
from client.engine.policy_desk import policy_changes
from client.engine.queries import Query, QueryPart, check_query
from client.engine.query_desk import QueryDraft, make_query
from common import canonical_json
from common.audit.verify.records import check_record
from common.consent import FEDERATED_TRAINING, RECOMMENDATIONS
from common.errors import FormatError, InputError, PolicyError
from common.parameters import ArraySpec
from common.privacy import epsilon, epsilon_gaussian
from tests.client.engine.test_policy import POLICY, policy_of
from tests.client.training.test_bounded_sums import Counts

QUERIES = {"counts": "2", "others": "1"}


def policy(**changes: Any) -> RegionPolicy:
    return policy_of(**{"queries": QUERIES, "delta_max": "0.000001", **changes})


def draft(**changes: Any) -> QueryDraft:
    options: dict[str, Any] = {
        "statistics": [Counts(size=8)],
        "epsilon": "1",
        "purpose": RECOMMENDATIONS,
        "also": (FEDERATED_TRAINING,),
        "model": "local-recommender",
        "catalogue": "c" * 64,
        "start_ms": 1_000_000,
        "end_ms": 2_000_000,
    }
    return QueryDraft(**(options | changes))


def query(**changes: Any) -> Query:
    return make_query(draft(**changes), policy(), issued_at_ms=1_700_000_000_000, valid_for_s=3600)


def test_a_query_is_a_record_that_the_verifier_reads_and_comes_back() -> None:
    made = query()
    record = made.to_record()
    check_record("query", record)
    assert Query.from_record(record) == made
    assert canonical_json.decode(canonical_json.encode(record)) == record
    assert record["consented"] == sorted([FEDERATED_TRAINING, RECOMMENDATIONS])


@pytest.mark.parametrize(
    "change",
    [
        {"v": "fedpref-query/2"},
        {"more": 1},
        {"destination": "server"},
        {"run": "another"},
        {"mechanisms": []},
        {"arrays": [1]},
        {"window": "always"},
        {"parameters": {}},
    ],
)
def test_a_record_that_is_not_exactly_a_query_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        Query.from_record(query().to_record() | change)


@pytest.mark.parametrize("n_parts", [1, 2, 3])
@pytest.mark.parametrize("target", ["0.25", "1", "1.9"])
def test_all_parts_together_are_within_epsilon_and_use_it(n_parts: int, target: str) -> None:
    names = {f"asked-{number}": "2" for number in range(n_parts)}
    asked = [Counts(size=8, name=name) for name in names]
    made = make_query(
        draft(statistics=asked, epsilon=target),
        policy(queries=names),
        issued_at_ms=0,
        valid_for_s=60,
    )
    spent = epsilon([part.event for part in made.parts], 1e-6)
    assert 0.999 * float(target) < spent <= float(target)
    assert [part.number for part in made.parts] == [*range(1, n_parts + 1)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queries": {"others": "1"}}, "queries = counts; it allows others"),
        ({"queries": {"counts": "0.5"}}, "queries.counts"),
        ({"epsilon_max_per_run": "0.9"}, "epsilon = 1"),
        ({"noise_multiplier_min": "9"}, "counts.noise_multiplier"),
        ({"clipping_norm_max": "0.5"}, "counts.clipping_norm"),
        ({"clipping_norm_min": "2", "clipping_norm_max": "3"}, "counts.clipping_norm"),
    ],
)
def test_a_policy_bounds_queries(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        check_query(query(), policy(**changes))
    check_query(query(), policy())


def test_a_policy_that_does_not_speak_of_queries_allows_none() -> None:
    silent = RegionPolicy.model_validate(
        {name: value for name, value in POLICY.items() if name != "queries"}
    )
    with pytest.raises(PolicyError, match="queries = counts; it allows none"):
        check_query(query(), replace_delta(silent))


def replace_delta(found: RegionPolicy) -> RegionPolicy:
    return RegionPolicy.model_validate({**found.to_record(), "delta_max": "0.000001"})


def test_what_a_policy_allows_of_a_query_is_its_own_epsilon() -> None:
    part = query().parts[0]
    alone = epsilon_gaussian(float(part.noise_multiplier), 1e-6)
    check_query(query(), policy(queries={"counts": f"{alone + 1e-6:.6f}"}))
    with pytest.raises(PolicyError):
        check_query(query(), policy(queries={"counts": f"{alone - 1e-5:.6f}"}))


def test_a_larger_delta_than_the_policys_is_refused() -> None:
    with pytest.raises(PolicyError, match="delta"):
        check_query(replace(query(), delta="0.1"), policy())


def test_a_query_that_spends_more_than_it_states_is_refused() -> None:
    names = {"counts": "2", "others": "2"}
    asked = [Counts(size=8, name=name) for name in names]
    made = make_query(
        draft(statistics=asked), policy(queries=names), issued_at_ms=0, valid_for_s=60
    )
    for stated in ("0.99", "nan"):
        with pytest.raises(PolicyError):
            check_query(replace(made, epsilon=stated), policy(queries=names))
    # Each part alone is within it.
    less = tuple(replace(part, noise_multiplier="4.5") for part in made.parts)
    with pytest.raises(PolicyError, match="together, more than the 1 that it states"):
        check_query(replace(made, parts=less), policy(queries=names))
    check_query(made, policy(queries=names))


def test_somebody_elses_query_is_refused() -> None:
    with pytest.raises(PolicyError, match="its own queries"):
        check_query(replace(query(), requested_by="server"), policy())
    with pytest.raises(PolicyError, match="consent to that"):
        check_query(replace(query(), consented=(FEDERATED_TRAINING,)), policy())


@pytest.mark.parametrize(
    "changes", [{"statistics": []}, {"start_ms": 5, "end_ms": 5}, {"epsilon": "nan"}]
)
def test_a_draft_of_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        query(**changes)


def test_a_query_has_the_parts_that_it_names() -> None:
    assert query().part("counts") == QueryPart(
        number=1,
        name="counts",
        noise_multiplier=query().parts[0].noise_multiplier,
        clipping_norm="1",
        grid_exponent=-10,
        spec=ArraySpec("counts", "<f4", (8,)),
        parameters={},
    )
    with pytest.raises(PolicyError, match="does not ask"):
        query().part("others")


@pytest.mark.parametrize(
    ("before", "after", "more"),
    [
        (None, {"scenes": "1"}, True),
        ({"scenes": "1"}, None, False),
        ({"scenes": "1"}, {"scenes": "2"}, True),
        ({"scenes": "2"}, {"scenes": "1"}, False),
        ({"scenes": "1"}, {"scenes": "1", "also-bought": "1"}, True),
    ],
)
def test_a_change_of_queries_is_told_for_what_it_allows(
    before: dict[str, str] | None, after: dict[str, str] | None, more: bool
) -> None:
    fields = [{} if each is None else {"queries": each} for each in (before, after)]
    (change,) = policy_changes(fields[0], fields[1])  # type: ignore[arg-type]
    assert change.allows_more is more
