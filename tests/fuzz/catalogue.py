"""All fuzz targets by name. A target's module is loaded only when it is needed: some take long."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import chain

from tests.fuzz.target import Target

_MODULES = (
    "record_targets",
    "log_targets",
    "verify_targets",
    "transport_targets",
    "import_targets",
    "secure_sum_targets",
    "shared_sum_targets",
    "deployment_targets",
    "access_targets",
    "quality_targets",
)


def _planted(data: bytes) -> None:
    """A parser with a fault, for the tests of the fuzzer itself."""
    if data.startswith(b'{"a":') and data.endswith(b'0"}'):
        raise KeyError("planted")


#: There to be found out; not one of `all_targets`.
PLANTED = Target("planted", _planted, lambda: [b'{"a":"b"}'])


def all_targets() -> Iterator[Target]:
    """Every parser's target."""
    for name in _MODULES:
        targets: tuple[Target, ...] = import_module(f"tests.fuzz.{name}").TARGETS
        yield from targets


def find_target(name: str) -> Target:
    """The target of a name.

    Raises:
        KeyError: There is none.
    """
    for target in chain((PLANTED,), all_targets()):
        if target.name == name:
            return target
    raise KeyError(name)
