"""Queries and answers: an honest bundle holds, and every lie in one is found where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.audit.bundle import _consent_sizes
from common.audit.verify import Verdict, verify_bundle
from common.timestamps import format_time
from tests.support.answered_bundle import (
    BIAS,
    R1,
    RECOMMENDATIONS,
    SCENES,
    TRAINING,
    AnsweringFederation,
    answering,
    at_ms,
    query_record,
)
from tests.support.bundle_builder import (
    JsonRecord,
    bucket,
    digest,
    eligible_root,
    record_of,
    ulid,
)

Change = Callable[[JsonRecord], None]


def judge(federation: AnsweringFederation, run: Path) -> Verdict:
    return verify_bundle(federation.write(run))


def found(verdict: Verdict) -> set[tuple[int, str]]:
    return {(failure.step, failure.code) for failure in verdict.failures}


def notes_of_answers(verdict: Verdict) -> list[str]:
    return [note for note in verdict.notes if "parts of queries" in note]


def lying(kind: str, change: Change, *, name: str | None = None) -> AnsweringFederation:
    """A federation in which one kind of record says something else; all else follows from it."""

    def alter(party: str, record: JsonRecord) -> None:
        about = record.get("mechanism") if kind != "query" else name
        if (party, record["v"]) == (R1, f"fedpref-{kind}/1") and name in (None, about):
            change(record)

    return answering(alter).answer_all()


@pytest.fixture(scope="module")
def honest() -> AnsweringFederation:
    return answering().answer_all()


def test_a_bundle_with_answers_verifies_and_counts_them(
    honest: AnsweringFederation, tmp_path: Path
) -> None:
    verdict = judge(honest, tmp_path)
    assert verdict.failures == ()
    assert verdict.verified
    assert verdict.steps[5].counts["queries"] == 1
    assert verdict.steps[5].counts["answers"] == 2
    (note,) = notes_of_answers(verdict)
    assert note == (
        f"{R1} answered 2 parts of queries: by its signed log each was charged, and by its queries "
        "the answers are for its own use."
    )


def test_a_bundle_has_the_checkpoints_that_answers_rest_on(honest: AnsweringFederation) -> None:
    class Log:
        def entries(self) -> object:
            return enumerate(honest.logs[R1])

    sizes = {
        record_of(entry)["consent"]["size"]
        for entry in honest.logs[R1]
        if record_of(entry)["v"] in ("fedpref-round/1", "fedpref-answer/1")
    }
    assert _consent_sizes(Log()) == sizes  # type: ignore[arg-type]


def set_to(**fields: object) -> Change:
    return lambda record: record.update(fields)


def dp(**fields: object) -> Change:
    return lambda record: record["dp"].update(fields)


def of_first_mechanism(**fields: object) -> Change:
    return lambda record: record["mechanisms"][0].update(fields)


ANSWERS: list[tuple[str, Change, tuple[int, str]]] = [
    ("answers twice", set_to(round=1, mechanism=SCENES), (5, "answer-repeated")),
    ("another engine", set_to(engine=digest("x")), (5, "query-mismatch")),
    ("another catalogue", set_to(catalogue=digest("x")), (5, "query-mismatch")),
    ("a part that is not asked", set_to(mechanism="else"), (5, "answer-not-permitted")),
    ("a query of nobody", set_to(permit_id=ulid("none")), (8, "no-permit")),
    ("no charge", set_to(charge_id=ulid("none")), (8, "no-charge")),
    ("less noise than charged", dp(noise_multiplier="9.9"), (6, "answer-charge")),
    ("a smaller total", dp(epsilon_total="0.1"), (6, "answer-charge")),
    ("noise of others", dp(mode="distributed"), (6, "answer-charge")),
    ("more values", set_to(bytes=400), (6, "answer-arrays")),
    (
        "other values",
        set_to(arrays=[{"name": "raw", "dtype": "<f4", "shape": [5]}]),
        (6, "answer-arrays"),
    ),
    ("a finer grid", set_to(grid_exponent=-20), (6, "answer-arrays")),
    ("ended before it was charged", lambda r: r.update(end=r["start"]), (5, "clock-rollback")),
]


@pytest.mark.parametrize(
    ("change", "expected"), [each[1:] for each in ANSWERS], ids=[each[0] for each in ANSWERS]
)
def test_a_lie_in_an_answer_is_found(
    change: Change, expected: tuple[int, str], tmp_path: Path
) -> None:
    if expected[1] == "clock-rollback":
        # Only a clock that is off by more than parties' may be.
        original = change

        def change(record: JsonRecord) -> None:
            original(record)
            early = format_time(at_ms(record, "start") - 120_000)
            record.update(start=early, end=early)

    verdict = judge(lying("answer", change, name=BIAS), tmp_path)
    assert expected in found(verdict)
    # What does not hold is not claimed.
    about_charge = expected[1] in ("no-charge", "answer-charge", "clock-rollback")
    assert not (about_charge and notes_of_answers(verdict))


QUERIES: list[tuple[str, Change, tuple[int, str]]] = [
    ("nobody's consent", set_to(consented=[]), (5, "query-fields")),
    ("a purpose nobody was asked for", set_to(consented=[TRAINING]), (5, "query-fields")),
    (
        "a window that is empty",
        lambda r: r["window"].update(end=r["window"]["start"]),
        (5, "query-fields"),
    ),
    ("somebody else asks", set_to(requested_by="server"), (5, "query-fields")),
    ("two parts of one number", of_first_mechanism(rounds=[2]), (5, "query-fields")),
    (
        "amplification by sampling",
        of_first_mechanism(sampling_probability="0.5"),
        (5, "query-fields"),
    ),
    ("more steps", of_first_mechanism(steps=2), (5, "query-fields")),
    ("less ε than it spends", set_to(epsilon_cap="0.5"), (6, "query-epsilon")),
    ("a larger δ than the policy's", set_to(delta="0.01"), (6, "permit-beyond-policy")),
    (
        "another charge's noise",
        of_first_mechanism(noise_multiplier="2.4"),
        (6, "charge-parameters"),
    ),
    (
        "more ε than the policy allows it",
        of_first_mechanism(noise_multiplier="2.0"),
        (6, "permit-beyond-policy"),
    ),
]


@pytest.mark.parametrize(
    ("change", "expected"), [each[1:] for each in QUERIES], ids=[each[0] for each in QUERIES]
)
def test_a_lie_in_a_query_is_found(
    change: Change, expected: tuple[int, str], tmp_path: Path
) -> None:
    assert expected in found(judge(lying("query", change), tmp_path))


def test_an_answer_after_its_query_has_expired_is_found(tmp_path: Path) -> None:
    federation = answering()
    federation.run()
    query = query_record() | {"issued_at": federation.tick()}
    query["expires"] = format_time(at_ms(query, "issued_at") + 1000)
    federation.log(R1, query)
    federation.clock_ms += 120_000
    federation.answer(query, 1, SCENES)
    assert found(judge(federation, tmp_path)) == {(5, "permit-expired")}


@pytest.mark.parametrize("queries", [None, {BIAS: "1.8"}, {SCENES: "1.7", BIAS: "1.8"}])
def test_what_a_policy_does_not_name_is_not_allowed(
    queries: dict[str, str] | None, tmp_path: Path
) -> None:
    def alter(_: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-policy/1":
            del record["policy"]["queries"]
            if queries is not None:
                record["policy"]["queries"] = queries

    verdict = judge(answering(alter).answer_all(), tmp_path)
    assert found(verdict) == {(6, "permit-beyond-policy")}


def recounted(federation: AnsweringFederation, customers: tuple[int, ...]) -> Change:
    def change(record: JsonRecord) -> None:
        sids = [federation.sid(R1, customer) for customer in customers]
        record["included"].update(
            root=eligible_root(record["included"]["nonce"], sids), n_bucket=bucket(len(sids))
        )

    return change


@pytest.mark.parametrize("customers", [(0,), (0, 1, 2), (0, 1, 3)])
def test_customers_without_consent_or_too_few_are_found(
    customers: tuple[int, ...], honest: AnsweringFederation, tmp_path: Path
) -> None:
    verdict = judge(lying("answer", recounted(honest, customers)), tmp_path)
    assert (5, "eligible-set") in found(verdict)


def test_consent_to_training_alone_is_not_consent_to_recommendations(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-consent/1" and record["sid"] == federation.sid(R1, 1):
            record["purposes"][RECOMMENDATIONS] = False

    federation = answering(alter)
    verdict = judge(federation.answer_all(), tmp_path)
    # Rounds may count her, answers may not.
    assert found(verdict) == {(5, "eligible-set"), (5, "size-bucket")}
    assert {failure.index for failure in verdict.failures} == {
        federation.find(R1, "answer", 0),
        federation.find(R1, "answer", 1),
    }


def test_a_nonce_of_a_round_or_of_another_answer_is_found(tmp_path: Path) -> None:
    def of_a_round(record: JsonRecord) -> None:
        record["included"]["nonce"] = digest(f"nonce {R1} 1")

    verdict = judge(lying("answer", of_a_round, name=SCENES), tmp_path)
    assert (5, "nonce-reused") in found(verdict)

    def of_an_answer(record: JsonRecord) -> None:
        record["included"]["nonce"] = digest("answer nonce 1")

    verdict = judge(lying("answer", of_an_answer, name=BIAS), tmp_path / "other")
    assert (5, "nonce-reused") in found(verdict)


def test_an_answer_before_its_charge_and_a_charge_used_twice_are_found(
    honest: AnsweringFederation, tmp_path: Path
) -> None:
    swapped = honest.copy()
    log = swapped.logs[R1]
    charge, answer = swapped.find(R1, "answer") - 1, swapped.find(R1, "answer")
    log[charge], log[answer] = log[answer], log[charge]
    assert (6, "charge-after") in found(judge(swapped, tmp_path))

    def reuse(record: JsonRecord) -> None:
        record["charge_id"] = ulid("charge of a query 1")

    verdict = judge(lying("answer", reuse, name=BIAS), tmp_path / "other")
    assert {(6, "charge-reused"), (6, "answer-charge")} <= found(verdict)


def test_a_query_is_no_permit_for_a_round_and_a_permit_is_no_query(tmp_path: Path) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-answer/1"):
            record["permit_id"] = ulid(f"permit {R1}")

    assert (8, "no-permit") in found(judge(answering(alter).answer_all(), tmp_path))


def test_a_withdrawal_before_an_answer_is_logged_discards_it_where_the_policy_says_so(
    tmp_path: Path,
) -> None:
    def acted(rule: str) -> set[tuple[int, str]]:
        def alter(party: str, record: JsonRecord) -> None:
            # Someone in it withdraws after the snapshot and before the answer.
            if (party, record["v"], record.get("mechanism")) == (R1, "fedpref-answer/1", SCENES):
                federation.consent(R1, 0, "dpv:ConsentWithdrawn")

        federation = answering(alter, withdrawal_in_round=rule)
        federation.run()
        query = _query(federation)
        federation.answer(query, 1, SCENES)
        return found(judge(federation, tmp_path / rule))

    assert acted("finish") == set()
    assert acted("discard") == {(5, "withdrawal-not-discarded")}


def _query(federation: AnsweringFederation) -> JsonRecord:
    query = query_record() | {"issued_at": federation.tick()}
    federation.log(R1, query)
    return query


def test_a_charge_of_a_query_without_an_answer_is_told(tmp_path: Path) -> None:
    federation = answering()
    federation.run()
    federation.charge_part(_query(federation), 1, SCENES)
    verdict = judge(federation, tmp_path)
    assert verdict.verified
    assert any("charged 1 rounds that it does not log" in note for note in verdict.notes)
