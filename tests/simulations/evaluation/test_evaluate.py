"""The whole tool: by the command, on a small store, on the regions of a run, and on MovieLens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.errors import EXIT_OK, InputError, UsageError
from simulations.cli import app
from simulations.evaluation.picture import picture
from simulations.evaluation.run import EvaluationRequest, run_evaluation, write_result
from tests.support.evaluation_store import CATALOGUE, made_up_rows, write_catalogue, write_store

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "ml-100k.toml"
MOVIELENS = ROOT / ".venv" / "datasets"
QUICK = {"epsilons": ("8",), "delta": "0.000001", "strategies": ("factors",), "replicates": 100}
Result = dict[str, Any]


def request(data: tuple[Path, ...], **other: Any) -> EvaluationRequest:
    options = {**QUICK, "seeds": 1, "modes": ("local",), **other}
    return EvaluationRequest(scenario=None, data=data, **options)


def evaluated(data: tuple[Path, ...], **other: Any) -> Result:
    return run_evaluation(request(data, **other), lambda *_: None)


def means(result: Result, protocol: str = "new", metric: str = "ndcg@10") -> dict[str, float]:
    return {
        row["method"]: row["mean"]
        for row in result["rows"]
        if (row["setting"], row["protocol"], row["metric"]) == ("everyone", protocol, metric)
    }


@pytest.fixture(scope="module")
def mapping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_catalogue(folder)
    more = "[evaluation]\nregions = 3\nplanned_customers = 200\n" + CATALOGUE
    return write_store(folder, made_up_rows(240), more=more)


@pytest.fixture(scope="module")
def printed(mapping: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Where the command put its files, and what it printed."""
    out = tmp_path_factory.mktemp("out")
    options = ["--data", str(mapping), "--epsilon", "8,1", "--seeds", "2", "--out", str(out)]
    ended = CliRunner().invoke(app, ["evaluate", *options, "--refusal-share", "0.3", "--json"])
    assert ended.exit_code == EXIT_OK, ended.output
    result: Result = json.loads(ended.stdout)
    return out, result


def test_the_command_prints_what_it_writes(printed: tuple[Path, Result]) -> None:
    out, result = printed
    assert json.loads((out / "evaluation.json").read_text()) == result
    assert (out / "privacy-utility.svg").read_text() == picture(result)
    assert result["v"] == "fedpref-evaluation/1"
    assert result["delta"] == "0.000001"


def test_everything_asked_for_is_there(printed: tuple[Path, Result]) -> None:
    _, result = printed
    kinds = {method["method"]: method["kind"] for method in result["methods"]}
    private = {
        f"{strategy}/{mode}/{epsilon}"
        for strategy in ("factors", "gram")
        for mode in ("local", "distributed")
        for epsilon in ("8", "1")
    }
    alone = {"factors/alone/8", "factors/alone/1"}
    assert {key for key, kind in kinds.items() if kind == "private"} == private | alone
    assert {key for key, kind in kinds.items() if kind == "library"} == {
        "implicit/item-knn",
        "implicit/als",
        "implicit/bpr",
    }
    assert means(result).keys() == kinds.keys() - {"own-recent"}
    assert means(result, "all").keys() == kinds.keys()
    assert {plan["setting"] for plan in result["plans"]} == private
    assert {row["group"] for row in result["refusals"]} == {"refused", "consented"}
    assert {row["segmentation"] for row in result["segments"]} == {"region", "activity"}
    metrics = {row["metric"].partition("@")[0] for row in result["rows"]}
    assert metrics == {
        "ndcg",
        "recall",
        "hit_rate",
        "coverage",
        "novelty",
        "gini",
        "long_tail",
    }


def test_planted_tastes_are_learnt_where_noise_lets_them(printed: tuple[Path, Result]) -> None:
    found = means(printed[1])
    assert found["factors/no-privacy"] > 1.2 * found["popularity"]
    assert found["ease"] > 1.2 * found["popularity"]
    assert found["implicit/als"] > 1.2 * found["popularity"]


