"""A clock whose time passes only while someone sleeps: waits are exact, and cost nothing."""

from __future__ import annotations

from types import ModuleType

import pytest


class Clock:
    """Stands in for the module ``time`` in the modules that it is set in."""

    def __init__(self) -> None:
        self._now_s = 0.0

    @classmethod
    def set_in(cls, patch: pytest.MonkeyPatch, *modules: ModuleType) -> Clock:
        """Gives these modules one clock of this kind, till the test ends."""
        clock = cls()
        for module in modules:
            patch.setattr(module, "time", clock)
        return clock

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds
