"""Step 6, continued: what a region permits, charges, runs and releases is within its policy.

That is the policy that its controller signed and logged last before the entry. A bound that a
policy leaves out bounds nothing, but for queries and for what the federation asks: what it does not
name is not allowed.
"""

from __future__ import annotations

from decimal import Decimal

from common.audit.verify import fields as f
from common.audit.verify.caps import YearlyAccounts
from common.audit.verify.epsilon import composed_epsilon, mechanism_in
from common.audit.verify.fields import Record
from common.audit.verify.records import FEDERATED_ANALYTICS, MODES
from common.audit.verify.replay import Entry, Evidence, LogReplay
from common.audit.verify.verdict import BUDGET
from common.errors import FormatError, VerificationError

# What a policy calls the rules of a plan.
_NAMES = {"sum": "open", "secure-sum": "confidential"}
_AGGREGATIONS = ("open", "robust", "confidential")
_FIELDS: dict[str, f.Check] = {
    "region": f.text,
    "purpose": f.text,
    "epsilon_cap_per_year": f.decimal,
    "delta_max": f.decimal,
    "noise_multiplier_min": f.decimal,
    "clipping_norm_max": f.decimal,
    "rounds_max": f.positive,
    "quorum_min": f.positive,
    "consent_age_max_s": f.natural,
    "withdrawal_in_round": f.one_of("finish", "discard"),
    "notice_grace_s": f.integer(0, 366 * 86_400),
    "modes": f.list_of(f.one_of(*MODES)),
}
_ARRAY = f.object_of(name=f.text, dtype=f.dtype, shape_max=f.list_of(f.positive))
# Bounds that a policy may leave out: then it sets none.
_OPTIONAL: dict[str, f.Check] = {
    "epsilon_caps_per_model": f.table_of(f.decimal),
    "epsilon_caps_per_purpose": f.table_of(f.decimal),
    "epsilon_max_per_run": f.decimal,
    "key_delta_max": f.decimal,
    "clipping_norm_min": f.decimal,
    "sampling_probability_min": f.decimal,
    "sampling_probability_max": f.decimal,
    "steps_max": f.positive,
    "aggregations": f.list_of(f.one_of(*_AGGREGATIONS)),
    "app_bundles": f.list_of(f.digest),
    "catalogues": f.list_of(f.digest),
    "arrays": f.list_of(_ARRAY),
    "retention_days": f.table_of(f.positive),
    "queries": f.table_of(f.decimal),
    "server_queries": f.table_of(f.decimal),
    "access": f.object_of(grant_s_max=f.positive, people=f.table_of(f.list_of(f.digest))),
}


def verify_policies(evidence: Evidence) -> None:
    """Checks every permit, charge, round and release against the policy logged before it."""
    for replay in evidence.regions():
        _RegionPolicies(evidence, replay).verify()


