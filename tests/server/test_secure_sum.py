"""A coordinator's confidential rounds: exact, all or nothing, survivors, going on after a crash.

The attacks of a coordinator on a region are in `tests/client/engine/test_masking.py`; here regions,
or who carries their replies, attack a round.
"""

from __future__ import annotations

import base64
import math
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import failpoints
from common.errors import BudgetError, FederationError
from common.failpoints import CoordinatorPoint
from common.parameters import arrays_digest
from common.secure_aggregation import (
    MaskingKey,
    Quantiser,
    Roster,
    RoundContext,
    SecureSumRefusedError,
)
from server.aggregation import first_model
from server.mask_replies import MaskOffer, MaskQuestion
from server.power_rounds import factors_after
from server.secure_sum import SecureSum, _RingTotal
from tests.support.fake_federation import Arrays, Header
from tests.support.fake_secure import SecureFakeEngine, SecureFederation, open_secure, secure_plan
from tests.support.given_total import GivenTotal
from tests.support.masked_sum import context, keys, names, registry, statement

R1, R2, R3, R4 = REGIONS = tuple(f"region-{number}" for number in range(1, 5))


class CrashError(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def plain_model(
    federation: SecureFederation, used: dict[int, tuple[str, ...]] | None = None
) -> str:
    """Digest of the model that the plain sums of the regions' releases give."""
    model: Arrays = {}
    state: Arrays = {}
    for number in range(1, federation.plan.total_rounds + 1):
        regions = (used or {}).get(number, REGIONS)
        (spec,) = federation.plan.released_arrays(federation.plan.mechanism_of(number).name)
        total = np.zeros(spec.shape)
        for region in regions:
            total += federation.engines[region].release(number)[spec.name].astype(np.float64)
        gain = math.sqrt(len(regions))
        if number == 1:
            model = first_model(total, federation.plan, noise_gain=gain)
        else:
            given = GivenTotal(len(regions), total)
            model, state = factors_after(number, model, given, federation.plan, state)
    return arrays_digest(model)


def closed(federation: SecureFederation) -> dict[int, tuple[int, list[str], dict[str, str]]]:
    """By round: the attempt, who is in the sum, who is not and why."""
    return {
        record["round"]: (  # type: ignore[misc]
            record["attempt"],
            [part["region"] for part in record["regions"]],  # type: ignore[index,union-attr]
            {part["region"]: part["reason"] for part in record["refused"]},  # type: ignore[index,union-attr]
        )
        for record in federation.records("aggregate")
    }


def test_the_model_is_that_of_the_plain_sum_to_the_bit(tmp_path: Path) -> None:
    with open_secure(tmp_path, secure_plan()) as federation:
        federation.run()
        assert arrays_digest(federation.model()) == plain_model(federation)
        assert closed(federation) == {n: (1, list(REGIONS), {}) for n in (1, 2, 3)}
        assert {record["rule"] for record in federation.records("aggregate")} == {"secure-sum"}
        assert federation.incidents() == []


def refuse(_: int) -> None:
    raise BudgetError("test")


def refuse_in(number: int) -> Callable[[int], None]:
    def refusing(asked: int) -> None:
        if asked == number:
            raise BudgetError("test")

    return refusing


def test_survivors_are_asked_again_and_their_sum_is_exact(tmp_path: Path) -> None:
    with open_secure(tmp_path, secure_plan()) as federation:
        federation.engines[R2].before_mask = refuse_in(2)
        federation.run()
        survivors = (R1, R3, R4)
        assert closed(federation)[1] == (1, list(REGIONS), {})
        assert closed(federation)[2] == (2, list(survivors), {R2: "budget-exhausted"})
        assert closed(federation)[3] == (1, list(REGIONS), {})
        assert arrays_digest(federation.model()) == plain_model(federation, {2: survivors})
        assert federation.engines[R1].masked[2] == [(1, REGIONS), (2, survivors)]


def test_a_region_that_hangs_costs_one_bounded_wait(tmp_path: Path) -> None:
    release = threading.Event()
    with open_secure(tmp_path, secure_plan()) as federation:
        federation.run_config["mask-timeout-s"] = 0.3
        federation.run_config["describe-timeout-s"] = 0.3
        federation.engines[R3].before_mask = lambda number: release.wait(30) and None
        federation.run()
        assert closed(federation)[1][:2] == (2, [R1, R2, R4])
        assert closed(federation)[1][2] in ({R3: "no-reply"}, {R3: "no-node"})
        release.set()


def test_below_the_quorum_nothing_is_published_and_the_round_goes_on_later(
    tmp_path: Path,
) -> None:
    with open_secure(tmp_path, secure_plan(3)) as federation:
        federation.engines[R3].before_mask = refuse
        with pytest.raises(FederationError, match="region-3: budget-exhausted"):
            federation.run()
        assert federation.records("aggregate") == []
        assert (1, None, "below-quorum") in federation.incidents()
        federation.engines[R3].before_mask = None
        federation.run()
        three = (R1, R2, R3)
        assert closed(federation)[1] == (2, list(three), {})
        assert arrays_digest(federation.model()) == plain_model(
            federation, dict.fromkeys((1, 2, 3), three)
        )


def test_a_sum_of_two_is_not_asked_for_whatever_the_quorum() -> None:
    """The coordinator too keeps to three, though plan and regions would refuse it anyway."""
    of, held = context(5), keys(names(2))
    offers = {r: MaskOffer(statement(r, key, of), 0, frozenset()) for r, key in held.items()}
    sums = SecureSum(secure_plan(3), registry(5), timeout_s=1)

    def never(*_: object) -> Any:
        raise AssertionError("someone was asked")

    grid: Any = None
    assert sums.run(grid, never, of, offers, least=1, on_dropped=never) is None


POINTS = (
    CoordinatorPoint.HEARD,
    CoordinatorPoint.SUMMED,
    CoordinatorPoint.MODEL_KEPT,
    CoordinatorPoint.AGGREGATED,
    CoordinatorPoint.CHECKPOINT_REPLACED,
)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_coordinator_killed_between_the_phases_goes_on_with_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: CoordinatorPoint, number: int
) -> None:
    with open_secure(tmp_path, secure_plan(3)) as federation:
        passed: list[object] = []

        def kill(at: object) -> None:
            passed.append(at)
            if at is point and passed.count(point) == number:
                raise CrashError

        with monkeypatch.context() as patch:
            patch.setattr(failpoints, "hook", kill)
            with pytest.raises(CrashError):
                federation.run()
        federation.run()
        three = (R1, R2, R3)
        expected = plain_model(federation, dict.fromkeys((1, 2, 3), three))
        assert arrays_digest(federation.model()) == expected
        assert [record["round"] for record in federation.records("aggregate")] == [1, 2, 3]
        assert {r for _, regions, _ in closed(federation).values() for r in regions} == set(three)
        for engine in federation.engines.values():
            attempts = [attempt for attempt, _ in engine.masked[number]]
            assert attempts == sorted(set(attempts)), "an attempt was used twice"


