"""What a profile says of one customer, since when, and because of what: in her language.

Two read it. The *operator* sees every number. The *customer* sees every tag, every rule and every
number of her own; what rests on other customers too is told as a rule, without numbers, unless the
cuts were released under differential privacy: an exact cut would say something about the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from client.profiles.columns import CATEGORY_FACTS, RELATIVE_FACTS, SHARE_OF, Columns
from client.profiles.judging import Judged
from client.profiles.library import Rule, Tag, TagLibrary, Trigger
from client.profiles.manifest import Manifest
from client.profiles.tables import Array
from client.web.language import Messages, read_messages
from common.canonical_json import JsonValue
from common.timestamps import format_time

VERSION = "fedpref-profile/1"
Reader = Literal["operator", "customer"]

_FOLDER = Path(__file__).parent / "locales"
_SCORES = frozenset({"recency_score", "frequency_score", "monetary_score"})
_SHARES = frozenset({"returned_share", "top_category_share", "weekend_share", "category_share"})
_MONEY = frozenset({"spend", "spend_90", "spend_365", "spend_per_day", "lifetime_value"})


@dataclass(frozen=True)
class Explained:
    """One customer's profile.

    Attributes:
        manifest: What all profiles were made by.
        library: The tag library.
        categories: The names of the catalogue's categories.
        columns: The numbers about her alone.
        judged: What is said of her alone.
    """

    manifest: Manifest
    library: TagLibrary
    categories: tuple[str, ...]
    columns: Columns
    judged: Judged

    def record(self, lang: str, reader: Reader) -> dict[str, JsonValue]:
        """The profile as JSON values (`VERSION`).

        Args:
            lang: ``en`` or ``zh``.
            reader: Who reads it.
        """
        t = read_messages(_FOLDER, lang)
        segment = self.library.segment[int(self.judged.segment[0])]
        said = [
            self._said(t, self.library.said[number], category, since, reader)
            for (number, category), since in self.judged.of(self.judged.sids[0]).items()
        ]
        at_ms = self.manifest.as_of_ms or self.manifest.refreshed_ms
        return {
            "v": VERSION,
            "lang": lang,
            "as_of": format_time(at_ms),
            "library": self.library.version,
            "segment": {
                "id": segment.id,
                "title": segment.title.of(lang),
                "since": day_text(int(self.judged.segment_since[0])),
                "strategy": segment.strategy.of(lang),
                "because": [self._because(t, rule, None, reader) for rule in segment.when],
            },
            "tags": [each for each in said if "level" in each],
            "triggers": [each for each in said if "advice" in each],
            "facts": self._facts(t, reader),
        }

    def _said(
        self, t: Messages, each: Tag | Trigger, category: int | None, since: int, reader: Reader
    ) -> dict[str, JsonValue]:
        name = "" if category is None else self.categories[category]
        found: dict[str, JsonValue] = {
            "id": each.id,
            "category": name or None,
            "title": each.title.of(t.lang).replace("{category}", name),
            "since": day_text(since),
            "because": [self._because(t, rule, category, reader) for rule in each.when],
        }
        if isinstance(each, Tag):
            return {**found, "level": each.level, "level_title": t(f"level.{each.level}")}
        return {**found, "advice": each.advice.of(t.lang)}

    def _because(self, t: Messages, rule: Rule, category: int | None, reader: Reader) -> str:
        """One rule with the number that fulfils it."""
        rules = t("and").join(
            t(f"rule.{name}", bound=_number(rule.fact, bound))
            for name, bound in rule.bounds.items()
        )
        if not self._may_tell(rule.fact, reader):
            return t("because.relative", fact=fact_title(t, rule.fact), rules=rules)
        value = _number(rule.fact, self._value(rule.fact, category))
        return t("because", fact=fact_title(t, rule.fact), value=value, rules=rules)

    def _facts(self, t: Messages, reader: Reader) -> list[JsonValue]:
        facts: list[JsonValue] = []
        for name, values in self.columns.values.items():
            if np.isfinite(values[0]) and self._may_tell(name, reader):
                facts.append(
                    {
                        "fact": name,
                        "title": fact_title(t, name),
                        "value": _number(name, float(values[0])),
                    }
                )
        return facts

    def _may_tell(self, fact: str, reader: Reader) -> bool:
        if reader == "operator" or fact not in RELATIVE_FACTS:
            return True
        kind = fact.removesuffix("_score")
        return fact in _SCORES and self.manifest.models.cuts.may_be_told(kind)

    def _value(self, fact: str, category: int | None) -> float:
        if fact not in CATEGORY_FACTS:
            values: Array = self.columns.values.get(fact, np.array([np.nan]))
            return float(values[0])
        place = np.flatnonzero(self.columns.category == category)
        return float(self.columns.pairs[fact][place[0]]) if len(place) else float("nan")


def fact_title(t: Messages, fact: str) -> str:
    """What a fact is called."""
    known = t.known(f"fact.{fact}", "")
    part = fact.removeprefix(SHARE_OF)
    # Parts of the day are the region's own; those that it has by default have names.
    return known or t("fact.share", part=t.known(f"part.{part}", part))


def day_text(day: int) -> str:
    """A day since the epoch as a date."""
    return str(np.datetime64(day, "D"))


def _number(fact: str, value: float) -> str:
    """A number as people read it."""
    if not np.isfinite(value):
        return "–"
    if fact in _SHARES or fact.startswith(SHARE_OF) or fact == "alive":
        return f"{100 * value:.0f} %"
    if fact in _MONEY:
        return f"{value:,.2f}"
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"
