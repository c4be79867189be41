"""What stands where a party's keys are: which open, and what the registry says of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import FedprefError
from common.key_registry import Registry
from common.key_store import KeyStore, role_of
from common.signatures import Signer, verify_signature

VALID = "valid"
_DAY_MS = 24 * 3600 * 1000
_PROBE = b"fedpref: does this key sign?"


@dataclass(frozen=True)
class KeyStatus:
    """One key of a party.

    Attributes:
        name: Its role, with ``.next`` if it is to follow the active one.
        key_id: Its id; empty if it does not open.
        place: Where it is kept; empty if nowhere.
        state: ``valid``, or in a few words why not.
        days_left: For how many whole days it is valid still; None if it is not.
        problem: What to read if it does not open or sign.
    """

    name: str
    key_id: str
    place: str
    state: str
    days_left: int | None = None
    problem: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether it signs, and its signatures count now."""
        return self.state == VALID and not self.problem


def key_states(
    store: KeyStore, registry: Registry | None, names: Iterable[str], at_ms: int
) -> list[KeyStatus]:
    """Opens keys, lets each sign a word of its own, and looks each up in the registry.

    Args:
        store: The party's keys.
        registry: The home's registry; None if it has none yet.
        names: Roles, and roles with ``.next``.
        at_ms: Now.
    """
    return [_state(store, registry, name, at_ms) for name in names]


def _state(store: KeyStore, registry: Registry | None, name: str, at_ms: int) -> KeyStatus:
    place = ""
    try:
        place = store.place(name)
        if not place:
            return KeyStatus(name, "", "", "missing")
        signer = store.signer(name)
        problem = "" if _signs(signer) else "Its signatures do not verify."
    except FedprefError as error:
        return KeyStatus(name, "", place, "does not open", problem=str(error))
    state, days_left = _registered(registry, store.owner, role_of(name), signer.key_id, at_ms)
    return KeyStatus(name, signer.key_id, place, state, days_left, problem)


def _signs(signer: Signer) -> bool:
    return verify_signature(signer.public_key, _PROBE, signer.sign(_PROBE))


def _registered(
    registry: Registry | None, party: str, role: str, key_id: str, at_ms: int
) -> tuple[str, int | None]:
    if registry is None:
        return "no registry installed", None
    entry = next((each for each in registry.entries if each.key_id == key_id), None)
    if entry is None:
        return "not enrolled", None
    if (entry.party, entry.role) != (party, role):
        return f"enrolled for {entry.party} as {entry.role}", None
    if entry.revoked_at_ms is not None and at_ms >= entry.revoked_at_ms:
        return "revoked", None
    if at_ms >= entry.not_after_ms:
        return "expired", None
    if at_ms < entry.not_before_ms:
        return "not valid yet", None
    end = min(entry.not_after_ms, entry.revoked_at_ms or entry.not_after_ms)
    return VALID, (end - at_ms) // _DAY_MS
