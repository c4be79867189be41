"""Where a region signs the queries that it answers for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from client.engine.home import RegionHome
from client.engine.policy import RegionPolicy
from client.engine.provenance import dependencies_digest, engine_digest
from client.engine.queries import Query, QueryPart, check_query
from client.engine.sealed_answers import AnswerStore
from client.training.bounded_sums import Statistic
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.calibration import calibrate_noise_multiplier
from common.consent import new_ulid
from common.errors import InputError

#: One customer's bound in every query: rows are scaled to it.
CLIPPING_NORM = "1"
#: Values are multiples of 2 to this power: far finer than any noise, so it costs nothing.
GRID_EXPONENT = -10
#: ε is kept by six decimals of σ / C, rounded up.
_DECIMALS = 6


@dataclass(frozen=True)
class QueryDraft:
    """What a region wants to know, before noise is chosen and anything is signed.

    Attributes:
        statistics: What is asked; the budget is parted evenly among them.
        epsilon: ε of all together, as a decimal string.
        purpose: The purpose whose budget pays for it.
        also: What customers must have consented to besides.
        model: The name of what it is for.
        catalogue: Digest of the region's public catalogue.
        start_ms: Begin of the window of purchases, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
    """

    statistics: Sequence[Statistic]
    epsilon: str
    purpose: str
    also: tuple[str, ...]
    model: str
    catalogue: str
    start_ms: int
    end_ms: int


def make_query(
    draft: QueryDraft, policy: RegionPolicy, *, issued_at_ms: int, valid_for_s: int
) -> Query:
    """Makes a query of a draft: with as much noise as its ε asks for, and no less.

    Args:
        draft: What is asked.
        policy: The region's policy.
        issued_at_ms: Now, in milliseconds since the epoch.
        valid_for_s: For how long the query holds, in seconds.

    Formal guarantees:
        All parts together are (ε, δ)-DP at the policy's δ by `common.privacy.epsilon`: the noise
        multiplier is calibrated on it and rounded up.

    Raises:
        PolicyError: The policy does not allow it; names the field.
        InputError: Nothing is asked, ε is out of range, or the window is empty.
    """
    if not draft.statistics or draft.start_ms >= draft.end_ms:
        raise InputError(
            "A query asks nothing, or its window of purchases is empty.",
            remedy="Name at least one statistic, and let the window begin before it ends.",
        )
    sigma = calibrate_noise_multiplier(
        epsilon=float(draft.epsilon),
        delta=float(policy.delta_max),
        sampling_probability=1.0,
        steps=len(draft.statistics),
    )
    scale = 10**_DECIMALS
    noise = f"{math.ceil(sigma * scale) / scale:.{_DECIMALS}f}"
    query = Query(
        permit_id=new_ulid(issued_at_ms),
        region=policy.region,
        requested_by=policy.region,
        destination="region",
        purpose=draft.purpose,
        consented=tuple(sorted({draft.purpose, *draft.also})),
        model=draft.model,
        catalogue=draft.catalogue,
        start_ms=draft.start_ms,
        end_ms=draft.end_ms,
        engine=engine_digest(),
        deps=dependencies_digest(),
        parts=tuple(
            QueryPart(
                number=number,
                name=statistic.name,
                noise_multiplier=noise,
                clipping_norm=CLIPPING_NORM,
                grid_exponent=GRID_EXPONENT,
                spec=statistic.spec,
                parameters=statistic.parameters,
            )
            for number, statistic in enumerate(draft.statistics, start=1)
        ),
        epsilon=draft.epsilon,
        delta=policy.delta_max,
        issued_ms=issued_at_ms,
        expires_ms=issued_at_ms + valid_for_s * 1000,
    )
    check_query(query, policy)
    return query


def asks_the_same(query: Query, draft: QueryDraft) -> bool:
    """Whether a query that was signed asks what a draft asks: after a crash one goes on with it."""
    return (
        [(part.name, part.spec, dict(part.parameters)) for part in query.parts]
        == [(each.name, each.spec, dict(each.parameters)) for each in draft.statistics]
        and (query.epsilon, query.purpose, query.model, query.catalogue)
        == (draft.epsilon, draft.purpose, draft.model, draft.catalogue)
        and (query.start_ms, query.end_ms) == (draft.start_ms, draft.end_ms)
        and set(query.consented) == {draft.purpose, *draft.also}
    )


def sign_query(home: RegionHome, log: AuditLog, query: Query) -> None:
    """Signs, logs and keeps a query; only then may it be answered.

    Args:
        home: The region's home, with its ``permit`` key.
        log: Its log, open for writing.
        query: The query; the policy allows it.

    Raises:
        StorageError: The disk refuses.
    """
    envelope = make_entry(query.to_record(), home.signer("permit"))
    log.append([envelope])
    AnswerStore(home.queries).write_query(query.permit_id, envelope)