def test_private_data_come_with_the_price_of_choosing_by_them(
    printed: tuple[Path, Result], tmp_path: Path
) -> None:
    """Whoever tunes by these figures is told that it is a release; public data are free."""
    _, result = printed
    assert result["data"]["public"] is False
    assert any("must be noised and charged" in note for note in result["notes"])
    text = json.dumps(result)
    # Nothing in the result names a best setting, or a constant to take.
    assert "best" not in text.lower()
    assert "recommended" not in text.lower()
    public = write_store(tmp_path, made_up_rows(60), more="[evaluation]\npublic = true\n")
    notes = evaluated((public,), libraries=False, refusal_share=0.0)["notes"]
    assert any("costs no ε" in note for note in notes)
    assert not any("must be noised" in note for note in notes)


def test_the_table_has_the_figures_and_the_notes(mapping: Path, tmp_path: Path) -> None:
    options = ["--data", str(mapping), "--epsilon", "8", "--seeds", "1", "--out", str(tmp_path)]
    options += ["--strategies", "factors", "--modes", "local", "--no-libraries"]
    ended = CliRunner().invoke(app, ["evaluate", *options], env={"COLUMNS": "220"})
    assert ended.exit_code == EXIT_OK, ended.output
    for words in (
        "NEW: items the customer had never bought",
        "ALL: repeats included",
        "factors, local noise, ε = 8",
        "Who is served how",
        "region: region-1",
        "activity: fewest items",
        "If 6% refuse training",
        "one customer, added or removed, at δ = 0.000001",
        "must be noised and charged",
    ):
        assert words in " ".join(ended.stdout.split()), words


def test_the_regions_of_a_run_are_mapped_data_too(finished_run: Path) -> None:
    regions = sorted((finished_run / "regions").iterdir())
    data = tuple(region / "data" / "source.toml" for region in regions)
    result = evaluated(
        data,
        catalogue=finished_run / "data" / "catalogue.parquet",
        libraries=False,
        refusal_share=0.0,
    )
    assert list(result["data"]["regions"]) == [region.name for region in regions]
    found = means(result)
    assert found["factors/local/8"] > found["popularity"] * 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epsilon", "8,x"], "no list of ε"),
        (["--epsilon", "0"], "no list of ε"),
        (["--k", "ten"], "no list of places"),
        (["--strategies", "best"], "no strategy"),
        (["--modes", "central"], "no mode"),
        (["--scenario", "retail-5"], "a scenario or of mapped data"),
    ],
)
def test_bad_options_are_refused(mapping: Path, options: list[str], message: str) -> None:
    ended = CliRunner().invoke(app, ["evaluate", "--data", str(mapping), *options])
    assert isinstance(ended.exception, UsageError)
    assert message in str(ended.exception)


def test_modes_that_there_is_no_plan_for_leave_nothing_to_measure(tmp_path: Path) -> None:
    two = write_store(tmp_path, made_up_rows(60), more="[evaluation]\nregions = 2\n")
    with pytest.raises(InputError, match="Nothing is left to be measured"):
        evaluated((two,), modes=("distributed",))


def test_a_result_that_cannot_be_written_is_a_storage_error(
    printed: tuple[Path, Result], tmp_path: Path
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(Exception, match="cannot be written") as caught:
        write_result(printed[1], occupied / "below")
    assert type(caught.value).__name__ == "StorageError"


def test_movielens_by_its_mapping_file_alone(tmp_path: Path) -> None:
    """`make test` fetches the data; the mapping file is the documented one, moved beside them."""
    mapping = tmp_path / EXAMPLE.name
    mapping.write_text(EXAMPLE.read_text().replace('"recbole/', f'"{MOVIELENS}/recbole/'))
    result = evaluated((mapping,), modes=("distributed",), libraries=False, refusal_share=0.0)
    assert result["protocol"] == "strong"
    assert (result["folds"], result["data"]["items"]) == (5, 1682)
    assert result["customers"]["asked"] == 943
    found = means(result)
    assert found["ease"] > 1.7 * found["popularity"]
    assert found["factors/distributed/8"] > 1.3 * found["popularity"]
