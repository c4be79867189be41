"""The recommender's settings: ``recommend/settings.toml`` of a region's home; all have defaults.

Every constant here is the operator's choice, or a default that was fixed without looking at any
region's data; none is fitted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.engine.home import RegionHome
from client.recommend.types import EventKind, Scene
from common.errors import FedprefError, InputError
from common.timestamps import parse_time
from common.toml_file import read_toml

FOLDER_NAME = "recommend"
FILE_NAME = "settings.toml"
MAX_SETTINGS_BYTES = 1 << 20
#: The variant of whoever is in no experiment; no arm may be called so.
NO_VARIANT = "none"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Weight = Annotated[float, Field(ge=0.0, le=100.0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Seconds = Annotated[int, Field(ge=1, le=366 * 86_400)]
Hour = Annotated[int, Field(ge=0, le=24)]

#: What a rule on live events may do; `client.recommend.live_rules` says how.
Action = Literal["alternatives", "remind", "suppress", "usual", "explore"]
#: How a list is made: by the fused score, by the customer's own history alone, or by popularity.
Method = Literal["fused", "history", "popular"]


class _Section(BaseModel):
    # Not strict: TOML writes 1 for 1.0.
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(_Section):
    """Which published model is served.

    Attributes:
        digest: The model's digest; without it, the one that was installed last.
        run: The run that it must be of, by its id; without it, any that the region is part of.
    """

    digest: Sha256 | None = None
    run: str | None = Field(default=None, min_length=1, max_length=128)


class HistorySettings(_Section):
    """Which of a customer's purchases count.

    Attributes:
        weeks: Length of the window.
        until: Where it ends: ``now``; ``model``, the end of the model's public training window; or
            a time. Never the newest purchase in the store: one customer's shopping would then shift
            everyone's lists, and they would no longer be each customer's own (joint DP).
    """

    weeks: Annotated[int, Field(ge=1, le=1040)] = 52
    until: str = "now"

    @model_validator(mode="after")
    def _check_until(self) -> Self:
        if self.until not in {"now", "model"}:
            try:
                parse_time(self.until)
            except FedprefError as error:
                raise ValueError(f"until is neither now, model nor a time: {error}") from error
        return self


class SceneSettings(_Section):
    """How moments and places are called.

    Attributes:
        dayparts: For each part of the day, its first hour and the hour it ends before; a part may
            go past midnight. In the region's local time.
        store_types: Kinds of stores that a scene may name.
    """

    dayparts: dict[Name, tuple[Hour, Hour]] = {
        "morning": (6, 11),
        "noon": (11, 14),
        "afternoon": (14, 18),
        "evening": (18, 22),
        "night": (22, 6),
    }
    store_types: tuple[Name, ...] = ()

    def require(self, scene: Scene | None) -> None:
        """Requires that the names of a scene are known.

        Raises:
            InputError: One is not.
        """
        if scene is None:
            return
        for what, name, known in (
            ("daypart", scene.daypart, tuple(self.dayparts)),
            ("store type", scene.store_type, self.store_types),
        ):
            if name is not None and name not in known:
                raise InputError(
                    f"A scene's {what} {name[:64]!r} is not known.",
                    remedy=f"Use one of {', '.join(known) or 'none: the settings name none'}, or "
                    "leave it out for any.",
                )


class LiveWeights(_Section):
    """By how much a live event raises items, in shares of the customer's best score before it.

    A purchase has no weight: it counts as the customer's history does.
    """

    view: Weight = 0.5
    click: Weight = 0.6
    search: Weight = 0.8
    cart: Weight = 0.7
    abandon: Weight = 0.2
    favourite: Weight = 0.8

    def of(self, kind: EventKind) -> float:
        """The weight of a kind of event; 0 for a purchase."""
        weights: dict[str, float] = self.model_dump()
        return weights.get(kind, 0.0)


class LiveSpread(_Section):
    """How much of an event's weight goes to which items.

    Attributes:
        item: To the item itself.
        product_type: To the items of its product type.
        category: To those of its category.
        similar: To those that the model's factors find like it, times the cosine.
    """

    item: Share = 1.0
    product_type: Share = 0.6
    category: Share = 0.3
    similar: Share = 0.4


class LiveRule(_Section):
    """What a pattern of live events does to the list.

    Attributes:
        when: The kind of event.
        times: How many of them.
        in_a_row: Whether a purchase between two of them breaks the pattern.
        within_s: How far back events count, in seconds.
        then: What is done; see `client.recommend.live_rules`.
        strength: How strongly: a share of the customer's best score, or for ``explore`` the
            diversity.
        for_s: For how long after the last of the events, in seconds.
    """

    when: EventKind
    times: Annotated[int, Field(ge=1, le=64)] = 1
    in_a_row: bool = False
    within_s: Seconds = 7 * 86_400
    then: Action
    strength: Share = 0.8
    for_s: Seconds = 86_400


class LiveSettings(_Section):
    """What live events do.

    Attributes:
        keep_s: For how long an event counts at most, in seconds.
        half_life_s: After how long it counts half, in seconds.
        most_events: How many of one customer's are kept, the latest.
        most_customers: How many customers' are kept, those heard of last.
        candidates: How many items of a type or category an event adds to what may be recommended.
        weights: By how much.
        spread: To which items.
        rules: Patterns; the first that holds for an item decides about it.
    """

    keep_s: Seconds = 7 * 86_400
    half_life_s: Seconds = 6 * 3600
    most_events: Annotated[int, Field(ge=1, le=1024)] = 64
    most_customers: Annotated[int, Field(ge=1, le=10_000_000)] = 200_000
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 200
    weights: LiveWeights = LiveWeights()
    spread: LiveSpread = LiveSpread()
    rules: tuple[LiveRule, ...] = (
        LiveRule(when="abandon", times=3, in_a_row=True, then="alternatives"),
    )


class Arm(_Section):
    """One arm of an experiment.

    Attributes:
        name: Its name, which answers carry as their variant.
        share: Its share of the customers.
        method: How its lists are made.
        live: Whether live events change them.
        diversity: The least diversity of its lists.
    """

    name: Name
    share: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)]
    method: Method = "fused"
    live: bool = True
    diversity: Share = 0.0


class ExperimentSettings(_Section):
    """A comparison of ways to recommend, each customer in one arm for as long as it runs.

    Attributes:
        name: Its name; another name draws the arms anew.
        arms: At least two; the first is the one that the others are compared with.
        keep_days: For how many days exposures are kept.
    """

    name: Name
    arms: tuple[Arm, ...] = Field(min_length=2, max_length=16)
    keep_days: Annotated[int, Field(ge=1, le=366)] = 90

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names) or NO_VARIANT in names:
            raise ValueError(f"two arms have one name, or one is called {NO_VARIANT}")
        total = sum(arm.share for arm in self.arms)
        if not abs(total - 1.0) <= 1e-9:
            raise ValueError(f"the arms' shares add up to {total:g}, not to 1")
        return self


class RecommendSettings(_Section):
    """All settings of one region's recommender."""

    model: ModelSettings = ModelSettings()
    history: HistorySettings = HistorySettings()
    scenes: SceneSettings = SceneSettings()
    live: LiveSettings = LiveSettings()
    experiment: ExperimentSettings | None = None

    @classmethod
    def read(cls, home: RegionHome) -> RecommendSettings:
        """The settings of a region's home; the defaults if it has none.

        Raises:
            InputError: The file is unreadable, too long, not TOML, or has a wrong setting.
        """
        path = recommend_folder(home) / FILE_NAME
        if not path.exists():
            return cls()
        values = read_toml(
            path,
            "The recommender's settings",
            max_bytes=MAX_SETTINGS_BYTES,
            remedy="Give the region's user the right to read them, or remove the file.",
        )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(
                f"{path}: {where}: {first['msg']}.",
                remedy="Correct the setting; unknown ones are refused.",
            ) from error


def running_experiment(home: RegionHome) -> str | None:
    """What the experiment of a region's recommender is called; None if it runs none.

    Raises:
        InputError: As `RecommendSettings.read`.
    """
    experiment = RecommendSettings.read(home).experiment
    return None if experiment is None else experiment.name


def recommend_folder(home: RegionHome) -> Path:
    """Where a region's home has what belongs to the recommender."""
    return home.root / FOLDER_NAME
