"""The current model is what the log says; an earlier one is published again by one more entry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common import canonical_json
from common.errors import InputError, VerificationError
from common.parameters import arrays_digest, save_arrays
from server.audit_trail import open_audit_trail
from server.config import ServerHome
from server.current_model import publish_current, published_models, roll_back
from server.deployment import Deployment
from server.provisioning.enrolment import enrol
from server.provisioning.plans import missing_plans
from tests.support.small_deployment import (
    REGIONS,
    declaration,
    installed,
    one_user,  # noqa: F401 - used by itself
    provisioned,
    run_table,
)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    found, config = provisioned(tmp_path, declaration(run={"second": run_table()}))
    installed(tmp_path)
    enrol(found, config, [tmp_path / "regions" / r / "enrolment.json" for r in REGIONS])
    missing_plans(found, config, REGIONS)
    return found


def publish(home: ServerHome, value: float) -> str:
    """What the end of a run does: the model's file, and its entry."""
    model = {"factors": np.full((2, 3), value, dtype=np.float32)}
    home.model.write_bytes(save_arrays(model))
    digest = arrays_digest(model)
    with open_audit_trail(home, home.read_plan(), home.read_registry()) as trail:
        trail.log_model(digest)
    publish_current(ServerHome(home.root))
    return digest


def current(deployment: Deployment) -> dict[str, object]:
    record = canonical_json.decode(deployment.home().current.read_bytes())
    assert isinstance(record, dict)
    return dict(record)


def test_the_newest_published_model_is_the_current_one(deployment: Deployment) -> None:
    assert publish_current(deployment.home()) is None
    first = publish(deployment.home("first"), 1.0)
    assert current(deployment)["model"] == first
    second = publish(deployment.home("second"), 2.0)
    assert current(deployment)["model"] == second
    assert current(deployment)["run"] == deployment.home("second").read_plan().run_id
    kept = {path.name for path in deployment.home().models.iterdir()}
    # Each with its card, for people and for programs.
    assert kept == {
        f"{model}.{ending}" for model in (first, second) for ending in ("safetensors", "json", "md")
    }
    card = canonical_json.decode((deployment.home().models / f"{first}.json").read_bytes())
    assert isinstance(card, dict)
    assert card["model"] == first


def test_an_earlier_model_is_published_again_and_the_log_says_so(deployment: Deployment) -> None:
    first = publish(deployment.home("first"), 1.0)
    publish(deployment.home("second"), 2.0)
    back = roll_back(deployment.home("first"))
    assert back.model == first
    assert current(deployment)["model"] == first
    models = published_models(deployment.home())
    assert [each.model for each in models] == [first, models[1].model, first]
    assert {**models[0].record, "time": ""} == {**models[2].record, "time": ""}
    with pytest.raises(InputError, match="is the current one"):
        roll_back(deployment.home("first"))


def test_a_run_without_a_model_cannot_be_current(deployment: Deployment) -> None:
    with pytest.raises(InputError, match="second has published no model"):
        roll_back(deployment.home("second"))


def test_another_file_than_the_log_names_is_not_published(deployment: Deployment) -> None:
    first = publish(deployment.home("first"), 1.0)
    publish(deployment.home("second"), 2.0)
    kept = deployment.home().models / f"{first}.safetensors"
    other = save_arrays({"factors": np.zeros((2, 3), dtype=np.float32)})
    kept.write_bytes(other)
    deployment.home("first").model.write_bytes(other)
    size = len(published_models(deployment.home()))
    with pytest.raises(VerificationError, match="is in none of the files"):
        roll_back(deployment.home("first"))
    assert len(published_models(deployment.home())) == size


def test_what_a_crash_left_undone_the_next_end_makes_up_for(deployment: Deployment) -> None:
    digest = publish(deployment.home("first"), 1.0)
    deployment.home().current.unlink()
    (deployment.home().models / f"{digest}.safetensors").unlink()
    found = publish_current(deployment.home())
    assert found is not None
    assert current(deployment)["model"] == digest
    assert (deployment.home().models / f"{digest}.safetensors").is_file()
