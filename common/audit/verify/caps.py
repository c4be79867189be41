"""Step 6, continued: ε of each year, model and purpose, recomputed and held against its cap."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from common.audit.verify.epsilon import Mechanism, composed_epsilon, mechanism_in
from common.audit.verify.fields import Record
from common.audit.verify.replay import Entry
from common.errors import VerificationError

# The policy's table of caps, the charge's field that names a row of it, and the failure.
_TABLES = (
    ("epsilon_caps_per_model", "model", "model-cap"),
    ("epsilon_caps_per_purpose", "purpose", "purpose-cap"),
)
# Room for floating-point rounding, relative.
_ROUNDING = 1e-8

# What is counted together: the year, and the model or the purpose, or neither.
_Account = tuple[str, str, str]
_Spent = Counter[Mechanism]


@dataclass(frozen=True)
class Excess:
    """A cap that a charge goes beyond.

    Attributes:
        code: The failure.
        message: In words.
    """

    code: str
    message: str


class YearlyAccounts:
    """What one region has charged, year by year, in all and by model and purpose."""

    def __init__(self) -> None:
        self._spent: dict[_Account, _Spent] = {}

    def book(self, charge: Entry, policy: Record) -> list[Excess]:
        """Books a charge, and holds each account it is on against the policy in force.

        A table of caps is the whole list: what it does not name has a cap of 0.
        """
        year = charge.text("time")[:4]
        accounts = [(("year", year), str(policy["epsilon_cap_per_year"]), "ledger-cap")]
        for table_name, field, code in _TABLES:
            name, table = charge.text(field), policy.get(table_name)
            cap = str(table.get(name, "0")) if isinstance(table, dict) else None
            if cap is None:
                # Booked all the same: a later policy may cap what was spent under this one.
                self._add((year, field, name), charge)
            else:
                accounts.append(((field, name), cap, code))
        return [
            excess
            for (kind, name), cap, code in accounts
            if (excess := self._held(charge, (year, kind, name), cap, code)) is not None
        ]

    def _held(self, charge: Entry, account: _Account, cap: str, code: str) -> Excess | None:
        spent = self._add(account, charge)
        try:
            found = _epsilon(frozenset(spent.items()), charge.text("delta"))
        except VerificationError:
            return None  # The charge itself is reported: its parameters allow no ε.
        if found <= float(cap) * (1 + _ROUNDING):
            return None
        year, kind, name = account
        whose = year if kind == "year" else f"{year} for {kind} {name}"
        return Excess(
            code,
            f"What was charged in {whose} gives ε = {found:.6f} at δ = {charge.text('delta')}, "
            f"above the policy's cap of {cap}.",
        )

    def _add(self, account: _Account, charge: Entry) -> _Spent:
        spent = self._spent.setdefault(account, Counter())
        mechanism = mechanism_in(charge.record)
        spent[mechanism] += charge.number("steps")
        return spent


@lru_cache(maxsize=4096)
def _epsilon(mechanisms: frozenset[tuple[Mechanism, int]], delta: str) -> float:
    # Regions of one run charge the same mechanisms, so most compositions are computed once.
    return composed_epsilon(dict(mechanisms), float(delta))
