"""App bundles for tests: an honest relay of a few lines, and whatever else a test makes of it."""

from __future__ import annotations

import io
import tomllib
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """[project]
name = "relay"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
"""

# As the real one, without its reason codes; it says which packages it really uses.
RELAY = """
import os
from flwr.app import Message
from flwr.clientapp import ClientApp
from common.engine_channel import resolve_channel
from common.messages import decode_message, encode_message

app = ClientApp()


def relayed(method, message, context):
    header, arrays = decode_message(message.content)
    return resolve_channel(context.node_config).call(method, header, arrays)


@app.query("describe")
def describe(message, context):
    return Message(encode_message(*relayed("describe", message, context)), reply_to=message)


@app.train()
def train(message, context):
{before}
    answer, arrays = relayed("train", message, context)
{after}
    return Message(encode_message(answer, arrays), reply_to=message)
"""


def bundle(files: Mapping[str, str | bytes]) -> bytes:
    """A bundle of these files, the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def relay_bundle(*, before: str = "pass", after: str = "pass", top: str = "") -> bytes:
    """A relay with code of a test's own around its question to the engine."""
    source = RELAY.format(before=_indented(before), after=_indented(after))
    return bundle(
        {
            **_common(),
            "pyproject.toml": PYPROJECT,
            "client/__init__.py": '"""A bundle\'s own package."""\n',
            "client/app.py": f"{top}\n{source}",
        }
    )


@cache
def _common() -> dict[str, bytes]:
    """The modules of ``common/`` that the real bundle has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = project["tool"]["flwr"]["app"]["fab-include"]
    return {name: (ROOT / name).read_bytes() for name in names if name.startswith("common/")}


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.splitlines())
