"""How a consent desk is opened: beside a privacy engine that has the log, or on a home itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from client.consent_service.forms import FormSettings
from client.consent_service.local_desk import DeskParts, LocalDesk
from client.consent_service.registrar import ConsentRegistrar
from client.engine.home import RegionHome
from client.engine.log_state import LogState
from client.engine.policy import read_policy
from client.engine.subjects import SubjectKeys, open_subject_keys
from client.profiles.desk import HomeProfiles
from common.audit.checkpoint import parse_note
from common.audit.cosigners import Cosigners
from common.audit.log import AuditLog
from common.audit.witness.store import CosignatureStore, WitnessStore
from common.errors import StorageError
from common.timestamps import now_ms


class CheckpointChoice:
    """Which checkpoint proves an entry best: the first above it that enough others cosigned.

    Args:
        log: The region's log.
        region: The region's party name.
        kept: The cosignatures of its checkpoints; None if the home keeps none.
        cosigners: Whose cosignatures count.
    """

    def __init__(
        self, log: AuditLog, region: str, kept: CosignatureStore | None, cosigners: Cosigners
    ) -> None:
        self._log = log
        self._region = region
        self._kept = kept
        self._cosigners = cosigners

    def above(self, index: int) -> bytes:
        """The checkpoint for an entry; without cosignatures if there are none yet."""
        best, most = self._log.checkpoint(), 0
        for size in self._kept.sizes() if self._kept is not None else ():
            if size <= index or self._kept is None:
                continue
            note = self._kept.note(size, self._log.checkpoint_at(size))
            lines = (signature.line for signature in parse_note(note).signatures)
            count = len(self._cosigners.verified(note, lines, party=self._region))
            if count > most:
                best, most = note, count
            if most >= max(1, self._cosigners.quorum):
                break
        return best


@contextmanager
def desk_on(
    home: RegionHome,
    log: AuditLog,
    state: LogState,
    subjects: SubjectKeys,
    *,
    clock_ms: Callable[[], int] = now_ms,
) -> Iterator[LocalDesk]:
    """A desk on what a process has open already, such as a privacy engine's.

    Args:
        home: The region's home.
        log: Its log, open for writing.
        state: The log's replayed state; shared with whoever else replays it.
        subjects: The customers' pseudonym keys.
        clock_ms: Now, in milliseconds since the epoch.

    Raises:
        InputError: The home lacks the consent key or the consent settings.
    """
    forms = FormSettings.read(home.root)
    registrar = ConsentRegistrar(
        log=log,
        state=state,
        subjects=subjects,
        signer=home.signer("consent"),
        lasts_s=forms.lasts_s,
        clock_ms=clock_ms,
    )
    with ExitStack() as stack:
        kept = None
        if home.witness.exists():
            kept = CosignatureStore(
                stack.enter_context(WitnessStore.open(home.witness)), home.origin
            )
        choice = CheckpointChoice(log, home.region, kept, Cosigners(home.read_registry()))
        parts = DeskParts(
            federation=home.federation,
            region=home.region,
            log=log,
            state=state,
            subjects=subjects,
            registrar=registrar,
            forms=forms,
            policy=read_policy(home.policy),
            checkpoint_above=choice.above,
            profiles=HomeProfiles(home),
        )
        yield LocalDesk(parts, clock_ms=clock_ms)


@contextmanager
def open_desk(home: RegionHome) -> Iterator[LocalDesk]:
    """Opens a desk on a home whose log no other process has open.

    Raises:
        StorageError: Another process has the log; the remedy says how to reach its desk.
        VerificationError: The log does not verify.
    """
    with ExitStack() as stack:
        try:
            log = stack.enter_context(
                AuditLog.open(home.log, origin=home.origin, signer=home.signer("log"))
            )
        except StorageError as error:
            if "Another process" not in error.message:
                raise
            raise StorageError(
                error.message,
                remedy="If it is the region's engine, start it with --consent-socket C, and this "
                "with --engine-socket C; else stop it.",
            ) from error
        subjects = stack.enter_context(open_subject_keys(home.subjects, home.stored_key))
        state = LogState(log, home.read_registry(), home.region)
        state.refresh()
        yield stack.enter_context(desk_on(home, log, state, subjects))
