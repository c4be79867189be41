"""A model is served only if the coordinator's log has it: every way that it may not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine.home import RegionHome
from client.recommend.release import (
    CURRENT_NAME,
    ENTRY_NAME,
    MODEL_NAME,
    PROOF_NAME,
    PublishedRelease,
    install_release,
    installed,
    load_release,
    release_folder,
)
from client.recommend.settings import ModelSettings
from common.audit.merkle import leaf_hash
from common.audit.proof_file import LogProof
from common.errors import FedprefError, InputError, VerificationError
from common.parameters import save_arrays
from tests.support.memory_signer import MemorySigner
from tests.support.region_home import make_region_home
from tests.support.served_region import (
    AGGREGATOR,
    OTHERS,
    PublishedFiles,
    model_arrays,
    model_plan,
)

PLAN = model_plan()
STRANGER = MemorySigner("a stranger")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    return make_region_home(
        tmp_path_factory.mktemp("release") / "home", others=OTHERS, witness_quorum=1
    )


@pytest.fixture
def home(made: RegionHome) -> RegionHome:
    shutil.rmtree(release_folder(made).parent, ignore_errors=True)
    return made


def published(**changes: Any) -> PublishedFiles:
    return PublishedFiles(**{"plan": PLAN, "arrays": model_arrays(PLAN), **changes})


def test_a_logged_model_is_loaded_by_its_digest(home: RegionHome) -> None:
    files = published()
    digest = files.put(home)
    release = load_release(home)
    assert (release.digest, release.plan) == (digest, PLAN)
    assert release.logged.record["model"] == digest
    assert set(release.logged.witnesses) == {"witness"}
    assert np.array_equal(release.model.item_factors, files.arrays["item_factors"])
    assert release.popularity_noise_stddev == PLAN.mechanisms[0].noise_stddev
    assert load_release(home, ModelSettings(digest=digest, run=PLAN.run_id)).digest == digest


def other_arrays() -> dict[str, Any]:
    return model_arrays(PLAN, seed=5)


def cut_proof(files: dict[str, bytes]) -> bytes:
    proof = LogProof.parse(files[PROOF_NAME])
    return LogProof(proof.index, proof.hashes[:-1], proof.checkpoint).encode()


TAMPERED: dict[str, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    "a bit of the model": lambda files: {
        MODEL_NAME: files[MODEL_NAME][:-1] + bytes([files[MODEL_NAME][-1] ^ 1])
    },
    "another model": lambda files: {MODEL_NAME: save_arrays(other_arrays())},
    "a torn model": lambda files: {MODEL_NAME: files[MODEL_NAME][:-7]},
    "no model": lambda files: {MODEL_NAME: b""},
    "another plan": lambda files: {
        "plan.json": published(plan=model_plan(planned_customers=999)).files()["plan.json"]
    },
    "no plan": lambda files: {"plan.json": b"{}"},
    "a bit of the entry": lambda files: {
        ENTRY_NAME: files[ENTRY_NAME].replace(b'"sig":"', b'"sig":"A', 1)
    },
    "no entry": lambda files: {ENTRY_NAME: b"\xff"},
    "another entry's proof": lambda files: {
        PROOF_NAME: published(entry_fields={"rounds": 9}).files()[PROOF_NAME]
    },
    "a cut proof": lambda files: {PROOF_NAME: cut_proof(files)},
    "no proof": lambda files: {PROOF_NAME: b"nothing"},
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_release_is_not_served(home: RegionHome, what: str) -> None:
    files = published()
    files.put(home, **TAMPERED[what](files.files()))
    with pytest.raises(VerificationError, match="is not served"):
        load_release(home)


ANOTHER: dict[str, dict[str, Any]] = {
    "an entry that the coordinator has not signed": {"signer": STRANGER},
    "a log that the coordinator has not signed": {"log_signer": STRANGER},
    "another party's log": {"origin": "small.example/region-1"},
    "nobody's cosignature": {"witnesses": ()},
    "a stranger's cosignature": {"witnesses": (("witness", STRANGER),)},
    "the coordinator's own cosignature": {"witnesses": (("server", AGGREGATOR),)},
    "an entry of another run": {"entry_fields": {"run": "run-2"}},
    "an entry of another model": {"entry_fields": {"model": "e" * 64}},
    "an entry of another plan": {"entry_fields": {"plan": "e" * 64}},
    "an entry of another catalogue": {"entry_fields": {"catalogue": "e" * 64}},
    "another federation's run": {"plan": model_plan(federation="other.example")},
    "a run without the region": {"plan": model_plan(regions=["region-2", "region-3"])},
}


@pytest.mark.parametrize("what", ANOTHER)
def test_a_model_that_is_anothers_is_not_served(home: RegionHome, what: str) -> None:
    published(**ANOTHER[what]).put(home)
    with pytest.raises(VerificationError, match="is not served"):
        load_release(home)


def test_numbers_that_are_none_are_not_served(home: RegionHome) -> None:
    arrays = model_arrays(PLAN)
    arrays["item_factors"] = np.full_like(arrays["item_factors"], np.nan)
    published(arrays=arrays).put(home)
    with pytest.raises(VerificationError, match="not finite"):
        load_release(home)


def test_a_model_lies_under_its_own_digest_only(home: RegionHome) -> None:
    published().put(home, digest="a" * 64)
    with pytest.raises(VerificationError, match="not the model of its log entry"):
        load_release(home)


def test_the_settings_decide_which_model_and_run(home: RegionHome) -> None:
    older, newer = published(), published(arrays=other_arrays())
    older.put(home)
    newer.put(home)
    assert load_release(home).digest == newer.digest
    assert load_release(home, ModelSettings(digest=older.digest)).digest == older.digest
    with pytest.raises(VerificationError, match="the settings ask for run-9"):
        load_release(home, ModelSettings(run="run-9"))
    with pytest.raises(InputError, match="cannot be read"):
        load_release(home, ModelSettings(digest="b" * 64))


def test_without_a_model_there_is_a_remedy(home: RegionHome) -> None:
    assert installed(home) is None
    with pytest.raises(InputError, match="recommend install"):
        load_release(home)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"v":"other"}', b'{"log_index":-1,"model":"../../..","v":"x"}', b"\xff"]
)
def test_a_damaged_pointer_is_no_path(home: RegionHome, text: bytes) -> None:
    published().put(home)
    (release_folder(home) / CURRENT_NAME).write_bytes(text)
    with pytest.raises(InputError):
        load_release(home)


def test_a_release_comes_from_the_check_alone(home: RegionHome) -> None:
    published().put(home)
    release = load_release(home)
    with pytest.raises(VerificationError, match="past the check"):
        PublishedRelease(release.digest, release.model, release.plan, release.logged, seal=object())


def test_what_is_no_bundle_is_not_installed(home: RegionHome, tmp_path: Path) -> None:
    with pytest.raises(FedprefError):
        install_release(home, tmp_path)
    assert not release_folder(home).exists()


def test_the_leaf_is_the_entrys(home: RegionHome) -> None:
    """The proof file does not hold the entry: what is proved is the bytes beside it."""
    files = published()
    files.put(home)
    assert load_release(home).logged.leaf == leaf_hash(files.files()[ENTRY_NAME])