def test_a_logged_round_without_its_model_is_masked_and_summed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_secure(tmp_path, secure_plan()) as federation:
        federation.engines[R2].before_mask = refuse_in(1)

        def kill(at: object) -> None:
            if at is CoordinatorPoint.AGGREGATED:
                raise CrashError

        with monkeypatch.context() as patch:
            patch.setattr(failpoints, "hook", kill)
            with pytest.raises(CrashError):
                federation.run()
        shutil.rmtree(federation.home.checkpoint)
        federation.engines[R2].before_mask = None
        federation.run()
        survivors = (R1, R3, R4)
        assert closed(federation)[1] == (2, list(survivors), {R2: "budget-exhausted"})
        assert federation.engines[R1].masked[1][-1] == (3, survivors)
        assert arrays_digest(federation.model()) == plain_model(federation, {1: survivors})


def lie(**changes: Any) -> Callable[[SecureFakeEngine], None]:
    def install(engine: SecureFakeEngine) -> None:
        def tamper(said: dict[str, Any]) -> dict[str, Any]:
            of = said["context"]
            if set(changes) <= set(vars(of)):
                return {**said, "context": type(of)(**{**vars(of), **changes})}
            return {**said, **changes}

        engine.tamper_statement = tamper

    return install


def offer_lie(change: Callable[[Header, Arrays], tuple[Header, Arrays]]) -> Any:
    def install(engine: SecureFakeEngine) -> None:
        engine.tamper_offer = change

    return install


def without_key(reply: Header, _: Arrays) -> tuple[Header, Arrays]:
    return {name: value for name, value in reply.items() if name != "masking_key"}, {}


def another_signer(engine: SecureFakeEngine) -> None:
    engine.statement_signer = type(engine.trainer)("a stranger")  # type: ignore[call-arg]