class _RegionPolicies:
    """The policies of one region's log, and what they bound, in its order."""

    def __init__(self, evidence: Evidence, replay: LogReplay) -> None:
        self._evidence = evidence
        self._replay = replay
        self._policy: Record | None = None
        self._accounts = YearlyAccounts()
        self._queries: set[str] = set()

    def verify(self) -> None:
        for entry in self._replay.entries:
            if entry.kind == "policy":
                self._take(entry)
            elif entry.kind == "permit":
                self._check_permit(entry)
            elif entry.kind == "query":
                self._check_query(entry)
            elif entry.kind == "charge":
                self._check_charge(entry)
            elif entry.kind == "round":
                self._check_round(entry)
            elif entry.kind == "release":
                self._check_release(entry)

    def _take(self, entry: Entry) -> None:
        policy = entry.part("policy")
        self._policy = None
        stated = {name: check for name, check in _OPTIONAL.items() if name in policy}
        for name, check in (_FIELDS | stated).items():
            try:
                check(policy.get(name), f"policy.{name}")
            except FormatError as error:
                self._fail("policy-fields", entry, error.message)
                return
        self._policy = policy

    def _check_permit(self, entry: Entry) -> None:
        policy = self._in_force(entry)
        if policy is None:
            return
        mechanisms = entry.parts("mechanisms")
        # What the federation asks is named by name, and is on another consent than training.
        asks = entry.record["purpose"] == FEDERATED_ANALYTICS
        if asks:
            self._queries.add(entry.text("permit_id"))
        rounds = sum(len(each["rounds"]) for each in mechanisms if isinstance(each["rounds"], list))
        bounds = [
            ("purpose", asks or entry.record["purpose"] == policy["purpose"]),
            ("delta", _decimal(entry.record["delta"]) <= _decimal(policy["delta_max"])),
            ("epsilon_cap", _at_most(entry.record["epsilon_cap"], policy, "epsilon_max_per_run")),
            ("rounds", rounds <= _whole(policy["rounds_max"])),
            ("app", _app_allowed(entry, policy)),
            ("arrays", _arrays_allowed(entry, policy)),
        ]
        plan = self._evidence.plan
        if plan is not None and entry.record["plan"] == plan.sha256:
            name = _NAMES.get(plan.rule, "robust")
            bounds += [
                ("quorum", _whole(plan.record["quorum"]) >= _whole(policy["quorum_min"])),
                ("mode", plan.record["mode"] in _listed(policy["modes"])),
                ("aggregation", name in _listed(policy.get("aggregations", [*_AGGREGATIONS]))),
                ("catalogue", _catalogue_allowed(plan.record, policy)),
            ]
        for each in mechanisms:
            full_batch = asks or each["name"] in _FULL_BATCH
            bounds += _mechanism_bounds(each, policy, full_batch=full_batch)
            if asks:
                caps, delta = _caps(policy, "server_queries"), entry.text("delta")
                bounds.append(("server_queries", _query_allowed(each, caps, delta)))
        self._report("permit-beyond-policy", entry, bounds)

    def _check_query(self, entry: Entry) -> None:
        self._queries.add(entry.text("permit_id"))
        policy = self._in_force(entry)
        if policy is None:
            return
        caps = _caps(policy, "queries")
        bounds = [
            ("delta", _decimal(entry.record["delta"]) <= _decimal(policy["delta_max"])),
            ("epsilon_cap", _at_most(entry.record["epsilon_cap"], policy, "epsilon_max_per_run")),
        ]
        for each in entry.parts("mechanisms"):
            bounds += _mechanism_bounds(each, policy, full_batch=True)
            bounds.append(("queries", _query_allowed(each, caps, entry.text("delta"))))
        self._report("permit-beyond-policy", entry, bounds)

    def _check_charge(self, entry: Entry) -> None:
        policy = self._in_force(entry)
        if policy is None:
            return
        cap = _decimal(policy["epsilon_cap_per_year"])
        bounds = [
            ("epsilon_cap", _decimal(entry.record["epsilon_cap"]) == cap),
            ("delta", _decimal(entry.record["delta"]) == _decimal(policy["delta_max"])),
            *_mechanism_bounds(entry.record, policy, full_batch=self._is_full_batch(entry)),
        ]
        self._report("charge-beyond-policy", entry, bounds)
        for excess in self._accounts.book(entry, policy):
            self._fail(excess.code, entry, excess.message)

    def _is_full_batch(self, charge: Entry) -> bool:
        """Whether a charge is for what takes every customer; queries and questions always do."""
        return charge.record["mechanism"] in _FULL_BATCH or (
            charge.text("permit_id") in self._queries
        )

    def _check_round(self, entry: Entry) -> None:
        # Without a policy its charge or its permit was told of already.
        if self._policy is not None:
            bounds = [("app", _app_allowed(entry, self._policy))]
            self._report("round-beyond-policy", entry, bounds)

    def _check_release(self, entry: Entry) -> None:
        if self._policy is not None:
            bounds = [("arrays", _arrays_allowed(entry, self._policy))]
            self._report("release-beyond-policy", entry, bounds)

    def _in_force(self, entry: Entry) -> Record | None:
        if self._policy is None:
            self._fail("no-policy", entry, "No policy that holds was logged before it.")
        return self._policy

    def _report(self, code: str, entry: Entry, bounds: list[tuple[str, bool]]) -> None:
        beyond = sorted({name for name, holds in bounds if not holds})
        if beyond:
            self._fail(code, entry, f"Its {', '.join(beyond)} is not within the logged policy.")

    def _fail(self, code: str, entry: Entry, message: str) -> None:
        self._evidence.fail(BUDGET, code, entry, message)


