"""What is kept of a store: which units were taken up, and which segments hold their rows.

The manifest is one small sealed file, replaced as a whole: what it names is kept, whatever else
lies there is left from something that a crash interrupted.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.data.prepared_files import Cipher, disk_errors
from client.data.row_checks import RowCounts
from client.data.store_units import StoreUnit
from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import FormatError, StorageError

_VERSION = "fedpref-prepared/1"
_CONTEXT = b"fedpref-prepared/1 manifest"
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class TakenUnit:
    """A unit whose rows are kept.

    Attributes:
        number: What its rows call it.
        unit: The unit, as it was when it was taken up.
        counts: What was read of it.
    """

    number: int
    unit: StoreUnit
    counts: RowCounts


@dataclass(frozen=True)
class Segment:
    """A file of rows.

    Attributes:
        name: Its name.
        units: The numbers of the units that it has rows of, ascending.
        rows: How many.
    """

    name: str
    units: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class Manifest:
    """What is kept.

    Attributes:
        basis: What the rows depend on besides the store: another basis makes them worthless.
        state: A random name of this very state; it changes with every change.
        next_number: The number of the next unit.
        kinds: What each mapped column holds, by canonical name.
        units: The units, in the order in which they were taken up.
        segments: The segments; a row of each unit's is in exactly one.
    """

    basis: str
    state: str = field(default_factory=lambda: secrets.token_hex(16))
    next_number: int = 1
    kinds: Mapping[str, str] = field(default_factory=dict)
    units: tuple[TakenUnit, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def by_name(self) -> dict[str, StoreUnit]:
        """The units, by name."""
        return {taken.unit.name: taken.unit for taken in self.units}

    @property
    def counts(self) -> RowCounts:
        """What was read of all units."""
        return sum((taken.counts for taken in self.units), RowCounts())

    def following(self, **changed: object) -> Manifest:
        """The next state."""
        return replace(self, state=secrets.token_hex(16), **changed)  # type: ignore[arg-type] # fields

    def write(self, path: Path, cipher: Cipher) -> None:
        """Puts it in the place of the last one; it is there whole, or the last one is.

        Raises:
            StorageError: The disk refuses; which of the two is there is open.
        """
        data = canonical_json.encode(self._record(), max_bytes=_MAX_BYTES)
        with disk_errors(path.parent):
            write_durably(path, cipher.seal(data, _CONTEXT))

    @classmethod
    def read(cls, path: Path, cipher: Cipher, basis: str) -> Manifest:
        """Reads it; what is missing, under another key or of another basis is an empty one.

        Raises:
            StorageError: The disk refuses.
        """
        with disk_errors(path.parent):
            try:
                sealed = path.read_bytes()
            except FileNotFoundError:
                return cls(basis)
        try:
            record = canonical_json.decode(cipher.open(sealed, _CONTEXT), max_bytes=_MAX_BYTES)
            manifest = _parsed(record)
        except (StorageError, FormatError, KeyError, TypeError, ValueError):
            # Another storage key, as after an erasure; an older form; a damaged file.
            return cls(basis)
        return manifest if manifest.basis == basis else cls(basis)

    def _record(self) -> dict[str, JsonValue]:
        return {
            "v": _VERSION,
            "basis": self.basis,
            "state": self.state,
            "next_number": self.next_number,
            "kinds": dict(self.kinds),
            "units": [_unit_record(taken) for taken in self.units],
            "segments": [
                {"name": segment.name, "units": list(segment.units), "rows": segment.rows}
                for segment in self.segments
            ],
        }


def _unit_record(taken: TakenUnit) -> dict[str, JsonValue]:
    return {
        "number": taken.number,
        "name": taken.unit.name,
        "mark": taken.unit.mark,
        "taken_ms": taken.unit.taken_ms,
        "counts": taken.counts.to_record(),
    }


def _parsed(record: JsonValue) -> Manifest:
    """Reads what the region's own key sealed: its form is `_record`'s, or an older version's."""
    fields = _object(record)
    if fields["v"] != _VERSION:
        raise FormatError("What is kept of the store is of another version.")
    return Manifest(
        basis=str(fields["basis"]),
        state=str(fields["state"]),
        next_number=int(str(fields["next_number"])),
        kinds={name: str(kind) for name, kind in _object(fields["kinds"]).items()},
        units=tuple(_taken(each) for each in _objects(fields["units"])),
        segments=tuple(
            Segment(str(each["name"]), _numbers(each["units"]), int(str(each["rows"])))
            for each in _objects(fields["segments"])
        ),
    )


def _taken(fields: dict[str, JsonValue]) -> TakenUnit:
    unit = StoreUnit(str(fields["name"]), str(fields["mark"]), int(str(fields["taken_ms"])))
    counts = RowCounts.of_record(_object(fields["counts"]))
    return TakenUnit(int(str(fields["number"])), unit, counts)


def _object(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise FormatError("What is kept of the store has no such form.")
    return value


def _objects(value: JsonValue) -> Iterable[dict[str, JsonValue]]:
    if not isinstance(value, list):
        raise FormatError("What is kept of the store has no such form.")
    return [_object(each) for each in value]


def _numbers(value: JsonValue) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise FormatError("What is kept of the store has no such form.")
    return tuple(int(str(each)) for each in value)
