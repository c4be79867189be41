"""What all sections of the page say alike: of whom, how much noise, and that it is too little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from common.analytics.answers import GLOBAL, ReleasedAnswer
from common.audit.report.language import Language, epsilon, isolated
from server.insights.figures import Figure, Told, plain, spoken
from server.insights.findings import Findings, Standing


@dataclass(frozen=True)
class Teller:
    """Findings, and the language in which they are told.

    Attributes:
        findings: What is told.
        language: In which language.
    """

    findings: Findings
    language: Language

    def say(self, key: str, **values: object) -> Markup:
        """A message; see `Language.say`."""
        return self.language.say(key, **values)

    def question(self, name: str) -> Markup:
        """What a question is called."""
        return self.language.term("question", name)

    def label(self, label: str) -> Markup:
        """A public label of a question: in this language if it is a common word, else as it is."""
        key = f"label.{label}"
        return self.say(key) if self.language.knows(key) else isolated(label)

    def scope(self, scope: str) -> Markup:
        """Of whom an answer is."""
        return self.say("scope.global") if scope == GLOBAL else isolated(scope)

    def caption(self, name: str, scope: str) -> Markup:
        """A figure's caption: the question, and of whom."""
        return self.say("caption", question=self.question(name), scope=self.scope(scope))

    def cost(self, answer: ReleasedAnswer) -> Markup:
        """What an answer cost, and how much noise is in it."""
        return self.say(
            "cost",
            epsilon=epsilon(answer.epsilon),
            noise=f"{answer.noise_stddev:.3g}",
            n=answer.customers_at_least,
        )

    def cost_of(self, answers: Sequence[ReleasedAnswer]) -> Markup:
        """What the answers of a figure cost, that of all regions first: each run counts once."""
        first, *others = answers
        own = [each for each in others if each.scope != GLOBAL]
        if first.scope != GLOBAL or not own:
            return self.cost(first)
        spent = self.findings.spent_on([first, own[0]])
        return self.say(
            "cost.scopes",
            epsilon=epsilon(spent),
            noise=f"{first.noise_stddev:.3g}",
            own=f"{own[0].noise_stddev:.3g}",
        )

    def answers(self, name: str) -> Iterator[ReleasedAnswer]:
        """The answers to a question: of all regions together, then of each by itself."""
        for scope in (GLOBAL, *self.findings.regions):
            answer = self.findings.of(name, scope)
            if answer is not None:
                yield answer

    def standing(self, answer: ReleasedAnswer) -> Standing:
        """Whether an answer is shown, by what noise does to it."""
        return self.findings.standing(answer)

    def too_small(self, answer: ReleasedAnswer, standing: Standing) -> Figure:
        """What is said where noise would be shown."""
        said = self.say("too_small", scope=self.scope(answer.scope), n=standing.needed)
        return Figure(
            self.caption(answer.question.name, answer.scope),
            self.cost(answer),
            None,
            said,
            small=answer.scope != GLOBAL,
        )

    def coarse(self, standing: Standing) -> Markup:
        """A remark on wide intervals, if they are."""
        return self.say("coarse") if standing.coarse else Markup("")

    def spoken(self, each: Told, unit: str = "") -> Markup:
        """A value with its interval, or that too little is known."""
        return spoken(each, unit) if each.known else self.say("silent")

    def sentences(self, parts: Sequence[Markup]) -> Markup:
        """Sentences one after the other; empty ones are left out."""
        return escape(self.language.sentence_gap).join(part for part in parts if part)


def percent(each: Told) -> Told:
    """A share as a percentage."""
    return Told(100 * each.value, 100 * each.low, 100 * each.high)


def rounded_percent(value: float) -> Markup:
    """A percentage without its interval, where that stands elsewhere."""
    return Markup("{}%").format(plain(value, 0))
