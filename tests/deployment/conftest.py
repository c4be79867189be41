"""A real federation, made by the six commands that docs/operator.md has, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.deployment_attacks.our_federation import open_federation, shut_down, use_free_ports
from tests.support.deployed import Deployed
from tests.support.shared_python import shared_scripts

OPERATOR = Path(__file__).resolve().parents[2] / "docs" / "operator.md"
_BLOCK = re.compile(r"^```sh\n(fedpref-sim shops shops\n.*?)^```$", re.DOTALL | re.MULTILINE)
_TIMEOUT_S = 600


def six_commands() -> list[str]:
    """The commands of the page."""
    (text,) = _BLOCK.findall(OPERATOR.read_text(encoding="utf-8"))
    return str(text).strip().splitlines()


@pytest.fixture(scope="session")
def said() -> dict[str, str]:
    """By command what it said; filled by `deployed`."""
    return {}


@pytest.fixture(scope="session")
def deployed(said: dict[str, str]) -> Iterator[Deployed]:
    """The federation after its six commands: its first run is finished, and it runs on.

    The commands are the page's, to the letter; only the ports that the shops are made with may be
    another program's on this machine, so others are chosen between the first command and the next.
    """
    assert os.geteuid() == 0, "only root can give processes users of their own: run this as root"
    # Not below pytest's folder: other users must be able to pass through, and sockets have short
    # paths.
    with tempfile.TemporaryDirectory(prefix="fp-") as folder:
        root = Path(folder) / "f"
        root.mkdir()
        Path(folder).chmod(0o711)
        scripts = shared_scripts(Path(folder))
        federation = open_federation(root, scripts)
        try:
            for command in six_commands():
                said[command] = _run(command, root, scripts)
                if command == "fedpref-sim shops shops":
                    use_free_ports(root / "shops")
            yield Deployed(federation)
        finally:
            shut_down(root)


def _run(command: str, folder: Path, scripts: Path) -> str:
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout
