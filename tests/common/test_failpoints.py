"""Outside a test's own process failpoints do nothing, and nothing there can make them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import failpoints
from common.failpoints import AnswerPoint, CoordinatorPoint, Point, reach

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("common", "client", "server", "simulations")
MODULE = ROOT / "common" / "failpoints.py"
#: The fault matrix of simulations, which sets it in processes forked for that: nothing that a
#: region or a coordinator runs can import it.
MATRIX = ROOT / "simulations" / "faults" / "places.py"
#: What a shipped module may know of it.
KNOWN = {"Point", "CoordinatorPoint", "AnswerPoint", "AnyPoint", "reach"}


def shipped() -> Iterator[tuple[Path, ast.Module]]:
    """Every module but this one that names it anywhere, in code or text."""
    for package in SHIPPED:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if path != MODULE and "failpoints" in text:
                yield path, ast.parse(text)


def test_nothing_happens_at_a_point_unless_a_test_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failpoints.hook is None
    for point in (*Point, *CoordinatorPoint, *AnswerPoint):
        reach(point)
    reached: list[Point] = []
    monkeypatch.setattr(failpoints, "hook", reached.append)
    reach(Point.CHARGED)
    assert reached == [Point.CHARGED]


def test_no_shipped_module_can_set_the_hook() -> None:
    """They know of the places and `reach` only: neither the hook nor the module that it is in."""
    using = []
    for path, tree in shipped():
        if path == MATRIX:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not any("failpoints" in alias.name for alias in node.names), path
            elif isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
                assert "failpoints" not in names, path
                if node.module == "common.failpoints":
                    assert names <= {
                        "Point",
                        "CoordinatorPoint",
                        "AnswerPoint",
                        "AnyPoint",
                        "reach",
                    }, path
                    using.append(path)
            elif isinstance(node, ast.Constant):
                assert "failpoints" not in str(node.value), path
    assert len(using) >= 7


def test_the_module_reads_nothing_from_outside() -> None:
    """No environment, file, option or message reaches it: it imports two names of types."""
    tree = ast.parse(MODULE.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "collections.abc", "enum"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert called == {"hook"}


def test_each_point_is_used_in_one_place() -> None:
    """A name that stands in two places would leave it open which of them was tested."""
    used: list[str] = []
    for path, tree in shipped():
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="reach"), args=[ast.Attribute(attr=name)]):
                    used.append(name)
                case ast.Call(func=ast.Name(id="reach")):
                    pytest.fail(f"{path}: a point has a name")
    # A file is written whole (`durable_file`), grows by segments (`prepared_files`) or is sealed
    # piece by piece (`client.profiles.store`): all open, write and sync one, and a test that stops
    # there says of which file.
    more = 2 * ["FILE_OPENED", "FILE_WRITTEN", "FILE_SYNCED"]
    points = (Point, CoordinatorPoint, AnswerPoint)
    assert sorted(used) == sorted([*(name for each in points for name in each.__members__), *more])
