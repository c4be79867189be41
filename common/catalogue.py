"""The public catalogue: which items exist, in which order, and in which category they are.

The catalogue is public knowledge, agreed before a run. An item's position in it is the item's
number in every exchanged array, so its digest is part of the run plan. It is never derived from
purchases.

New items go to its end: a later catalogue that *extends* an earlier one gives every earlier item
the same number and the same labels, and whoever holds it can show so by the earlier one's digest.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.durable_file import write_durably
from common.errors import InputError

MAX_REF_BYTES = 256
UNLABELLED = "UNLABELLED"
LEVELS = ("category", "product_type", "department")
_DIGEST_DOMAIN = b"fedpref-catalogue/1\n"
#: Finer than a type, and across types: whose make an item is. A catalogue may have none.
BRAND = "brand"
_COLUMNS = ("item", *LEVELS)
_EXCLUDED_KEY = b"fedpref.excluded"

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items of all regions' stores with their public hierarchy.

    Build it with `of`; that checks everything and makes the encoding unique.

    Attributes:
        items: Item references in the order of their numbers, distinct.
        category: int32[n_items], each item's category as an index into `category_names`.
        category_names: The distinct categories, strictly ascending; `UNLABELLED` where an item has
            none. Likewise the next four.
        product_type: The finer type.
        product_type_names: Its names.
        department: The department.
        department_names: Its names.
        excluded: References of products known to be no preference (fuel, coupons, postage …): a
            purchase of one is out of scope, not an unknown item.
        brand: Likewise, whose make each item is.
        brand_names: The brands' names; `UNLABELLED` alone in a catalogue without brands.
    """

    items: tuple[str, ...] = field(repr=False)
    category: IntArray = field(repr=False)
    category_names: tuple[str, ...] = field(repr=False)
    product_type: IntArray = field(repr=False)
    product_type_names: tuple[str, ...] = field(repr=False)
    department: IntArray = field(repr=False)
    department_names: tuple[str, ...] = field(repr=False)
    excluded: frozenset[str] = field(repr=False)
    brand: IntArray = field(repr=False)
    brand_names: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(
        cls,
        items: Sequence[str],
        *,
        category: Sequence[str | None] | None = None,
        product_type: Sequence[str | None] | None = None,
        department: Sequence[str | None] | None = None,
        excluded: Collection[str] = (),
        brand: Sequence[str | None] | None = None,
    ) -> Catalogue:
        """Makes a catalogue of plain lists.

        Args:
            items: Item references in the order of their numbers.
            category: A label for each item, or None for no labels; likewise the next two.
            product_type: The finer type.
            department: The department.
            excluded: References that are out of scope.
            brand: Whose make each item is.

        Raises:
            InputError: If there is no item, a reference is empty, too long, repeated or has a
                control character, a list of labels has another length, or an excluded reference
                is an item too.
        """
        references, left_out = tuple(items), frozenset(excluded)
        _check_references(references, left_out)
        encoded = [
            _encode(level, labels, len(references))
            for level, labels in zip(LEVELS, (category, product_type, department), strict=True)
        ]
        made = _encode(BRAND, brand, len(references))
        return cls(references, *encoded[0], *encoded[1], *encoded[2], left_out, *made)

    @property
    def n_items(self) -> int:
        """The number of items."""
        return len(self.items)

    @cached_property
    def index_of(self) -> Mapping[str, int]:
        """The number of each item."""
        return MappingProxyType({item: index for index, item in enumerate(self.items)})

    def positions(self, references: Iterable[str]) -> IntArray:
        """The numbers of items, int32; −1 for what is not in the catalogue."""
        find = self.index_of.get
        return np.array([find(reference, -1) for reference in references], dtype=np.int32)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content, in hex; the same whatever file it was read from.

        Hashed are, after the domain line, for each list (items, then per level its names and
        codes, then the sorted excluded references) its name, its length, the byte lengths of its
        strings as little-endian uint32 and their UTF-8 bytes; codes as little-endian int32. Brands
        follow, in the form of a level, if any item has one.
        """
        digest = hashlib.sha256(_DIGEST_DOMAIN)
        _hash_strings(digest, "items", self.items)
        levels = self._levels()
        for level in LEVELS:
            _hash_level(digest, level, *levels[level])
        _hash_strings(digest, "excluded", sorted(self.excluded))
        if BRAND in levels:
            _hash_level(digest, BRAND, *levels[BRAND])
        return digest.hexdigest()

    def first(self, n_items: int) -> Catalogue:
        """The catalogue that has the first items of this one only: what this one may extend.

        Args:
            n_items: How many items.

        Raises:
            InputError: This catalogue has fewer.
        """
        if not 1 <= n_items <= self.n_items:
            raise InputError(
                f"A catalogue of {self.n_items} items has no first {n_items}.",
                remedy="Use the public catalogue that the run plan names, or one that extends it.",
            )
        labels: dict[str, list[str | None]] = {
            level: [names[code] for code in codes[:n_items]]
            for level, (codes, names) in self._levels().items()
        }
        return Catalogue.of(
            self.items[:n_items],
            category=labels["category"],
            product_type=labels["product_type"],
            department=labels["department"],
            excluded=self.excluded,
            brand=labels.get(BRAND),
        )

    def _levels(self) -> dict[str, tuple[IntArray, tuple[str, ...]]]:
        levels = {
            "category": (self.category, self.category_names),
            "product_type": (self.product_type, self.product_type_names),
            "department": (self.department, self.department_names),
        }
        if self.brand_names != (UNLABELLED,):
            levels[BRAND] = (self.brand, self.brand_names)
        return levels

    def save(self, path: Path) -> None:
        """Writes the catalogue as a Parquet file, atomically."""
        columns: dict[str, pa.Array] = {"item": pa.array(self.items, pa.string())}
        for level, (codes, names) in self._levels().items():
            columns[level] = pa.DictionaryArray.from_arrays(
                pa.array(codes), pa.array(names, pa.string())
            )
        excluded = "\n".join(sorted(self.excluded)).encode("utf-8")
        table = pa.table(columns).replace_schema_metadata({_EXCLUDED_KEY: excluded})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_durably(path, buffer.getvalue(), mode=0o644)

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        """Reads a catalogue that `save` wrote, or any Parquet file with its columns.

        Raises:
            InputError: The file is missing, unreadable, or lacks a column.
        """
        try:
            table = pq.read_table(path)
        except FileNotFoundError as error:
            raise InputError(
                f"The public catalogue {path} is missing.",
                remedy="Copy the catalogue.parquet of the federation there.",
            ) from error
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"The public catalogue {path} cannot be read: {error}",
                remedy="Copy the catalogue.parquet of the federation there again.",
            ) from error
        missing = [name for name in _COLUMNS if name not in table.column_names]
        if missing:
            raise InputError(
                f"The public catalogue {path} lacks the column {missing[0]}; it has "
                f"{', '.join(table.column_names)}.",
                remedy=f"A catalogue has the columns {', '.join(_COLUMNS)}, and may have {BRAND}.",
            )
        excluded = (table.schema.metadata or {}).get(_EXCLUDED_KEY, b"").decode("utf-8", "replace")
        items, *labels = (_strings(table, name, path) for name in _COLUMNS)
        return cls.of(
            items,
            category=labels[0],
            product_type=labels[1],
            department=labels[2],
            excluded=[reference for reference in excluded.split("\n") if reference],
            brand=_strings(table, BRAND, path) if BRAND in table.column_names else None,
        )


def _encode(
    level: str, labels: Sequence[str | None] | None, n_items: int
) -> tuple[IntArray, tuple[str, ...]]:
    """Labels as codes into their sorted names; a missing or empty one is `UNLABELLED`."""
    texts = [label or UNLABELLED for label in (labels if labels is not None else [None] * n_items)]
    if len(texts) != n_items:
        raise InputError(
            f"The catalogue has {n_items} items but {len(texts)} labels in {level}.",
            remedy="Give each item one label; leave it empty where there is none.",
        )
    names = tuple(sorted(set(texts)))
    code = {name: index for index, name in enumerate(names)}
    codes = np.fromiter((code[text] for text in texts), dtype=np.int32, count=n_items)
    codes.flags.writeable = False
    return codes, names


def _strings(table: pa.Table, name: str, path: Path) -> list[str]:
    column = table.column(name)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(
            f"The public catalogue {path}: column {name} holds {kind}, not text.",
            remedy="Write references and labels as strings.",
        )
    return [value if value is not None else "" for value in column.to_pylist()]


def _check_references(items: tuple[str, ...], excluded: frozenset[str]) -> None:
    if not items:
        raise InputError("The catalogue has no items.", remedy="List at least one item.")
    for reference in (*items, *excluded):
        if not reference or not reference.isprintable():
            raise InputError(
                f"The catalogue has an empty or unprintable item reference ({reference!r}).",
                remedy="Give each item a printable reference.",
            )
        if len(reference.encode("utf-8")) > MAX_REF_BYTES:
            raise InputError(
                f"The catalogue's item reference {reference[:32]!r}… is longer than "
                f"{MAX_REF_BYTES} bytes.",
                remedy="Use the store's short product number.",
            )
    known = set(items)
    if len(known) != len(items):
        repeated = Counter(items).most_common(1)[0][0]
        raise InputError(
            f"The catalogue has the item {repeated!r} more than once.",
            remedy="List each item once.",
        )
    if known & excluded:
        raise InputError(
            f"The catalogue both has and excludes the item {min(known & excluded)!r}.",
            remedy="List each reference either as an item or as excluded.",
        )


def _hash_level(digest: hashlib._Hash, level: str, codes: IntArray, names: tuple[str, ...]) -> None:
    _hash_strings(digest, f"{level}.names", names)
    digest.update(f"{level}.codes {len(codes)}\n".encode("ascii"))
    digest.update(np.ascontiguousarray(codes, dtype="<i4").tobytes())


def _hash_strings(digest: hashlib._Hash, name: str, strings: Sequence[str]) -> None:
    encoded = [text.encode("utf-8") for text in strings]
    digest.update(f"{name} {len(encoded)}\n".encode("ascii"))
    digest.update(np.array([len(text) for text in encoded], dtype="<u4").tobytes())
    digest.update(b"".join(encoded))
