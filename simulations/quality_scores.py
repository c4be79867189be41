"""Scores rankings against what the evaluated customers went on to buy, and keeps the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from client.training.evaluation import EvaluationSet, Protocol, evaluate
from common.model_state import ModelState
from common.ranking import BoolArray, IntArray, ItemSets
from simulations.quality_methods import SERVED_VARIANTS, Variants
from simulations.quality_ranker import Ranker
from simulations.quality_table import Cell, Table


class Scores:
    """The table of a study under way.

    Args:
        evaluated: For each region, its customers with purchases in the test window.
        universes: By name, bool[n_items] or None for the full catalogue.
        n_items: The catalogue's number of items.
    """

    def __init__(
        self,
        evaluated: Mapping[str, EvaluationSet],
        universes: Mapping[str, BoolArray | None],
        n_items: int,
    ) -> None:
        self.table = Table()
        self._candidates = {
            name: n_items if universe is None else int(universe.sum())
            for name, universe in universes.items()
        }
        self._relevant = {
            (protocol, name): ItemSets.concatenated(
                [each.relevant(protocol, universe) for each in evaluated.values()]
            )
            for protocol in Protocol
            for name, universe in universes.items()
        }

    def add(
        self, setting: str, method: str, rankings: Iterable[tuple[Protocol, str, IntArray]]
    ) -> None:
        """Scores one method's rankings, of one seed."""
        for protocol, universe, ranked in rankings:
            quality = evaluate(
                ranked,
                self._relevant[protocol, universe],
                n_candidates=self._candidates[universe],
            )
            self.table.add(Cell(setting, method, protocol, universe), quality)

    def add_variants(
        self,
        setting: str,
        method_of: Mapping[str, str],
        rankings: Iterable[tuple[str, Protocol, str, IntArray]],
    ) -> None:
        """Scores the variants of one model, each under the method it stands for."""
        for variant, protocol, universe, ranked in rankings:
            self.add(setting, method_of[variant], [(protocol, universe, ranked)])

    def add_served(
        self,
        setting: str,
        method: str,
        ranker: Ranker,
        models: Mapping[str, ModelState],
        *,
        n_summed: int,
    ) -> None:
        """Scores what a customer would be served: tilted for new items, fused for all."""
        rankings = ranker.by_model(models, n_summed=n_summed, variants=SERVED_VARIANTS)
        self.add_variants(setting, {"tilt": method, "fused": method}, rankings)

    def add_ablated(
        self,
        setting: str,
        method_of: Mapping[str, str],
        ranker: Ranker,
        models: Mapping[str, ModelState],
        *,
        n_summed: int,
        variants: Variants = SERVED_VARIANTS,
    ) -> None:
        """Scores what would be served if the factors counted for nothing."""
        rankings = ranker.without_factors(models, n_summed=n_summed, variants=variants)
        self.add_variants(setting, method_of, rankings)
