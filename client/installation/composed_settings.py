"""A region's ``region.toml``, composed of what the kit says and what the operator answered."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from client.settings import FILE_NAME, RegionSettings
from common.durable_file import write_durably
from common.errors import InputError, StorageError
from common.kit import EXAMPLE, Kit
from common.system_users import is_root
from common.toml_file import read_toml

#: Who a region's processes run as where root starts them, unless the answers say otherwise.
ENGINE_USER = "fedpref-engine"
NODE_USER = "fedpref-node"
RELAY_USER = "fedpref-relay"
#: The tables that an operator answers; the others are the kit's.
ANSWERED = frozenset(
    {
        "source",
        "policy",
        "form",
        "notice",
        "consents",
        "engine",
        "node",
        "relay",
        "recommender",
        "profiles",
        "witnesses",
    }
)
_FIRST_RUNTIME_PORT = 9094
_MAX_ANSWERS_BYTES = 1 << 20
_COPIED = ("notice", "consents")
_HEAD = """\
# Settings of {region}, written by `fedpref-region install` from its kit and its answers. Each
# process reads its own tables; nothing in this file is sent anywhere. Every field is explained in
# docs/examples/region.toml. After a change of [policy]: fedpref-region policy sign.

"""


@dataclass(frozen=True)
class Answers:
    """What an operator answered.

    Attributes:
        folder: Where relative paths in it begin.
        tables: The tables.
    """

    folder: Path
    tables: Mapping[str, Any]


def read_answers(folder: Path, region: str) -> Answers | None:
    """Reads a region's answers.

    Args:
        folder: The folder of all answers; it has a folder for each region.
        region: The region.

    Returns:
        The answers, or None if there are none for this region.

    Raises:
        InputError: They are malformed, or answer what only the kit can say.
    """
    path = folder / region / FILE_NAME
    if not path.exists():
        return None
    tables = read_toml(
        path,
        "The answers",
        max_bytes=_MAX_ANSWERS_BYTES,
        remedy="Let the user who installs read them.",
    )
    unknown = sorted(set(tables) - ANSWERED)
    if unknown:
        raise InputError(
            f"The answers {path} have a table [{unknown[0]}], which no answer has.",
            remedy=f"The tables are {', '.join(sorted(ANSWERED))}; [region] and [coordinator] are "
            "the kit's.",
        )
    return Answers(path.parent, tables)


def write_settings(
    folder: Path, kit: Kit, answers: Answers | None, *, used_ports: Collection[int]
) -> bool:
    """Writes a region's settings, unless they are there; checks them as all processes will.

    Args:
        folder: The region's folder.
        kit: Its verified kit.
        answers: What the operator answered; None leaves the kit's example to be answered in place.
        used_ports: The runtime ports of other regions on this machine.

    Returns:
        Whether everything is answered.

    Raises:
        SettingsError: An answer is wrong: names the field.
        InputError: Settings are there, of another region or federation.
    """
    path = folder / FILE_NAME
    if not path.exists():
        tables = _composed(folder, kit, answers, used_ports)
        text = _HEAD.format(region=kit.facts.region) + tomli_w.dumps(tables)
        if answers is None:
            text += "\n" + kit.files[EXAMPLE].decode("utf-8")
        try:
            write_durably(path, text.encode())
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
        if answers is None:
            return False
        try:
            RegionSettings.read(path)
        except InputError:
            # The mistake is in the answers: they are corrected there, and composed again.
            path.unlink()
            raise
    _require_same(RegionSettings.read(path), kit, path)
    return True


def used_runtime_ports(into: Path, *, but: str) -> frozenset[int]:
    """The runtime ports of the other regions that are installed in a folder.

    Args:
        into: The folder of regions.
        but: The region that is not counted.
    """
    ports = set()
    for path in into.glob(f"*/{FILE_NAME}"):
        if path.parent.name == but:
            continue
        try:
            node = tomllib.loads(path.read_text(encoding="utf-8")).get("node", {})
        except (OSError, ValueError):
            # Another region's broken settings are for its own commands to complain of.
            continue
        if isinstance(node, dict) and isinstance(node.get("runtime_port"), int):
            ports.add(node["runtime_port"])
    return frozenset(ports)


def _composed(
    folder: Path, kit: Kit, answers: Answers | None, used_ports: Collection[int]
) -> dict[str, Any]:
    facts = kit.facts
    given: dict[str, Any] = {}
    if answers is not None:
        given = {name: dict(table) for name, table in answers.tables.items()}
    tables: dict[str, Any] = {
        "region": {
            "name": facts.region,
            "federation": facts.federation,
            "jurisdiction": facts.jurisdiction,
        },
        "coordinator": {"address": facts.address, "server_name": facts.server_name},
        "engine": _engine(given.pop("engine", {})),
        "node": _node(given.pop("node", {}), used_ports),
        "relay": _with_user(given.pop("relay", {}), RELAY_USER),
    }
    if answers is not None:
        for name, table in given.items():
            tables[name] = _resolved(name, table, answers.folder, folder)
        policy = tables.get("policy")
        if isinstance(policy, dict):
            policy.setdefault("app_bundles", [facts.app_sha256])
            policy.setdefault("catalogues", [facts.catalogue_sha256])
    return tables


def _engine(table: dict[str, Any]) -> dict[str, Any]:
    if is_root():
        table.setdefault("user", ENGINE_USER)
        table.setdefault("relay_users", [RELAY_USER])
        table.setdefault("socket_group", RELAY_USER)
    return table


def _node(table: dict[str, Any], used_ports: Collection[int]) -> dict[str, Any]:
    port = _FIRST_RUNTIME_PORT
    while port in used_ports:
        port += 1
    table.setdefault("runtime_port", port)
    return _with_user(table, NODE_USER)


def _with_user(table: dict[str, Any], user: str) -> dict[str, Any]:
    if is_root():
        table.setdefault("user", user)
    return table


def _resolved(name: str, table: Any, origin: Path, folder: Path) -> Any:
    """A table whose paths began at the answers' folder: small files are copied, data stay."""
    if not isinstance(table, dict):
        return table
    resolved = dict(table)
    for field in ("file", "path"):
        text = resolved.get(field)
        if not isinstance(text, str) or not text:
            continue
        source = origin / text
        if name in _COPIED and field == "file":
            resolved[field] = _copied(source, folder).relative_to(folder).as_posix()
        elif not Path(text).is_absolute():
            resolved[field] = str(source.absolute())
    return resolved


def _copied(source: Path, folder: Path) -> Path:
    target = folder / "answers" / source.name
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o600)
    except OSError as error:
        raise InputError(
            f"{source}, which the answers name, cannot be copied: {error.strerror}."
        ) from error
    return target


def _require_same(settings: RegionSettings, kit: Kit, path: Path) -> None:
    stated = (settings.region.federation, settings.region.name)
    if stated != (kit.facts.federation, kit.facts.region):
        raise InputError(
            f"{path} has the settings of {stated[1]} in {stated[0]}; the kit is of "
            f"{kit.facts.region} in {kit.facts.federation}.",
            remedy="Install each kit into a folder of its own.",
        )