# Room for floating-point rounding, relative.
_ROUNDING = 1e-8
# As many as any record can state.
_MOST_STEPS = 10**6
# They take every eligible customer into every round, once: a charge of theirs that claims
# amplification by sampling describes something that cannot have happened.
_FULL_BATCH = frozenset({"popularity", "factors", "gram"})


def _mechanism_bounds(
    mechanism: Record, policy: Record, *, full_batch: bool
) -> list[tuple[str, bool]]:
    noise, norm = mechanism["noise_multiplier"], mechanism["clipping_norm"]
    sampled, probability = not full_batch, _decimal(mechanism["sampling_probability"])
    return [
        ("noise_multiplier", _decimal(noise) >= _decimal(policy["noise_multiplier_min"])),
        ("clipping_norm", _decimal(norm) <= _decimal(policy["clipping_norm_max"])),
        ("clipping_norm", _decimal(norm) >= _decimal(policy.get("clipping_norm_min", "0"))),
        (
            "sampling_probability",
            _sampling_allowed(probability, policy) if sampled else probability == 1,
        ),
        ("key_delta", _at_most(mechanism.get("key_delta", "0"), policy, "key_delta_max")),
        ("steps", sampled or mechanism["steps"] == 1),
        ("steps", _whole(mechanism["steps"]) <= _whole(policy.get("steps_max", _MOST_STEPS))),
    ]


def _query_allowed(mechanism: Record, caps: Record, delta: str) -> bool:
    """Whether a policy names such a query, and its ε by itself is within what it allows."""
    cap = caps.get(str(mechanism["name"]))
    if cap is None:
        return False
    # A question of several steps is permitted by what all of them spend.
    rounds = mechanism.get("rounds")
    times = len(rounds) if isinstance(rounds, list) else 1
    spent = {mechanism_in(mechanism): times}
    try:
        return composed_epsilon(spent, float(delta)) <= float(str(cap)) * (1 + _ROUNDING)
    except VerificationError:
        return False


def _sampling_allowed(probability: Decimal, policy: Record) -> bool:
    least = _decimal(policy.get("sampling_probability_min", "0"))
    most = _decimal(policy.get("sampling_probability_max", "1"))
    return 0 < probability <= 1 and least <= probability <= most


def _caps(policy: Record, table: str) -> Record:
    """A table that permits: what a policy does not state, it does not allow."""
    caps = policy.get(table)
    return caps if isinstance(caps, dict) else {}


def _at_most(value: object, policy: Record, name: str) -> bool:
    return name not in policy or _decimal(value) <= _decimal(policy[name])


def _app_allowed(entry: Entry, policy: Record) -> bool:
    return "app_bundles" not in policy or entry.record["app"] in _listed(policy["app_bundles"])


def _catalogue_allowed(plan: Record, policy: Record) -> bool:
    return "catalogues" not in policy or plan["catalogue"] in _listed(policy["catalogues"])


def _arrays_allowed(entry: Entry, policy: Record) -> bool:
    """Each array has a bound of its name and type, and no axis is longer than the bound's."""
    if "arrays" not in policy:
        return True
    bounds = [bound for bound in _listed(policy["arrays"]) if isinstance(bound, dict)]
    return all(any(_is_within(array, bound) for bound in bounds) for array in entry.parts("arrays"))


def _is_within(array: Record, bound: Record) -> bool:
    shape, most = _listed(array["shape"]), _listed(bound["shape_max"])
    return (
        (array["name"], array["dtype"]) == (bound["name"], bound["dtype"])
        and len(shape) == len(most)
        and all(_whole(length) <= _whole(limit) for length, limit in zip(shape, most, strict=True))
    )


def _decimal(value: object) -> Decimal:
    # The schemas of permits and charges, and _FIELDS above, have let only decimals pass.
    return Decimal(str(value))


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
