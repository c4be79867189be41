"""The region's store behind its quality gate: read once, kept, and brought up to date."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable

import pandas as pd

from client.data.prepared_files import DamagedRowsError
from client.data.prepared_rows import KeptRows, PreparedRows
from client.data.quality import pass_gate
from client.data.refresh import Refresh, Refreshed
from client.data.row_checks import PurchaseLimits, RowChecks
from client.data.source_config import FileSourceConfig, SqlSourceConfig
from client.data.sources import open_source
from client.data.standards import standards_of
from client.data.transactions import CheckedTransactions
from client.engine.home import RegionHome
from client.engine.storage_key import StorageKey, StorageKeyFile
from client.settings import declared_source
from common import canonical_json
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.timestamps import now_ms

_MAX_BASIS_BYTES = 1 << 24
_logger = logging.getLogger("fedpref.engine")


class KeptStore:
    """What the region keeps of its store; it fails closed, and recovers when the cause goes.

    If the store cannot be read, or what is new in it does not pass the gate, there are no data
    until it can: nothing is trained on a state that may be out of date.

    Args:
        home: The region's home.
        threshold: The least share of rows that must pass the quality gate.
        clock_s: A test's own clock, in seconds.
    """

    def __init__(
        self, home: RegionHome, threshold: float, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._home = home
        self._threshold = threshold
        self._clock_s = clock_s
        self._checked: CheckedTransactions | None = None
        self._state = ""
        self._due_s = -math.inf
        self._catalogue: Catalogue | None = None

    def checked(self) -> CheckedTransactions:
        """The rows that passed the gate; looks for what is new in the store first, if it is time.

        Raises:
            QualityGateError: The store is below the threshold.
            InputError: The store, its declaration or the catalogue cannot be read.
            StorageError: What is read cannot be kept.
        """
        if self._checked is None or self._clock_s() >= self._due_s:
            self.refresh()
        # `refresh` gives the rows or raises.
        return self._checked  # type: ignore[return-value]

    def refresh(self, *, anew: bool = False) -> Refreshed:
        """Looks for what is new in the store now.

        Args:
            anew: Whether to read the whole store, whatever is kept of it.

        Raises:
            QualityGateError, InputError, StorageError: As `checked`.
        """
        try:
            return self._refresh(anew=anew)
        except DamagedRowsError as error:
            _logger.warning("%s The store is read anew.", error.message)
            return self._refresh(anew=True)

    def forget(self) -> None:
        """Looks at everything again next time."""
        self._checked = None

    def catalogue(self) -> Catalogue:
        """The region's public catalogue.

        Raises:
            InputError: It cannot be read.
        """
        if self._catalogue is None:
            self._catalogue = Catalogue.load(self._home.catalogue)
        return self._catalogue

    def _refresh(self, *, anew: bool) -> Refreshed:
        config, catalogue = declared_source(self._home), self.catalogue()
        source, limits = open_source(config), PurchaseLimits.of(standards_of(self._home))
        basis = _basis(config, catalogue, limits)
        kept = PreparedRows(self._home.prepared, self._storage_key(), basis)
        rows: KeptRows | None = None
        # Whatever fails, the store is looked at again next time.
        self._due_s = -math.inf
        with kept.exclusive():
            if anew:
                kept.clear()
            checks = RowChecks(catalogue, limits)
            refresh = Refresh(source, config.columns.by_canonical_name, checks, kept)
            done = refresh.run(now_ms())
            if self._checked is None or kept.manifest.state != self._state:
                rows = kept.snapshot(source.origin, catalogue.digest)
        if rows is not None:
            self._checked = pass_gate(rows, region=self._home.region, threshold=self._threshold)
            self._state = kept.manifest.state
        self._due_s = self._clock_s() + config.refresh_after_s
        return done

    def _storage_key(self) -> StorageKey:
        # Asked each time: an erasure turns it, and with it all that is kept becomes unreadable.
        return StorageKeyFile(self._home.stored_key).find(lambda: None)


def _basis(
    config: FileSourceConfig | SqlSourceConfig, catalogue: Catalogue, limits: PurchaseLimits
) -> str:
    """What examined rows depend on besides the store itself."""
    record: dict[str, JsonValue] = {
        "source": config.content_record(),
        "catalogue": catalogue.digest,
        "limits": limits.to_record(),
        # Its digests of values are kept with the rows.
        "pandas": pd.__version__,
    }
    return hashlib.sha256(canonical_json.encode(record, max_bytes=_MAX_BASIS_BYTES)).hexdigest()
