"""An installed region's folder: home, region.toml, node key, certificate authority.

The home is copied from a provisioned federation, so every key, entry and permit in it is real.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from client.engine.home import RegionHome
from client.engine.policy import read_policy


def toml_text(tables: Mapping[str, Any]) -> str:
    """Tables as TOML: plain values and tables in tables, all inline."""
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in table.items()) + "\n"
        for name, table in tables.items()
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_node_key(path: Path) -> None:
    """Makes a node's key and its public half."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_name(f"{path.name}.pub").write_bytes(public + b" node of a test\n")


@dataclass(frozen=True)
class RegionFolder:
    """A region's folder and what its settings say.

    Attributes:
        root: The folder.
        tables: The tables of its ``region.toml``.
    """

    root: Path
    tables: dict[str, Any]

    @property
    def home(self) -> RegionHome:
        return RegionHome.read(self.root)

    @property
    def settings(self) -> Path:
        return self.root / "region.toml"

    def write(self, **changes: Mapping[str, Any]) -> None:
        """Writes the settings, with some fields of some tables changed."""
        for name, fields in changes.items():
            self.tables[name] = {**self.tables.get(name, {}), **fields}
        self.settings.write_text(toml_text(self.tables), encoding="utf-8")
        self.settings.chmod(0o644)


def make_region_folder(
    root: Path, home: RegionHome, *, address: str, authority: Path, witnesses: tuple[str, ...] = ()
) -> RegionFolder:
    """Makes a region's folder around a copy of a home."""
    shutil.copytree(home.root, root / "home")
    write_node_key(root / "node" / "node_key")
    shutil.copy(authority, root / "node" / "ca.crt")
    policy = {**read_policy(home.policy).to_record()}
    del policy["region"]
    region = RegionFolder(
        root,
        {
            "region": {
                "name": home.region,
                "federation": home.federation,
                "jurisdiction": "DE",
            },
            "coordinator": {"address": address},
            "node": {"runtime_port": free_port()},
            "source": {"file": "home/data/source.toml"},
            "policy": policy,
            "witnesses": {"addresses": list(witnesses)},
        },
    )
    region.write()
    return region
