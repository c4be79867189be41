"""Bills of materials: valid CycloneDX, of exactly what the locks name, as `make sbom` writes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("region", "server")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that `make sbom` runs."""
    path = ROOT / "requirements" / "bill_of_materials.py"
    spec = importlib.util.spec_from_file_location("bill_of_materials", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shipped(role: str) -> str:
    return (ROOT / "sbom" / f"{role}.cdx.json").read_text(encoding="utf-8")


def components(role: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(shipped(role))["components"]}


@pytest.mark.parametrize("role", ROLES)
def test_it_is_as_make_sbom_writes_it(role: str, script: ModuleType) -> None:
    assert shipped(role) == script.bill_of(role), "run `make sbom`"


@pytest.mark.parametrize("role", ROLES)
def test_it_is_valid_cyclonedx(role: str) -> None:
    # Takes seconds to import, in every process that collects tests.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(shipped(role)) is None
    broken = shipped(role).replace('"specVersion": "1.6"', '"specVersion": 16')
    assert validator.validate_str(broken) is not None


@pytest.mark.parametrize("role", ROLES)
def test_it_has_what_the_lock_has(role: str, script: ModuleType) -> None:
    locked = script.locked(role)
    found = {
        name: (
            each["version"],
            [item["value"] for item in each["properties"]],
        )
        for name, each in components(role).items()
    }
    assert found == {name: (version, sorted(hashes)) for name, (version, hashes) in locked.items()}
    assert len(found) > 20


@pytest.mark.parametrize("role", ROLES)
def test_every_package_states_its_licence(role: str) -> None:
    for name, each in components(role).items():
        assert each.get("licenses"), name


@pytest.mark.parametrize("role", ROLES)
def test_every_package_is_needed_by_something(role: str) -> None:
    """From the product, all of them are reached."""
    graph = {
        each["ref"]: each.get("dependsOn", []) for each in json.loads(shipped(role))["dependencies"]
    }
    reached, waiting = set(), [f"fedpref-{role}"]
    while waiting:
        ref = waiting.pop()
        if ref not in reached:
            reached.add(ref)
            waiting += graph.get(ref, [])
    assert reached == {f"fedpref-{role}", *(each["bom-ref"] for each in components(role).values())}
