"""Every reason code that may leave a region: a closed list, written down apart from what says them.

A code is the one thing that leaves a region without being signed, noised or computed from what
everybody knows. A list that whoever refuses could add to in passing would let text out; a test
holds this one to the codes that are raised.
"""

from __future__ import annotations

#: Of the engine: the request, the permit, the budget, the consents, the store.
ENGINE_REASONS = frozenset(
    {
        "budget-exhausted",
        "bundle-not-permitted",
        "clock-behind",
        "configuration",
        "data-quality",
        "discarded-for-withdrawal",
        "egress-refused",
        "malformed-request",
        "no-consent",
        "not-permitted",
        "not-witnessed",
        "own-records-do-not-verify",
        "refused",
        "seal-too-old",
        "storage-failure",
        "too-many-runs",
    }
)
#: Of the relay: its way to the engine, and itself.
RELAY_REASONS = frozenset(
    {
        "budget-exhausted",
        "bundle-not-permitted",
        "data-quality",
        "engine-busy",
        "engine-failure",
        "engine-unreachable",
        "malformed-request",
        "no-consent",
        "not-permitted",
        "other-protocol",
        "own-records-do-not-verify",
        "refused",
        "relay-failure",
        "storage-failure",
    }
)
#: Of secure sums, with either kind of masks: what a roster, a key, a step or an update is not.
SECURE_SUM_REASONS = frozenset(
    {
        "attempt-used",
        "context-used",
        "discarded-for-withdrawal",
        "execution-over",
        "key-reflected",
        "key-shared",
        "key-weak",
        "masked-already",
        "no-execution",
        "norm-too-large",
        "not-in-roster",
        "not-survivors",
        "off-grid",
        "other-attempt",
        "other-mechanism",
        "other-model",
        "other-plan",
        "other-quantiser",
        "other-round",
        "other-run",
        "out-of-order",
        "out-of-range",
        "own-keys-differ",
        "own-shares-differ",
        "own-statement",
        "region-twice",
        "rosters-differ",
        "round-not-sealed",
        "round-over",
        "seal-dead",
        "share-corrupt",
        "step-repeated",
        "survivors-differ",
        "survivors-unknown",
        "threshold-differs",
        "too-few",
        "too-few-agree",
        "too-few-survivors",
        "too-many-attempts",
        "unknown-region",
        "unmasked-already",
        "wrong-signer",
    }
)
#: Whatever refuses, one of these.
REASONS = ENGINE_REASONS | RELAY_REASONS | SECURE_SUM_REASONS
