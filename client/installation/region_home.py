"""A region's home, from nothing: keys, identity, stores, and the first entries of its log.

A deployment does this in two steps, before and after the federation has enrolled the region's keys;
a simulation does both at once. Each part is left as it is where it is there already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from client.consent_service.notices import AUTOMATIC, publish
from client.engine.home import KEY_ROLES, RegionHome
from client.engine.ledger_store import make_ledger
from client.engine.log_state import LogState
from client.engine.policy import RegionPolicy
from client.engine.policy_desk import sign_policy
from client.engine.storage_key import make_storage_key
from client.engine.subjects import open_subject_keys
from common.audit.log import AuditLog
from common.audit.registry_entry import registry_entry
from common.audit.witness.store import WitnessStore
from common.durable_file import write_durably
from common.errors import StorageError
from common.key_rotation import make_key
from common.notice import Notice
from common.registry_install import registry_envelopes, unlogged_versions
from common.signatures import Signer
from common.timestamps import now_ms


def make_home(home: RegionHome) -> None:
    """Makes what a home has before anyone else knows of it: folder, identity, storage key.

    Raises:
        StorageError: The disk is full or refuses.
    """
    try:
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.root.chmod(0o700)
        home.keys.mkdir(mode=0o700, exist_ok=True)
        home.write_identity()
        # It is never drawn a second time: what is under it could not be opened again.
        if not home.stored_key.exists():
            make_storage_key(home.stored_key)
    except OSError as error:
        raise StorageError(
            f"The home {home.root} cannot be made: {error.strerror}.",
            remedy="Free disk space or correct the folder's mode; the same command goes on.",
        ) from error


def make_keys(home: RegionHome) -> dict[str, Signer]:
    """The region's signing keys by role, made where they are not there yet."""
    store = home.key_store
    return {
        role: store.signer(role) if store.place(role) else make_key(store, role)
        for role in KEY_ROLES
    }


def begin_records(
    home: RegionHome,
    *,
    policy: RegionPolicy,
    notices: Sequence[Notice],
    clock_ms: Callable[[], int] = now_ms,
) -> None:
    """Begins the region's records, once its registry is in the home: what every run needs.

    Ledger, subjects' table and witness's memory are made; the log gets the registry, the notices
    and the policy in force. Where the log has any of these already it is left; a ledger is never
    begun a second time, since an empty one would forget what was spent.

    Args:
        home: The home, with its keys and its registry.
        policy: What the region allows.
        notices: What customers are told, each in its language.
        clock_ms: Now, in milliseconds since the epoch.

    Raises:
        StorageError: Another process owns the log, or a store that the log needs is missing.
    """
    if not home.log.exists():
        _make_stores(home)
    log_signer = home.signer("log")
    with AuditLog.open(home.log, origin=home.origin, signer=log_signer, create=True) as log:
        # Entries signed by a key follow the version of the registry that enrols it.
        versions = unlogged_versions(home.registry, log) if log.size else _versions(home)
        trainer = home.signer("trainer")
        log.append([registry_entry(each, trainer) for each in versions])
        state = LogState(log, home.read_registry(), home.region)
        state.refresh()
        known = {(each.notice.notice_id, each.notice.lang) for each in state.notices}
        for notice in notices:
            if (notice.notice_id, notice.lang) not in known:
                publish(
                    log,
                    state,
                    notice,
                    home.signer("controller"),
                    supersedes=AUTOMATIC,
                    # One that consents of old were given to states since when it has held.
                    in_force_from_ms=notice.in_force_from_ms or clock_ms(),
                )
        sign_policy(home, log, policy, clock_ms=clock_ms)
        _keep_first_notice(home, log, state)


def _keep_first_notice(home: RegionHome, log: AuditLog, state: LogState) -> None:
    """Keeps the first notice as a file of its own, for whoever has no log at hand."""
    path = home.root / "notice.json"
    if state.notices and not path.exists():
        index = state.notices[0].index
        write_durably(path, next(data for _, data in log.entries(index, index + 1)))


def _make_stores(home: RegionHome) -> None:
    if not home.ledger.exists():
        make_ledger(home.ledger)
    if not home.witness.exists():
        WitnessStore.open(home.witness, create=True).close()
    with open_subject_keys(home.subjects, home.stored_key):
        pass


def _versions(home: RegionHome) -> list[bytes]:
    versions = registry_envelopes(home.registry)
    if not versions:
        raise StorageError(
            f"{home.region}: there is no key registry in {home.registry} yet.",
            remedy="The region is enrolled first; its keys count from then on.",
        )
    return versions
