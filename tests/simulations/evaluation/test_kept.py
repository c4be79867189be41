"""An evaluation that was interrupted goes on, and ends with the figures of one that was not."""

from __future__ import annotations

import itertools
import json
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from client.training.evaluation import Protocol
from common.errors import EXIT_INTERRUPTED, EXIT_OK, StorageError
from simulations.cli import app
from simulations.evaluation import contenders, kept
from simulations.evaluation.contenders import Private, Question, Ranking
from simulations.evaluation.judge import Judge, Metrics
from simulations.evaluation.kept import Arrays, KeptParts
from simulations.evaluation.protocols import Fold
from simulations.evaluation.run import UNFINISHED, Evaluation, EvaluationRequest, prepare
from simulations.run_folder import open_run_folder
from tests.support.evaluation_store import made_up_rows, write_store

Result = dict[str, Any]
OPTIONS = ["--epsilon", "8", "--seeds", "2", "--strategies", "factors", "--modes", "local"]
OPTIONS += ["--no-libraries", "--refusal-share", "0.3", "--json"]


@pytest.fixture(scope="module")
def mapping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = "[evaluation]\nregions = 2\nplanned_customers = 100\n"
    return write_store(tmp_path_factory.mktemp("shop"), made_up_rows(90), more=more)


def evaluate(mapping: Path, out: Path) -> tuple[int, str, str]:
    """Exit code, what is printed, and what is told beside it."""
    options = ["evaluate", "--data", str(mapping), *OPTIONS, "--out", str(out)]
    ended = CliRunner().invoke(app, options)
    return ended.exit_code, ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def uninterrupted(mapping: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    code, printed, _ = evaluate(mapping, tmp_path_factory.mktemp("whole"))
    assert code == EXIT_OK
    return printed


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is trained with noise, one after the other."""
    seen: list[str] = []
    train = contenders.train_private

    def seeing(population: Any, regions: Sequence[str], plan: Any, name: str) -> Any:
        seen.append(f"{name}/{','.join(regions)}/{len(population.pooled.sids)}")
        return train(population, regions, plan, name)

    monkeypatch.setattr(contenders, "train_private", seeing)
    return seen


def interrupt_at(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the midst of ranking for the time that is counted."""
    rank, calls = Private.rank, itertools.count(1)

    def interrupted(self: Private, question: Question, seed: int) -> Iterator[Ranking]:
        rankings = rank(self, question, seed)
        yield next(rankings)
        if next(calls) == count:
            raise KeyboardInterrupt
        yield from rankings

    monkeypatch.setattr(Private, "rank", interrupted)


def test_the_same_command_goes_on_and_ends_with_the_same_figures(
    mapping: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: str,
    trained: list[str],
) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(3, patched)
        assert evaluate(mapping, tmp_path)[0] == EXIT_INTERRUPTED
    assert not (tmp_path / "evaluation.json").exists()
    before = list(trained)
    code, printed, told = evaluate(mapping, tmp_path)
    assert code == EXIT_OK
    assert json.loads(printed) == json.loads(uninterrupted)
    # λ of EASE; two seeds of all regions, and of each alone; four baselines. Of what is measured
    # with refusals the first seed was begun.
    assert "9 parts are measured already: going on." in told
    # What was interrupted is trained again, and nothing else is.
    assert trained[len(before)] == before[-1]
    assert not set(trained[len(before) + 1 :]) & set(before)
    assert not (tmp_path / UNFINISHED).exists()


def test_two_at_once_in_one_folder_are_kept_apart(mapping: Path, tmp_path: Path) -> None:
    options = ["evaluate", "--data", str(mapping), *OPTIONS, "--out", str(tmp_path)]
    with open_run_folder(tmp_path):
        ended = CliRunner().invoke(app, options)
    assert isinstance(ended.exception, StorageError)
    assert "Another command is working" in str(ended.exception)


# --- which parts are of which evaluation ---------------------------------------------------------


def request(mapping: Path, **other: Any) -> EvaluationRequest:
    options = {
        "epsilons": ("8",),
        "delta": "0.000001",
        "seeds": 1,
        "strategies": ("factors",),
        "modes": ("local",),
        "libraries": False,
        "replicates": 100,
        **other,
    }
    return EvaluationRequest(scenario=None, data=(mapping,), **options)


@pytest.fixture(scope="module")
def prepared(mapping: Path) -> Evaluation:
    return prepare(request(mapping))


def test_a_digest_is_of_the_same_evaluation(mapping: Path, prepared: Evaluation) -> None:
    assert prepare(request(mapping)).digest == prepared.digest
    # More seeds take up the parts of those that are there, and resampling is not kept.
    assert prepare(request(mapping, seeds=4, replicates=7)).digest == prepared.digest


@pytest.mark.parametrize(
    "other",
    [
        {"epsilons": ("3",)},
        {"epsilons": ("8", "3")},
        {"delta": "0.00001"},
        {"strategies": ("gram",)},
        {"protocol": "strong"},
        {"places": (5,)},
        {"refusal_share": 0.2},
    ],
    ids=str,
)
def test_another_request_has_another_digest(
    other: dict[str, Any], mapping: Path, prepared: Evaluation
) -> None:
    assert prepare(request(mapping, **other)).digest != prepared.digest


def one_purchase_later(fold: Fold) -> Fold:
    train = fold.train["region-1"]
    last_ms = train.last_ms.copy()
    last_ms[0] += 1
    return replace(fold, train={**fold.train, "region-1": replace(train, last_ms=last_ms)})


def bought_twice(fold: Fold) -> Fold:
    train = fold.train["region-2"]
    values = train.counts.values.copy()
    values[-1] += 1
    counts = replace(train.counts, values=values)
    return replace(fold, train={**fold.train, "region-2": replace(train, counts=counts)})


def another_answer(fold: Fold) -> Fold:
    answers = fold.answers["region-2"]
    items = answers.items.copy()
    items[0] = items[0] + 1
    return replace(fold, answers={**fold.answers, "region-2": replace(answers, items=items)})


def another_name(fold: Fold) -> Fold:
    history = fold.histories["region-1"]
    sids = ("another", *history.sids[1:])
    changed = {**fold.histories, "region-1": replace(history, sids=sids)}
    return replace(fold, histories=changed)


def not_tuned(fold: Fold) -> Fold:
    return replace(fold, tuning=None)


@pytest.mark.parametrize(
    "change", [one_purchase_later, bought_twice, another_answer, another_name, not_tuned]
)
def test_other_data_have_another_digest(
    change: Callable[[Fold], Fold], prepared: Evaluation
) -> None:
    folds = [change(fold) for fold in prepared.folds]
    assert replace(prepared, folds=folds).digest != prepared.digest


def test_another_code_or_library_has_another_digest(
    prepared: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("code_digest", "dependencies_digest"):
        with monkeypatch.context() as patched:
            patched.setattr(kept, name, lambda *_: "0" * 64)
            changed = prepared.digest
        assert changed != prepared.digest


# --- parts on disk -------------------------------------------------------------------------------


def made(value: float) -> Callable[[], Arrays]:
    return lambda: {"a": np.array([value])}


def never() -> Arrays:
    pytest.fail("A part that is kept was measured again.")


def test_a_part_is_made_once_and_its_names_do_not_meet(tmp_path: Path) -> None:
    parts = KeptParts(tmp_path / "of this one")
    for number, name in enumerate(("a/b", "a%2Fb", "a", "../a")):
        assert parts.arrays(name, made(number))["a"].tolist() == [number]
    for number, name in enumerate(("a/b", "a%2Fb", "a", "../a")):
        assert parts.arrays(name, never)["a"].tolist() == [number]
    assert parts.count == 4
    assert [each.name for each in tmp_path.iterdir()] == ["of this one"]


def test_only_the_owner_may_read_what_is_of_customers(tmp_path: Path) -> None:
    folder = tmp_path / "parts" / "one"
    KeptParts(folder).arrays("a", made(1.0))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {0o700, 0o600}


@pytest.mark.parametrize("damage", [b"", b"\x00" * 7, b"{}", b"\xff" * 400], ids=len)
def test_a_damaged_part_is_measured_again(damage: bytes, tmp_path: Path) -> None:
    parts = KeptParts(tmp_path)
    parts.arrays("a", made(1.0))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert parts.arrays("a", made(2.0))["a"].tolist() == [2.0]
    assert parts.arrays("a", never)["a"].tolist() == [2.0]


def test_a_cut_off_part_is_measured_again(tmp_path: Path) -> None:
    parts = KeptParts(tmp_path)
    parts.arrays("a", lambda: {"a": np.arange(100.0)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    assert parts.arrays("a", made(2.0))["a"].tolist() == [2.0]


def test_what_fails_is_not_kept(tmp_path: Path) -> None:
    def fails() -> Arrays:
        raise KeyboardInterrupt

    parts = KeptParts(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        parts.arrays("a", fails)
    assert parts.count == 0


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be kept"):
        KeptParts(tmp_path / "file" / "parts").arrays("a", made(1.0))


def test_removing_leaves_what_is_of_another_evaluation(tmp_path: Path) -> None:
    own, other = KeptParts(tmp_path / "all" / "own"), KeptParts(tmp_path / "all" / "other")
    own.remove()
    own.arrays("a", made(1.0))
    other.arrays("a", made(2.0))
    own.remove()
    assert (own.count, other.count) == (0, 1)
    other.remove()
    assert not (tmp_path / "all").exists()


def test_qualities_come_back_as_they_were(prepared: Evaluation) -> None:
    judge = Judge(prepared.folds, prepared.split, Metrics((3, 5)))
    generator = np.random.default_rng(1)
    n_items = prepared.data.catalogue.n_items
    asked = len(judge.asked(Protocol.NEW))
    qualities = {
        (method, counted): judge.judge(counted, [generator.integers(0, n_items, (asked, 5))])
        for method in ("factors/local/8", "factors/local/8/no-factors")
        for counted in (Protocol.NEW, Protocol.ALL)
    }
    back = judge.from_arrays(judge.to_arrays(qualities))
    assert back.keys() == qualities.keys()
    for key, quality in qualities.items():
        assert back[key].overall == quality.overall
        for metric, values in quality.by_customer.items():
            np.testing.assert_array_equal(back[key].by_customer[metric], values)
