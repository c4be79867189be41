"""Restoring a region's home from a backup, part by part, without rolling anything back.

What the home has and is sound is kept if it is at least as new as the backup's; what is missing,
damaged or older is replaced; what neither continues nor is continued by the backup's is a fork, and
nothing is restored then. A log or a witness's memory of which the home has nothing could come back
older than what others have seen: it is restored only against a checkpoint that another party holds,
or on the operator's word.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from client.engine.backup import FILES, FOLDERS, Backup, make_folder_of, read_backup
from client.engine.charges import ChargeRequest
from client.engine.home import RegionHome, read_registry
from client.engine.ledger import open_ledger
from client.engine.ledger_store import make_ledger
from client.engine.log_state import LogState
from client.engine.policy import read_policy
from client.engine.restored_ledger import judge_ledger, unledgered
from client.engine.restored_log import judge_log
from client.engine.restored_witness import judge_witness
from client.engine.seal import is_whole_seal
from client.engine.storage_key import StorageKeyFile, make_storage_key
from client.engine.subjects import open_subject_keys, read_fingerprint
from common.audit.log import AuditLog
from common.audit.writer_lock import WriterLock
from common.consent import ERASURE
from common.durable_file import sync_folder, write_durably
from common.errors import FedprefError, InputError, VerificationError
from common.keys import Registry

KEPT, RESTORED, MADE = "kept", "restored", "made anew"


@dataclass(frozen=True)
class RestoreOptions:
    """What the operator knows, and takes upon themselves.

    Attributes:
        at_least: Signed checkpoints that other parties hold, of this region's log and of the logs
            that it witnesses: nothing older is restored.
        without_checkpoint: Restore a lost log although no such checkpoint is at hand.
        without_subjects: Go on with an empty subjects' table if the backup's cannot be opened.
        witness_key_retires: Restore a lost witness's memory although it may be older than what it
            has cosigned: its key is replaced before it cosigns again.
    """

    at_least: Sequence[bytes] = ()
    without_checkpoint: bool = False
    without_subjects: bool = False
    witness_key_retires: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one part of the home.

    Attributes:
        part: Which.
        what: `KEPT`, `RESTORED` or `MADE`.
        note: Why, or what follows.
    """

    part: str
    what: str
    note: str


def restore(folder: Path, home_root: Path, options: RestoreOptions) -> list[Outcome]:
    """Restores a home; repeating it completes what a crash interrupted.

    Args:
        folder: The backup.
        home_root: The home; it has at least the keys, restored from their own backup.
        options: What the operator knows.

    Raises:
        InputError: Something that the operator must decide is missing.
        VerificationError: The backup is altered, of another region, forked from the home, or older
            than a checkpoint that was named.
        StorageError: The home is in use, or a file cannot be written.
    """
    backup = read_backup(folder)
    home = RegionHome(root=home_root, region=backup.region, federation=backup.federation)
    if home.identity.exists():
        found = RegionHome.read(home_root)
        if (found.region, found.federation) != (home.region, home.federation):
            raise VerificationError(
                f"The backup is of {home.region} of {home.federation}; {home_root} is of "
                f"{found.region} of {found.federation}."
            )
    if not home.keys.is_dir():
        raise InputError(
            f"{home.keys} is missing: a backup holds no keys.",
            remedy="Restore the keys from their own backup first.",
        )
    with ExitStack() as stack:
        lock = WriterLock(home.log)
        stack.callback(lock.release)
        return _Restoration(backup, home, options).run()


