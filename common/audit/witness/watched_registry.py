"""The key registry in a folder, read again as soon as a version comes in."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from threading import Lock

from common.errors import FedprefError, InputError, VerificationError
from common.keys import Registry
from common.registry_install import registry_envelopes

_Stamp = tuple[tuple[str, int, int], ...]


class WatchedRegistry:
    """The newest key registry of a folder.

    A folder that no longer verifies, or no longer begins with the versions it had, does not take
    effect: the registry that was read before goes on, and the fault is told once.

    Args:
        folder: The folder of versions, ``1.json`` and on.
        root_key_ids: The ids of version 1's root keys, known from elsewhere; none trusts version 1
            as it is found.
        on_fault: Is told why a changed folder did not take effect.

    Raises:
        InputError: There is no registry.
        VerificationError: It does not verify.
    """

    def __init__(
        self,
        folder: Path,
        *,
        root_key_ids: Collection[str] = (),
        on_fault: Callable[[FedprefError], None],
    ) -> None:
        self._folder = folder
        self._on_fault = on_fault
        self._lock = Lock()
        self._stamp = self._look()
        self._envelopes = registry_envelopes(folder)
        if not self._envelopes:
            raise InputError(
                f"There is no key registry in {folder}.",
                remedy="Copy the federation's registry/*.json there.",
            )
        self._registry = Registry.from_envelopes(self._envelopes, root_key_ids=root_key_ids or None)

    def current(self) -> Registry:
        """The newest registry; read again if a file of the folder came, went or changed."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._read_again()
                except FedprefError as error:
                    self._on_fault(error)
            return self._registry

    def _read_again(self) -> None:
        envelopes = registry_envelopes(self._folder)
        known = self._envelopes
        if envelopes[: len(known)] != known:
            raise VerificationError(
                f"The key registry in {self._folder} no longer begins with the {len(known)}"
                " versions that it had; they stay in force."
            )
        self._registry = Registry.from_envelopes(envelopes, root_key_ids=None)
        self._envelopes = envelopes

    def _look(self) -> _Stamp:
        """Names, sizes and times of the folder's versions."""
        found = []
        try:
            for path in self._folder.glob("*.json"):
                status = path.stat()
                found.append((path.name, status.st_size, status.st_mtime_ns))
        except OSError:
            # A version was taken away meanwhile: that is a change, and is looked at next.
            found.append(("", 0, 0))
        return tuple(sorted(found))
