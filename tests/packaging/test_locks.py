"""What a region and a coordinator install: whole, exact, and each file by its digest."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("region", "server")
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!]+)(?P<rest>.*)", re.DOTALL)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def pins(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Version and SHA-256 of each package that a file pins, by normalised name."""
    found = {}
    for entry in path.read_text().replace("\\\n", " ").splitlines():
        line = entry.partition(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        pin = _PIN.fullmatch(line)
        assert pin, f"{path.name}: {line[:80]} is no exact pin"
        rest = _HASH.sub("", pin["rest"]).strip()
        assert not rest, f"{path.name}: {pin['name']} has more than digests: {rest}"
        name = canonicalize_name(pin["name"])
        assert name not in found
        found[name] = (pin["version"], _HASH.findall(pin["rest"]))
    return found


def declared(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for: the base, and what some extras add."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"]]
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def needed(requirements: list[Requirement]) -> set[str]:
    """All that must be installed for these, by what the installed packages say of themselves."""
    found: set[tuple[str, str]] = set()
    waiting = [
        (canonicalize_name(each.name), extra)
        for each in requirements
        for extra in ("", *each.extras)
    ]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for text in metadata.requires(name) or []:
            more = Requirement(text)
            if more.marker is None or more.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(more.name), each) for each in ("", *more.extras)]
    return {name for name, _ in found}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_locked_whole_and_nothing_else_is(role: str) -> None:
    locked = pins(ROOT / "requirements" / f"{role}.lock")
    assert set(locked) == needed(declared(role))


@pytest.mark.parametrize("role", ROLES)
def test_every_file_is_known_by_its_digest(role: str) -> None:
    for name, (_, digests) in pins(ROOT / "requirements" / f"{role}.lock").items():
        assert digests, name
        assert len(digests) == len(set(digests)), name


@pytest.mark.parametrize("role", ROLES)
def test_versions_are_those_that_the_tests_run_with(role: str) -> None:
    tested = pins(ROOT / "requirements.lock")
    for name, (version, _) in pins(ROOT / "requirements" / f"{role}.lock").items():
        # A build's mark, such as torch's +cpu, is no other version.
        assert version.partition("+")[0] == tested[name][0], name
        assert metadata.version(name).partition("+")[0] == tested[name][0], name


@pytest.mark.parametrize("role", ROLES)
def test_versions_are_within_what_is_declared(role: str) -> None:
    locked = pins(ROOT / "requirements" / f"{role}.lock")
    for requirement in declared(role):
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_a_region_does_not_install_what_only_tests_need() -> None:
    for role in ROLES:
        locked = pins(ROOT / "requirements" / f"{role}.lock")
        assert not locked.keys() & {"pytest", "hypothesis", "ray", "atheris", "playwright"}
    assert not pins(ROOT / "requirements" / "server.lock").keys() & {"torch", "opacus", "pandas"}


@pytest.mark.parametrize(
    "text", ["torch>=2.0", "torch", "git+https://example.org/torch", "torch==2.13.0 ; extra == 'x'"]
)
def test_what_is_no_exact_pin_is_noticed(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text(f"{text} --hash=sha256:{'0' * 64}\n")
    with pytest.raises(AssertionError, match=r"a\.lock"):
        pins(tmp_path / "a.lock")