class _Restoration:
    """One restoration: everything is decided and checked before anything is replaced."""

    def __init__(self, backup: Backup, home: RegionHome, options: RestoreOptions) -> None:
        self._backup = backup
        self._home = home
        self._options = options
        self._outcomes: list[Outcome] = []

    def run(self) -> list[Outcome]:
        registry = self._newer_registry()
        keep_log, log_note = judge_log(
            self._home,
            self._backup.path("log.sqlite"),
            registry,
            at_least=self._options.at_least,
            without_checkpoint=self._options.without_checkpoint,
        )
        log_path = self._home.log if keep_log else self._backup.path("log.sqlite")
        charges, keep_ledger, ledger_note = judge_ledger(
            self._home.ledger, self._backup.path("ledger.sqlite")
        )
        keep_subjects, subjects_note = self._judge_subjects()
        keep_witness, witness_note = judge_witness(
            self._home,
            self._backup.path("witness.sqlite"),
            registry,
            at_least=self._options.at_least,
            key_retires=self._options.witness_key_retires,
        )
        missing = unledgered(log_path, registry, self._home.region, charges)
        # From here on nothing is refused any more.
        self._replace("log.sqlite", keep_log, log_note)
        self._replace("ledger.sqlite", keep_ledger, ledger_note)
        self._replace("witness.sqlite", keep_witness, witness_note)
        if subjects_note is None:
            self._begin_subjects()
        else:
            self._replace("subjects.sqlite", keep_subjects, subjects_note)
        self._copy_files()
        self._adopt(missing)
        self._erase_again(registry)
        return self._outcomes

    def _newer_registry(self) -> Registry:
        """The longer of the two registries; one must begin with the other."""
        ours, theirs = self._home.registry, self._backup.path("registry")
        here = {path.name: path.read_bytes() for path in sorted(ours.glob("*.json"))}
        there = {path.name: path.read_bytes() for path in sorted(theirs.glob("*.json"))}
        for name in here.keys() & there.keys():
            if here[name] != there[name]:
                raise VerificationError(
                    f"The home's and the backup's registry version {name} differ.",
                    remedy="Compare both with the federation's registry.",
                )
        return read_registry(ours if len(here) >= len(there) else theirs)

    def _judge_subjects(self) -> tuple[bool, str | None]:
        """Whether the home's table is kept, and why; no reason if a new one is to be begun."""
        home = self._home
        with suppress(FedprefError):
            if home.subjects.is_file():
                with open_subject_keys(home.subjects, home.stored_key) as subjects:
                    return True, f"{len(subjects.pseudonyms())} customers"
        self._refuse_another_key()
        try:
            fingerprint = read_fingerprint(self._backup.path("subjects.sqlite"))
            # The home's own keys stay as they are until its table is the backup's.
            StorageKeyFile(home.stored_key).check(fingerprint)
        except FedprefError as error:
            if self._options.without_subjects:
                return False, None
            raise InputError(
                "The home's subjects' table cannot be used, and the storage key does not open the "
                f"backup's: {error.message}",
                remedy="Restore the newest copy of the storage key. If it is lost, or the backup is"
                " from before an erasure, say --without-subjects: no record can then be linked to "
                "its customer any more, and every customer is asked anew.",
            ) from error
        return False, "as it was when the backup was made; who was erased since is erased again"

    def _refuse_another_key(self) -> None:
        """Refuses to give up a table of the home that only lacks its storage key."""
        home = self._home
        if self._options.without_subjects or not home.subjects.is_file():
            return
        try:
            fingerprint = read_fingerprint(home.subjects)
        except FedprefError:
            return
        try:
            StorageKeyFile(home.stored_key).check(fingerprint)
        except FedprefError as error:
            raise InputError(
                "The home's table is sound, but under another storage key; put the newest copy of "
                "the storage key back.",
                remedy="If no such copy is left, say --without-subjects: the home's table is set "
                "aside then.",
            ) from error

    def _replace(self, name: str, keep: bool, note: str) -> None:
        target, source = self._home.root / name, self._backup.path(name)
        if keep or not source.is_file():
            if target.is_file():
                self._outcomes.append(Outcome(name, KEPT, note))
            return
        copy = target.with_name(f"{name}.restoring")
        shutil.copyfile(source, copy)
        copy.chmod(0o600)
        _sync(copy)
        _set_aside(target)
        copy.replace(target)
        sync_folder(target.parent)
        self._outcomes.append(Outcome(name, RESTORED, note))

    def _begin_subjects(self) -> None:
        _set_aside(self._home.subjects)
        with suppress(FileNotFoundError):
            self._home.subjects.unlink()
        if not self._home.stored_key.exists():
            # Lost with all its copies: what it opened stays closed, so a new table has a new key.
            make_storage_key(self._home.stored_key)
        with open_subject_keys(self._home.subjects, self._home.stored_key):
            pass
        self._outcomes.append(
            Outcome(
                "subjects.sqlite",
                MADE,
                "no earlier record can be linked to its customer; keep one copy of "
                "keys/storage.key elsewhere",
            )
        )

    def _copy_files(self) -> None:
        """Copies what is missing; what is there stays, but for a damaged seal."""
        restored = []
        for name in self._backup.files:
            target = self._home.root / name
            folder = name.partition("/")[0]
            damaged = folder == "seals" and target.is_file() and not is_whole_seal(target)
            if name.endswith(".sqlite") or (target.exists() and not damaged):
                continue
            make_folder_of(self._home.root, name)
            mode = 0o644 if folder == "registry" else 0o600
            write_durably(target, self._backup.path(name).read_bytes(), mode=mode)
            restored.append(name)
        for part in (*FOLDERS, "settings"):
            count = sum(
                name.startswith(f"{part}/") or (part == "settings" and name in FILES)
                for name in restored
            )
            if count:
                self._outcomes.append(
                    Outcome(part, RESTORED, f"{count} file(s) that were missing or damaged")
                )

    def _adopt(self, missing: Sequence[tuple[ChargeRequest, str]]) -> None:
        """Takes charges back that the log has and the ledger lacks: the log is the newer one."""
        if not missing:
            return
        if not self._home.ledger.exists():
            make_ledger(self._home.ledger)
        policy = read_policy(self._home.policy)
        delta = float(policy.delta_max)
        with open_ledger(self._home.ledger, caps=policy.epsilon_caps, delta=delta) as ledger:
            for request, head in missing:
                ledger.adopt(request, head)
        self._outcomes.append(
            Outcome("ledger.sqlite", RESTORED, f"{len(missing)} charges taken back from the log")
        )

    def _erase_again(self, registry: Registry) -> None:
        """Erases whoever the log says was erased, should their key have come back."""
        home = self._home
        with (
            AuditLog.open_read_only(home.log) as log,
            open_subject_keys(home.subjects, home.stored_key) as subjects,
        ):
            state = LogState(log, registry, home.region)
            state.refresh()
            erased = [
                ref
                for ref, sid in subjects.pseudonyms().items()
                if (latest := state.consents.latest(sid)) and latest.form.method == ERASURE
            ]
            if erased:
                subjects.erase(erased)
                self._outcomes.append(
                    Outcome(
                        "subjects.sqlite",
                        RESTORED,
                        f"{len(erased)} erased again, as logged; the storage key is a new one: "
                        "replace your copy of it, destroy the older one, make a new backup",
                    )
                )


def _set_aside(path: Path) -> None:
    """Gives what is replaced a second name, and takes its side files out of the new one's way."""
    if path.is_file():
        number = 1
        while path.with_name(f"{path.name}.replaced-{number}").exists():
            number += 1
        aside = path.with_name(f"{path.name}.replaced-{number}")
        os.link(path, aside)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    else:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
