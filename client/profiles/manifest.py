"""What is kept of profiles: which files hold them, what they were made of and by.

The manifest is one small sealed file, replaced as a whole: what it names is kept, whatever else
lies there is left from something that a crash interrupted.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.data.prepared_files import Cipher
from client.profiles.clusters import Groups
from client.profiles.columns import Models
from client.profiles.lifetime import BuyingModel, SpendingModel
from client.profiles.purchases import SHARDS
from client.profiles.rfm import Cuts
from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import FormatError, StorageError

_VERSION = "fedpref-profiles/1"
_CONTEXT = b"fedpref-profiles/1 manifest"
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Shard:
    """The files of one shard.

    Attributes:
        layers: Files of facts, which add up; the first one is the largest.
        rows: The entries of each layer, by which layers are merged.
        judged: The file of what is said; empty if there is none.
    """

    layers: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    judged: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """All files."""
        return (*self.layers, self.judged) if self.judged else self.layers


@dataclass(frozen=True)
class Manifest:
    """What is kept.

    Attributes:
        basis: What facts depend on besides the region's tables: another one makes them worthless.
        state: A random name of this very state.
        purchases: How far purchases were read, as `client.profiles.feeds` says it.
        events: The file that says how far events were followed; empty if there are none.
        counts: What was read of purchases, and what became of it.
        event_counts: Likewise of events.
        stated: The columns that all purchases have.
        models: What customers are compared with.
        library: The ids of the library's tags and triggers, in order, and its version.
        segments: The ids of its segments.
        judged_day: The day (since the epoch) for which all profiles were judged.
        as_of_ms: The moment that profiles are about, if it is not the present.
        built_ms: When all was read anew, milliseconds since the epoch.
        refreshed_ms: When new rows were taken in last.
        consent_size: The size of the consent log that customers were chosen at.
        admitted: The file with the pseudonyms of all customers who were chosen at the last build.
        due: Why all has to be read anew, if a refresh found so; empty if not.
        shards: The shards' files.
    """

    basis: str
    state: str = field(default_factory=lambda: secrets.token_hex(16))
    purchases: str = ""
    events: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    event_counts: Mapping[str, int] = field(default_factory=dict)
    stated: frozenset[str] = frozenset()
    models: Models = field(default_factory=lambda: Models(Cuts((), (), ())))
    library: tuple[str, ...] = ()
    library_version: str = ""
    segments: tuple[str, ...] = ()
    judged_day: int = 0
    as_of_ms: int | None = None
    built_ms: int = 0
    refreshed_ms: int = 0
    consent_size: int = 0
    admitted: str = ""
    due: str = ""
    shards: tuple[Shard, ...] = (Shard(),) * SHARDS

    @property
    def files(self) -> frozenset[str]:
        """The names of all files."""
        named = {name for shard in self.shards for name in shard.files}
        return frozenset(named | ({self.admitted, self.events} - {""}))

    def following(self, **changed: object) -> Manifest:
        """The next state."""
        return replace(self, state=secrets.token_hex(16), **changed)  # type: ignore[arg-type] # fields

    def write(self, path: Path, cipher: Cipher) -> None:
        """Puts it in the place of the last one; it is there whole, or the last one is.

        Raises:
            OSError: As the operating system says.
        """
        data = canonical_json.encode(self._record(), max_bytes=_MAX_BYTES)
        write_durably(path, cipher.seal(data, _CONTEXT))

    @classmethod
    def read(cls, path: Path, cipher: Cipher) -> Manifest | None:
        """Reads it; None if it is missing, under another key or of another form.

        Raises:
            OSError: As the operating system says.
        """
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            record = canonical_json.decode(cipher.open(sealed, _CONTEXT), max_bytes=_MAX_BYTES)
            return _parsed(record)
        except (StorageError, FormatError, KeyError, TypeError, ValueError):
            # Another storage key, as after an erasure; an older form; a damaged file.
            return None

    def _record(self) -> JsonValue:
        models = self.models
        return {
            "v": _VERSION,
            "basis": self.basis,
            "state": self.state,
            "purchases": self.purchases,
            "events": self.events,
            "counts": dict(self.counts),
            "event_counts": dict(self.event_counts),
            "stated": [*sorted(self.stated)],
            "cuts": models.cuts.to_record(),
            "buying": None if models.buying is None else models.buying.to_record(),
            "spending": None if models.spending is None else models.spending.to_record(),
            "groups": None if models.groups is None else models.groups.to_record(),
            "library": list(self.library),
            "library_version": self.library_version,
            "segments": list(self.segments),
            "judged_day": self.judged_day,
            "as_of_ms": self.as_of_ms,
            "built_ms": self.built_ms,
            "refreshed_ms": self.refreshed_ms,
            "consent_size": self.consent_size,
            "admitted": self.admitted,
            "due": self.due,
            "shards": [
                {"layers": list(each.layers), "rows": list(each.rows), "judged": each.judged}
                for each in self.shards
            ],
        }


def _parsed(record: JsonValue) -> Manifest:
    # Sealed under the region's own key is what `_record` gave: only its version may differ.
    if not isinstance(record, dict) or record.get("v") != _VERSION:
        raise FormatError("The manifest of profiles is of another version.")
    values: dict[str, object] = {
        name: record[name]
        for name in ("basis", "state", "purchases", "events", "counts", "event_counts")
    }
    values |= {
        name: record[name]
        for name in ("library_version", "judged_day", "as_of_ms", "built_ms", "refreshed_ms")
    }
    values |= {name: record[name] for name in ("consent_size", "admitted", "due")}
    values |= {name: tuple(_list(record[name])) for name in ("library", "segments")}
    values["stated"] = frozenset(str(each) for each in _list(record["stated"]))
    buying, spending, groups = (_object(record[name]) for name in ("buying", "spending", "groups"))
    values["models"] = Models(
        Cuts.of_record(_object(record["cuts"]) or {}),
        None if buying is None else BuyingModel(**_floats(buying)),
        None if spending is None else SpendingModel(**_floats(spending)),
        None if groups is None else Groups.of_record(groups),
    )
    values["shards"] = tuple(_shard(_object(each) or {}) for each in _list(record["shards"]))
    return Manifest(**values)  # type: ignore[arg-type] # by name, as above


def _shard(record: dict[str, JsonValue]) -> Shard:
    return Shard(
        tuple(str(each) for each in _list(record["layers"])),
        tuple(int(str(each)) for each in _list(record["rows"])),
        str(record["judged"]),
    )


def _floats(record: Mapping[str, JsonValue]) -> dict[str, float]:
    return {name: float(str(value)) for name, value in record.items()}


def _list(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise FormatError("The manifest of profiles lacks a list.")
    return value


def _object(value: JsonValue) -> dict[str, JsonValue] | None:
    if value is not None and not isinstance(value, dict):
        raise FormatError("The manifest of profiles lacks an object.")
    return value