OFFER_LIES: dict[str, tuple[str, Callable[[SecureFakeEngine], None]]] = {
    "a key of another run": ("other-run", lie(run="run-0")),
    "a key of another round": ("other-round", lie(server_round=7)),
    "another plan": ("other-plan", lie(plan="0" * 64)),
    "another mechanism": ("other-mechanism", lie(mechanism="sasrec")),
    "another model": ("other-model", lie(model_in="0" * 64)),
    "another quantiser": ("other-quantiser", lie(quantiser=Quantiser(-3, 4))),
    "another region's key": ("other-region", lie(region="region-1")),
    "a key for another round entry": ("other-entry", lie(round_entry="0" * 64)),
    "a key signed by another": ("wrong-signer", another_signer),
    "no key": ("malformed-reply", offer_lie(without_key)),
    "a key that is none": (
        "malformed-statement",
        offer_lie(lambda h, _: ({**h, "masking_key": base64.b64encode(b"{}").decode()}, {})),
    ),
    "an update without masks": ("oversize", offer_lie(lambda h, a: (h, a))),
    "masks beyond count": (
        "too-many-attempts",
        offer_lie(lambda h, _: ({**h, "masked": {"attempt": 999, "regions": []}}, {})),
    ),
    "masks that are none": (
        "malformed-reply",
        offer_lie(lambda h, _: ({**h, "masked": {"attempt": True, "regions": []}}, {})),
    ),
}


@pytest.mark.parametrize("name", OFFER_LIES)
def test_an_offer_that_lies_is_refused_and_the_rest_go_on(tmp_path: Path, name: str) -> None:
    expected, install = OFFER_LIES[name]
    with open_secure(tmp_path, secure_plan()) as federation:
        install(federation.engines[R2])
        federation.run()
        assert closed(federation)[1] == (1, [R1, R3, R4], {R2: expected})


def test_two_regions_with_one_key_are_both_left_out(tmp_path: Path) -> None:
    key = MaskingKey.generate()
    with open_secure(tmp_path, secure_plan(5)) as federation:
        for region in (R1, R2):
            federation.engines[region].keys = dict.fromkeys((1, 2, 3), key)
        federation.run()
        assert closed(federation)[1] == (
            1,
            [R3, R4, "region-5"],
            {R1: "key-shared", R2: "key-shared"},
        )


def mask_lie(change: Callable[[Header, Arrays], tuple[Header, Arrays]]) -> Any:
    def install(engine: SecureFakeEngine) -> None:
        engine.tamper_mask = change

    return install


def entry_lie(**changes: Any) -> Any:
    def install(engine: SecureFakeEngine) -> None:
        engine.tamper_entry = lambda record: record.update(changes)

    return install


def wider(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    return header, {name: array.astype(np.int64) for name, array in arrays.items()}


def longer(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    return header, {name: np.append(array, np.int32(0)) for name, array in arrays.items()}


def floats(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    return header, {name: array.view(np.float32) for name, array in arrays.items()}


def other_values(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    return header, {name: array + np.int32(1) for name, array in arrays.items()}


MASK_LIES: dict[str, tuple[str, Any]] = {
    "values of 64 bits": ("wrong-dtype", mask_lie(wider)),
    "one value more": ("wrong-shape", mask_lie(longer)),
    "floats": ("wrong-dtype", mask_lie(floats)),
    "another array": ("wrong-arrays", mask_lie(lambda h, a: (h, {"x": next(iter(a.values()))}))),
    "no array": ("wrong-arrays", mask_lie(lambda h, a: (h, {}))),
    "other values than stated": ("wrong-digest", mask_lie(other_values)),
    "a reply of another round": ("other-round", mask_lie(lambda h, a: ({**h, "round": 9}, a))),
    "a reply of another run": ("other-run", mask_lie(lambda h, a: ({**h, "run": "run-0"}, a))),
    "a reply of another attempt": (
        "other-attempt",
        mask_lie(lambda h, a: ({**h, "attempt": 9}, a)),
    ),
    "a reply for another roster": (
        "other-roster",
        mask_lie(lambda h, a: ({**h, "roster": "0" * 64}, a)),
    ),
    "another region's reply": ("other-region", mask_lie(lambda h, a: ({**h, "region": R1}, a))),
    "an entry of another round": ("other-entry", entry_lie(round=9)),
    "an entry of another attempt": ("other-entry", entry_lie(attempt=9)),
    "an entry of other values": ("other-entry", entry_lie(masked="0" * 64)),
    "an entry of other members": ("other-entry", entry_lie(members=[])),
    "an entry with more": ("other-entry", entry_lie(more=1)),
    "no entry": ("malformed-entry", mask_lie(lambda h, a: ({**h, "mask_entry": "*"}, a))),
    "an entry with another bound than signed": (
        "other-entry",
        mask_lie(lambda h, a: ({**h, "mask_entry": {**h["mask_entry"], "norm_bound": "2"}}, a)),  # type: ignore[dict-item]
    ),
    "an entry with a bound that is none": (
        "malformed-entry",
        mask_lie(lambda h, a: ({**h, "mask_entry": {**h["mask_entry"], "norm_bound": "x"}}, a)),  # type: ignore[dict-item]
    ),
    "an entry that is not logged": (
        "not-logged",
        mask_lie(lambda h, a: ({**h, "inclusion_proof": []}, a)),
    ),
    "fields too many": ("malformed-reply", mask_lie(lambda h, a: ({**h, "more": 1}, a))),
}


@pytest.mark.parametrize("name", MASK_LIES)
def test_a_masked_reply_that_is_not_what_was_asked_is_refused(tmp_path: Path, name: str) -> None:
    expected, install = MASK_LIES[name]
    with open_secure(tmp_path, secure_plan()) as federation:
        install(federation.engines[R2])
        federation.run()
        assert closed(federation)[1] == (2, [R1, R3, R4], {R2: expected})


def test_a_masked_reply_sent_again_in_another_round_is_refused(tmp_path: Path) -> None:
    kept: dict[str, tuple[Header, Arrays]] = {}

    def replay(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
        return kept.setdefault("first", (header, arrays))

    with open_secure(tmp_path, secure_plan()) as federation:
        federation.engines[R2].tamper_mask = replay
        federation.run()
        assert closed(federation)[1] == (1, list(REGIONS), {})
        for number in (2, 3):
            assert closed(federation)[number] == (2, [R1, R3, R4], {R2: "other-round"})


def test_masks_that_do_not_cancel_publish_nothing(tmp_path: Path) -> None:
    def garbage(vector: np.ndarray) -> np.ndarray:
        return np.random.default_rng(1).integers(0, 2**32, vector.size, dtype=np.uint32)

    with open_secure(tmp_path, secure_plan()) as federation:
        federation.engines[R2].tamper_vector = garbage
        with pytest.raises(FederationError, match="not published"):
            federation.run()
        assert federation.records("aggregate") == []
        assert (1, None, "masks-do-not-cancel") in federation.incidents()


def offers_of(**masked: tuple[int, tuple[str, ...]]) -> dict[str, MaskOffer]:
    of, held = context(5), keys(names(5))
    return {
        region: MaskOffer(
            statement(region, key, of),
            masked.get(region.replace("-", "_"), (0, ()))[0],
            frozenset(masked.get(region.replace("-", "_"), (0, ()))[1]),
        )
        for region, key in held.items()
    }


def unfit(offers: dict[str, MaskOffer]) -> dict[str, str]:
    sums = SecureSum(secure_plan(5), registry(5), timeout_s=1)
    return {region: reason for region, (reason, _) in sums._unfit(offers).items()}


def test_whoever_was_left_out_before_is_left_out_again() -> None:
    one, two, three, four, five = names(5)
    rest = (one, two, three, five)
    offers = offers_of(region_001=(2, rest), region_002=(2, rest), region_003=(1, tuple(names(5))))
    assert unfit(offers) == {four: "not-survivors"}
    assert unfit(offers_of()) == {}


def test_a_region_that_excludes_all_others_is_left_out_itself() -> None:
    one, *_ = names(5)
    assert unfit(offers_of(region_001=(1, (one,)))) == {one: "not-survivors"}


def test_memory_for_a_sum_is_one_vector_however_many_regions() -> None:
    total = _RingTotal(1 << 20)
    array = np.ones(1 << 20, np.int32)
    tracemalloc.start()
    try:
        for _ in range(20):
            total.add({"a": array})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < array.nbytes / 8
    assert (total.vector == 20).all()


def test_a_sum_that_is_too_long_is_refused_even_within_the_ring() -> None:
    plan = secure_plan(3)
    sums = SecureSum(plan, registry(5), timeout_s=1)
    of = RoundContext.of(plan, 1, "b" * 64)
    held = keys(names(3))
    roster = Roster.of([statement(region, key, of) for region, key in held.items()])
    specs = plan.released_arrays("popularity")
    question = MaskQuestion(of, 1, roster, specs, plan.federation, registry(5))
    total = _RingTotal(plan.n_items)
    total.vector[:] = 2 * of.quantiser.largest_steps
    with pytest.raises(SecureSumRefusedError) as refused:
        sums._unmasked(question, total)
    assert refused.value.reason == "masks-do-not-cancel"
