"""App bundles of one module, as ``flwr run`` would build them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from common.errors import InputError
from server.app_bundle import build_app_bundle

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "shops"
version = "1.0.0"
description = "How often each item was bought"
license = "Apache-2.0"
dependencies = ["flwr==1.41.*", "numpy"]

[tool.flwr.app]
publisher = "shops"
flwr-version-target = "1.41.0"
fab-include = ["app.py"]

[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"

[tool.flwr.app.config]
"""


def bundle_of(
    module: ModuleType, *, config: Mapping[str, float | str] | None = None, note: str = ""
) -> bytes:
    """Builds the bundle of a module that has a ``server`` and a ``client`` app.

    Args:
        module: One of `simulations.deployment_attacks.apps`.
        config: The run configuration's defaults.
        note: A comment at the module's end: the same app, in another bundle.

    Raises:
        InputError: The module has no source file.
    """
    if module.__file__ is None:
        raise InputError(f"{module.__name__} has no source file to build a bundle of.")
    source = Path(module.__file__).read_text(encoding="utf-8")
    defaults = "".join(f"{key} = {json.dumps(value)}\n" for key, value in (config or {}).items())
    with tempfile.TemporaryDirectory(prefix="fedpref-app-") as folder:
        staged = Path(folder)
        (staged / "pyproject.toml").write_text(_PROJECT + defaults, encoding="utf-8")
        (staged / "app.py").write_text(source + (f"# {note}\n" if note else ""), encoding="utf-8")
        return build_app_bundle(staged)
