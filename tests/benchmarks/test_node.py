"""The node's benchmark measures what it says it does."""

from __future__ import annotations

import pytest

from benchmarks import node


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_message_is_timed_by_this_relay_beside_flowers_executor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node, "MESSAGES", 3)
    monkeypatch.setattr(node, "MODEL_VALUES", 1000)
    monkeypatch.setattr(node, "FLOWER_MESSAGES", 2)
    figures = node.measure()
    assert set(figures) == {bar.name for bar in node.BARS}
    assert all(figure.value > 0 for figure in figures.values())
    assert figures[node.RATIO.name].value == pytest.approx(
        figures[node.SMALL.name].value
        / float(str(figures[node.RATIO.name].baseline).split(": ")[1].removesuffix(" s")),
        rel=0.05,
    )
