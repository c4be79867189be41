"""What the verifier makes of distributed noise: a real run, and every way to falsify what it says.

The forgers have all keys of one region and of the server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audit.verify import verify_bundle, verify_with_evidence
from common.audit.verify.epsilon import shared_noise_multiplier
from common.audit.verify.verdict import Verdict
from common.discrete_gaussian import SharedNoise, sensitivity_of
from common.errors import VerificationError
from common.grid_stddev import GridStddev
from simulations.attacks.forgery import Forgery
from simulations.federate import federate
from simulations.provision import open_regions
from simulations.run_folder import RunFolder
from tests.support.bundle_builder import Federation
from tests.support.run_bundle import bundled
from tests.support.small_federation import make_federation

R1 = "region-1"
Record = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Verdict]:
    folder, plan, set_ups = make_federation(
        tmp_path_factory.mktemp("shared") / "run",
        regions=3,
        quorum=3,
        rule="secure-sum",
        mode="distributed",
        honest_survivors_min=3,
    )
    with open_regions(folder, set_ups) as regions:
        channels = {name: region.channel for name, region in regions.items()}
        federate("inprocess", folder, plan, channels)
    return folder, bundled(folder, plan)


def codes(verdict: Verdict) -> set[str]:
    return {failure.code for failure in verdict.failures}


def test_an_honest_run_verifies_and_says_what_the_noise_rests_on(
    run: tuple[RunFolder, Verdict],
) -> None:
    verdict = run[1]
    assert verdict.verified, verdict.first_failure
    (note,) = [note for note in verdict.notes if "noise is distributed" in note]
    assert "no region's update is private by itself" in note
    assert "no log can show either" in note


def last(forgery: Forgery, kind: str) -> int:
    return forgery.find(R1, kind)[-1]


def change(kind: str, edit: Callable[[Record], object]) -> Callable[[Forgery], object]:
    return lambda forgery: forgery.change(R1, last(forgery, kind), edit)


def again(kind: str, **changes: object) -> Callable[[Forgery], object]:
    def forge(forgery: Forgery) -> None:
        record = forgery.record(R1, last(forgery, kind))
        forgery.entries[R1].append(forgery.sign(R1, {**record, **changes}))

    return forge


def without_opening(forgery: Forgery) -> None:
    del forgery.entries[R1][last(forgery, "unmask")]


def opened_before_it_was_masked(forgery: Forgery) -> None:
    entry = forgery.entries[R1].pop(last(forgery, "unmask"))
    forgery.entries[R1].insert(last(forgery, "mask"), entry)


def of_fewer_regions(forgery: Forgery) -> None:
    """The server sums two, of what is private as a sum of three."""

    def edit(record: Record) -> None:
        left = record["regions"].pop()
        record["refused"].append({"region": left["region"], "reason": "no-reply"})

    forgery.change("server", forgery.find("server", "aggregate")[-1], edit)


def share(text: str | None) -> Callable[[Record], object]:
    return lambda record: record["dp"].update(share_stddev=text)


FORGERIES: dict[str, tuple[str, Callable[[Forgery], object]]] = {
    "a share that is too small": (
        "share-understated",
        change("round", lambda r: share(str(float(r["dp"]["share_stddev"]) * 0.9))(r)),
    ),
    "a share of next to nothing": ("share-parameters", change("round", share("0.5"))),
    "no share": ("share-mode", change("round", share(None))),
    "a charge that holds with fewer": (
        "survivors-min",
        change("charge", lambda r: r.update(honest_survivors_min=2)),
    ),
    "a round that holds with fewer": (
        "survivors-min",
        change("round", lambda r: r["dp"].update(honest_survivors_min=1)),
    ),
    "another sum opened": (
        "unmask-mismatch",
        change("unmask", lambda r: r.update(survivors=["region-1", "region-2"])),
    ),
    "a sum opened twice": ("unmask-twice", again("unmask")),
    "a sum opened before it was masked": ("unmask-order", opened_before_it_was_masked),
    "a sum that too few opened": ("unmask-too-few", without_opening),
    "one sealed update under two masks": ("mask-twice", again("mask", attempt=2)),
    "a sum of fewer than the noise is for": ("survivors-too-few", of_fewer_regions),
    "an opening of another region": ("record", change("unmask", lambda r: r.update(region="x"))),
    "survivors that are no names": ("record", change("unmask", lambda r: r.update(survivors=1))),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_falsified_is_caught_by_name(
    run: tuple[RunFolder, Verdict], tmp_path: Path, name: str
) -> None:
    expected, forge = FORGERIES[name]
    forgery = Forgery(run[0], R1)
    forge(forgery)
    verdict = verify_bundle(forgery.write(tmp_path / "forged"))
    assert expected in codes(verdict), codes(verdict)


def test_openings_in_an_open_run_are_reported(tmp_path: Path) -> None:
    def end(federation: Federation, region: str, number: int) -> None:
        federation.log(
            region,
            {
                "v": "fedpref-unmask/1",
                "run": "run-1",
                "round": number,
                "attempt": 1,
                "region": region,
                "survivors": [region],
                "time": federation.tick(),
            },
        )

    verdict, evidence = verify_with_evidence(Federation(in_round=end).run().write(tmp_path))
    assert evidence is not None
    assert "unmask-not-planned" in codes(verdict)


@given(st.floats(4.0, 1e6), st.integers(1, 60), st.floats(0.01, 10.0), st.integers(-24, 0))
def test_its_own_reckoning_is_that_of_the_accountant(
    stddev: float, survivors: int, norm: float, exponent: int
) -> None:
    noise = SharedNoise(GridStddev.at_least(stddev), survivors, sensitivity_of(norm, exponent), 1)
    found = shared_noise_multiplier(
        noise.share.text, survivors, clipping_norm=repr(norm), grid_exponent=exponent
    )
    assert found == pytest.approx(noise.noise_multiplier, rel=1e-12)


@pytest.mark.parametrize(
    ("share_stddev", "survivors", "norm"),
    [("3.9", 3, "1"), ("nan", 3, "1"), ("5", 0, "1"), ("5", 3, "0"), ("1e30", 3, "1")],
)
def test_noise_that_cannot_be_reckoned_with_is_refused(
    share_stddev: str, survivors: int, norm: str
) -> None:
    with pytest.raises(VerificationError):
        shared_noise_multiplier(share_stddev, survivors, clipping_norm=norm, grid_exponent=-10)
