"""Bundles that look like this system's own, and are not."""

from __future__ import annotations

import json
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError
from server.app_bundle import PYPROJECT, build_app_bundle, stage_app
from simulations.deployment_attacks.apps import evil_relay

_RELAY = Path("client") / "app.py"


def other_bundle() -> bytes:
    """This system's bundle with one line of comment more."""
    with _staged() as staged:
        relay = staged / _RELAY
        relay.write_text(relay.read_text(encoding="utf-8") + "# one line more\n", encoding="utf-8")
        return build_app_bundle(staged)


def evil_bundle(wanted: Mapping[str, list[str]]) -> bytes:
    """This system's bundle with `simulations.deployment_attacks.apps.evil_relay` as its relay.

    Args:
        wanted: What the relay is to try, by kind.

    Raises:
        InputError: The project file is not as this expects.
    """
    with _staged() as staged:
        shutil.copyfile(evil_relay.__file__, staged / _RELAY)
        (staged / _RELAY.parent / evil_relay.WANTED).write_text(json.dumps(wanted))
        project = staged / PYPROJECT
        text = project.read_text(encoding="utf-8")
        listed = f'  "{_RELAY.as_posix()}",\n'
        changed = text.replace(listed, f'{listed}  "client/{evil_relay.WANTED}",\n')
        if changed == text or not tomllib.loads(changed):
            raise InputError(f"{PYPROJECT} does not list {_RELAY} on a line of its own.")
        project.write_text(changed, encoding="utf-8")
        return build_app_bundle(staged)


@contextmanager
def _staged() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fedpref-app-") as folder:
        staged = Path(folder) / "app"
        stage_app(staged)
        yield staged
