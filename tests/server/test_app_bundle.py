"""What the coordinator ships: the relay, the coordinator, what they import, and nothing else."""

from __future__ import annotations

import hashlib
import io
import tomllib
import zipfile
from pathlib import Path

import grimp
import pytest

from common.errors import InputError
from server import app_bundle
from server.app_bundle import app_bundle_sha256, build_app_bundle, source_root, stage_app
from server.config import ServerConfig

ROOT = Path(__file__).resolve().parents[2]
APPS = ("client.app", "server.app")

# Flower matches paths by a class of pathspec that has a new name.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("bundle") / "app"
    stage_app(folder)
    return build_app_bundle(folder)


def names(bundle: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return set(archive.namelist())


def test_it_carries_exactly_what_the_two_apps_import(bundle: bytes) -> None:
    graph = grimp.build_graph("common", "client", "server", cache_dir=None)
    modules = set(APPS).union(*(graph.find_upstream_modules(app) for app in APPS))
    packages = {"/".join(m.split(".")[:n]) for m in modules for n in range(1, m.count(".") + 1)}
    packages |= {m.replace(".", "/") for m in modules if (ROOT / m.replace(".", "/")).is_dir()}
    names_of = {module.replace(".", "/") for module in modules}
    expected = {f"{module}.py" for module in names_of - packages}
    expected |= {f"{package}/__init__.py" for package in packages}
    # If this fails, bring fab-include in pyproject.toml in line.
    assert names(bundle) - {"pyproject.toml", ".info/CONTENT"} == expected


def test_neither_the_engine_nor_data_nor_training_is_in_it(bundle: bytes) -> None:
    for name in names(bundle):
        assert not name.startswith(("client/engine", "client/data", "client/training", "simul"))
    imported = b"".join(
        (ROOT / name).read_bytes() for name in names(bundle) if name.endswith(".py")
    )
    for library in (b"import torch", b"import opacus", b"import pandas", b"import ray"):
        assert library not in imported


def test_the_same_content_has_the_same_hash(bundle: bytes, tmp_path: Path) -> None:
    stage_app(tmp_path / "another_name")
    again = build_app_bundle(tmp_path / "another_name")
    assert hashlib.sha256(again).hexdigest() == hashlib.sha256(bundle).hexdigest()
    assert app_bundle_sha256() == hashlib.sha256(bundle).hexdigest()


def test_one_byte_more_has_another_hash(bundle: bytes, tmp_path: Path) -> None:
    stage_app(tmp_path / "app")
    with (tmp_path / "app" / "client" / "app.py").open("a") as file:
        file.write("\n")
    assert build_app_bundle(tmp_path / "app") != bundle


def test_the_configuration_it_ships_is_the_one_the_app_reads(bundle: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        project = tomllib.loads(archive.read("pyproject.toml").decode())
    shipped = project["tool"]["flwr"]["app"]["config"]
    config = ServerConfig.read({**shipped, "server-home": "/srv/fedpref"})
    assert set(shipped) == {f.alias for f in ServerConfig.model_fields.values()}
    assert (config.nodes_wait_s, config.describe_timeout_s) == (120.0, 60.0)
    assert project["tool"]["flwr"]["app"]["components"] == {
        "serverapp": "server.app:app",
        "clientapp": "client.app:app",
    }


def test_a_pattern_that_matches_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "checkout"
    project.mkdir()
    (project / "pyproject.toml").write_text('[tool.flwr.app]\nfab-include = ["gone.py"]\n')
    monkeypatch.setattr(app_bundle, "source_root", lambda: project)
    with pytest.raises(InputError, match=r"gone\.py"):
        stage_app(tmp_path / "app")


def test_an_installed_wheel_says_that_it_has_no_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source_root() == ROOT
    monkeypatch.setattr(app_bundle, "__file__", str(tmp_path / "server" / "app_bundle.py"))
    with pytest.raises(InputError, match="source checkout"):
        source_root()
