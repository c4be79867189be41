"""Segments that the data made: how large each is, what is usual in it, and what sets it apart."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from common.analytics.answers import ReleasedAnswer
from common.analytics.clusters import Clusters
from common.analytics.coordinates import Coordinate
from common.report_charts import Scale
from server.insights.figures import (
    SHADES,
    Cell,
    Chart,
    Figure,
    Heat,
    Plane,
    Point,
    Row,
    Table,
    Told,
    brief,
    mark,
    scale_for,
    ticks_of,
    told,
    upright,
)
from server.insights.teller import Teller, percent

_PLANE = 2
# What is said where a cluster is told to be above or below all customers' mean.
_SIDES = {1: "up", -1: "down"}
_SIGNS = {1: "up", 0: "", -1: "down"}


def clusters(teller: Teller, question: Clusters, answer: ReleasedAnswer) -> list[Figure]:
    """The figures of an answer: sizes, what is usual, and a map where there are two coordinates."""
    standing = teller.standing(answer)
    if not standing.shown:
        return [teller.too_small(answer, standing)]
    found = _Found(teller, question, answer)
    figures = [found.sizes(teller.coarse(standing)), found.usual()]
    return [*figures, found.plane()] if len(question.coordinates) == _PLANE else figures


def largest(teller: Teller, question: Clusters, answer: ReleasedAnswer) -> Markup:
    """The largest cluster in a sentence; nothing if noise may have chosen it."""
    if not teller.standing(answer).shown:
        return Markup("")
    found = _Found(teller, question, answer)
    first, *others = found.order
    least = found.shares[first].low
    if not found.shares[first].known or any(found.shares[n].high >= least for n in others):
        return Markup("")
    share = teller.spoken(found.shares[first], "%")
    return teller.say(
        "clusters.headline", cluster=found.name(first), share=share, traits=found.apart(first)
    )


class _Found:
    """What an answer says of each cluster.

    Attributes:
        shares: Which share of the customers each has, in percent.
        order: The clusters' places, the largest first.
    """

    def __init__(self, teller: Teller, question: Clusters, answer: ReleasedAnswer) -> None:
        self._teller, self._question, self._answer = teller, question, answer
        released, noise = answer.released, answer.noise_stddev
        self._counts = told(question.counts(released, noise))
        self.shares = [percent(each) for each in told(question.shares(released, noise))]
        self._numbers = [told(each) for each in question.numbers(released, noise)]
        shape = question.centres.shape
        means = told(question.read(released, noise))
        self._places = [means[n * shape[1] : (n + 1) * shape[1]] for n in range(shape[0])]
        self._traits = question.traits(released, noise)
        sums = released.reshape(shape[0], -1)[:, 0]
        self.order: list[int] = np.argsort(-sums, kind="stable").tolist()

    def name(self, place: int) -> Markup:
        """What a cluster is called: by its place in the plan."""
        return self._teller.say("clusters.cluster", n=place + 1)

    def apart(self, place: int) -> Markup:
        """What sets a cluster apart, as far as it is told."""
        words = [
            self._trait(coordinate, _SIDES[trait])
            for coordinate, trait in zip(
                self._question.coordinates, self._traits[place].tolist(), strict=True
            )
            if trait
        ]
        if not words:
            return self._teller.say("clusters.like_all")
        return self._teller.say("list.comma").join(words)

    def sizes(self, said: Markup) -> Figure:
        """How large each is, with what sets it apart."""
        teller, answer = self._teller, self._answer
        scale = scale_for(self.shares, from_zero=True)
        rows, lines = [], []
        for n in self.order:
            share = self.shares[n]
            marks = (mark(share, scale),) if share.known else ()
            rows.append(Row(self.name(n), marks, teller.spoken(share, "%"), self.apart(n)))
            lines.append((self.name(n), teller.spoken(self._counts[n]), teller.spoken(share, "%")))
        head = (
            teller.say("clusters.name"),
            teller.say("unit.customers"),
            teller.say("clusters.share"),
        )
        return Figure(
            teller.caption(self._question.name, answer.scope),
            teller.cost(answer),
            Chart(tuple(rows), ticks_of(scale), zero=scale.at(0.0)),
            teller.sentences([teller.say("clusters.reading"), said]),
            Table(head, tuple(lines)),
        )

    def usual(self) -> Figure:
        """What is usual in each: a number for each coordinate, shaded by its place."""
        teller = self._teller
        columns = tuple(self._column(each) for each in self._question.coordinates)
        rows, lines = [], []
        for n in self.order:
            numbers = [each[n] for each in self._numbers]
            cells = tuple(
                self._cell(number, place, trait)
                for number, place, trait in zip(
                    numbers, self._places[n], self._traits[n].tolist(), strict=True
                )
            )
            rows.append((self.name(n), cells))
            lines.append((self.name(n), *(teller.spoken(each) for each in numbers)))
        corner = teller.say("clusters.name")
        return Figure(
            teller.say("clusters.usual", scope=teller.scope(self._answer.scope)),
            teller.cost(self._answer),
            Heat(corner, columns, tuple(rows)),
            teller.say("clusters.signs"),
            Table((corner, *columns), tuple(lines)),
        )

    def plane(self) -> Figure:
        """Two coordinates as a map."""
        teller, scale = self._teller, Scale(-1.0, 1.0)
        points = []
        for n in self.order:
            x, y = self._places[n]
            if x.known and y.known:
                number = Point(n + 1, self.name(n), mark(x, scale), mark(y, scale), self.apart(n))
                points.append(number)
        ticks = ticks_of(scale)
        across, up = (self._column(each) for each in self._question.coordinates)
        return Figure(
            teller.say("clusters.map", scope=teller.scope(self._answer.scope)),
            teller.cost(self._answer),
            Plane(tuple(points), across, up, (), ticks, upright(ticks)) if points else None,
            teller.say("clusters.scaled") if points else teller.say("clusters.silent"),
        )

    def _cell(self, number: Told, place: Told, trait: int) -> Cell:
        if not number.known:
            return Cell(self._teller.say("none"))
        # From the least to the most that its public bounds allow.
        return Cell(brief(number), round(SHADES * (place.value + 1) / 2), _SIGNS[trait])

    def _column(self, coordinate: Coordinate) -> Markup:
        name = self._teller.label(coordinate.category)
        return self._teller.say(f"coordinate.{coordinate.measure}", category=name)

    def _trait(self, coordinate: Coordinate, side: str) -> Markup:
        name = self._teller.label(coordinate.category)
        return self._teller.say(f"trait.{coordinate.measure}.{side}", category=name)
