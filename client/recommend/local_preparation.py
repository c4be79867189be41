"""Prepares a region's own releases: what to ask, whether noise would swamp it, and the asking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.engine.answering import LoggedAnswer
from client.engine.queries import Query
from client.engine.query_desk import QueryDraft, asks_the_same, make_query, sign_query
from client.engine.service import PrivacyEngine
from client.recommend.local_release import local_path, publish
from client.recommend.local_statistics import (
    ALSO_BOUGHT,
    REGIONAL_BIAS,
    SCENES,
    SIGNAL_SHARE,
    STORE_TYPES,
    AlsoBought,
    Clock,
    RegionalBias,
    Scenes,
)
from client.recommend.release import PublishedRelease
from client.recommend.store_types import StoreTypes, require_store_types
from client.training.bounded_sums import Statistic
from common.catalogue import Catalogue
from common.consent import RECOMMENDATIONS
from common.errors import BudgetError, InputError

#: What the ledger's accounts call it.
MODEL_NAME = "local-recommender"
#: So long a query may be answered: a crash in between is mended within that time.
VALID_FOR_S = 3600
#: Noise of so many times what there is to see: the answer would be noise.
SWAMPED = 1.0


@dataclass(frozen=True)
class Outlook:
    """What noise would do to an answer, by public numbers alone.

    Attributes:
        name: What is asked.
        noise_share: The noise's standard deviation, by what there is to see.
    """

    name: str
    noise_share: float

    @property
    def swamped(self) -> bool:
        """Whether it would be mostly noise. Written so that a NaN is."""
        return not self.noise_share <= SWAMPED


@dataclass(frozen=True)
class Prepared:
    """One release that was prepared.

    Attributes:
        name: What was asked.
        query: The query.
        answer: The logged answer.
        outlook: What noise was expected to do to it.
    """

    name: str
    query: Query
    answer: LoggedAnswer
    outlook: Outlook


def statistics(
    names: Sequence[str],
    catalogue: Catalogue,
    clock: Clock,
    release: PublishedRelease | None,
    *,
    start_ms: int,
    end_ms: int,
    store_types: tuple[str, ...] = (),
) -> list[Statistic]:
    """What is asked, by name.

    Args:
        names: Of `client.recommend.local_statistics.STATISTICS`.
        catalogue: The region's public catalogue.
        clock: How moments are told apart.
        release: The model that is served: regional bias and pairs are over its vocabulary.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
        store_types: The kinds of stores, as the settings name them.

    Raises:
        InputError: A name is unknown, or no model is installed that it needs, the model is over
            another catalogue, or no kinds of stores are named.
    """
    found: list[Statistic] = []
    for name in names:
        if name == SCENES:
            found.append(Scenes.of(catalogue, clock))
        elif name == STORE_TYPES:
            found.append(StoreTypes(catalogue, store_types))
        elif name in (REGIONAL_BIAS, ALSO_BOUGHT):
            kind = RegionalBias if name == REGIONAL_BIAS else AlsoBought
            model = _model_of(name, catalogue, release)
            found.append(
                kind(
                    vocabulary=model.model.vocabulary,
                    n_items=catalogue.n_items,
                    model=model.digest,
                    start_ms=start_ms,
                    end_ms=end_ms,
                )
            )
        else:
            raise InputError(
                f"{name[:64]!r} is nothing that a region can prepare.",
                remedy=f"Use {SCENES}, {STORE_TYPES}, {REGIONAL_BIAS} or {ALSO_BOUGHT}.",
            )
    return found


def _model_of(
    name: str, catalogue: Catalogue, release: PublishedRelease | None
) -> PublishedRelease:
    if release is None:
        raise InputError(
            f"{name} is over a published model's vocabulary, and no model is installed.",
            remedy="Install one first: fedpref-region recommend install.",
        )
    if release.plan.catalogue != catalogue.digest:
        raise InputError(
            "The model that is served is over another catalogue than the region's.",
            remedy="Install a model of the region's own catalogue.",
        )
    return release


def draft_query(
    engine: PrivacyEngine,
    asked: Sequence[Statistic],
    *,
    epsilon: str,
    catalogue: Catalogue,
    start_ms: int,
    end_ms: int,
) -> QueryDraft:
    """What the region wants to know, on the ground of both consents.

    What is learned of customers needs their consent to learning, the policy's own purpose; what it
    is used for, and whose budget pays, is recommendations.
    """
    return QueryDraft(
        statistics=asked,
        epsilon=epsilon,
        purpose=RECOMMENDATIONS,
        also=(engine.policy.purpose,),
        model=MODEL_NAME,
        catalogue=catalogue.digest,
        start_ms=start_ms,
        end_ms=end_ms,
    )


def outlooks(query: Query, n_customers: int) -> list[Outlook]:
    """What noise will do to each part of a query.

    Args:
        query: The query.
        n_customers: The lower end of the region's number of customers as rounds log it, a power of
            two.
    """
    return [
        Outlook(part.name, part.noise_stddev / (n_customers * SIGNAL_SHARE[part.name]))
        for part in query.parts
    ]


def prepare(engine: PrivacyEngine, draft: QueryDraft, *, anyway: bool = False) -> list[Prepared]:
    """Asks for everything of a draft: signed, charged, logged, and put where it is served from.

    Interrupted, the same call goes on where it was: what was charged is used, nothing is charged
    twice, and what was sealed stays what it was.

    Args:
        engine: The region's open engine.
        draft: What is asked.
        anyway: Spend budget on answers that noise will swamp, too.

    Raises:
        BudgetError: Noise would swamp an answer, or the budget does not pay.
        InputError: Kinds of stores are asked about that no table of the region knows.
        FedprefError: As the engine's; nothing more is released.
    """
    for statistic in draft.statistics:
        if isinstance(statistic, StoreTypes):
            require_store_types(engine.home, statistic.names)
    query = unfinished(engine, draft)
    if query is None:
        query = make_query(
            draft, engine.policy, issued_at_ms=engine.queries.now_ms(), valid_for_s=VALID_FOR_S
        )
        _require_worth(_outlooks(engine, query), anyway=anyway)
        sign_query(engine.home, engine.log, query)
    expected = {each.name: each for each in _outlooks(engine, query)}
    done = []
    for statistic in draft.statistics:
        answer = engine.answer(query.permit_id, statistic)
        publish(engine.home, statistic.name, answer.sealed)
        done.append(Prepared(statistic.name, query, answer, expected[statistic.name]))
    return done


def unfinished(engine: PrivacyEngine, draft: QueryDraft) -> Query | None:
    """The newest query that asks the same, if a crash left it before all of it was published.

    Args:
        engine: The region's open engine.
        draft: What is asked.
    """
    for query in engine.queries.open_queries():
        if asks_the_same(query, draft):
            done = all(_is_published(engine, query, each.name) for each in draft.statistics)
            return None if done else query
    return None


def _is_published(engine: PrivacyEngine, query: Query, name: str) -> bool:
    answer, path = engine.queries.answered(query.permit_id, name), local_path(engine.home, name)
    return answer is not None and path.is_file() and path.read_bytes() == answer.sealed.encode()


def _outlooks(engine: PrivacyEngine, query: Query) -> list[Outlook]:
    return outlooks(query, engine.queries.customers_at_least(query))


def _require_worth(found: Sequence[Outlook], *, anyway: bool) -> None:
    swamped = [each for each in found if each.swamped]
    if swamped and not anyway:
        worst = ", ".join(f"{each.name} ({each.noise_share:.1f})" for each in swamped)
        raise BudgetError(
            f"Nothing was spent: the noise would be larger than what there is to see, for {worst}.",
            remedy="Ask for less at once, give it more ε, wait for more customers, or say "
            "--anyway.",
        )
