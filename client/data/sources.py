"""A region's transactions, wherever they are, through one interface."""

from __future__ import annotations

from collections.abc import Iterator

from client.data.file_source import FileSource
from client.data.source_config import FileSourceConfig, SqlSourceConfig, load_source_config
from client.data.sql_source import SqlSource
from client.data.store_units import TransactionSource, merge_kinds
from client.data.transactions import Transactions
from common.timestamps import now_ms

__all__ = [
    "FileSource",
    "SqlSource",
    "TransactionSource",
    "all_batches",
    "load_source_config",
    "open_source",
]


def open_source(config: FileSourceConfig | SqlSourceConfig) -> TransactionSource:
    """The source that a declaration describes. Nothing is opened before it is asked."""
    return FileSource(config) if isinstance(config, FileSourceConfig) else SqlSource(config)


def all_batches(config: FileSourceConfig | SqlSourceConfig) -> Iterator[Transactions]:
    """Reads a whole store, batch by batch, and keeps nothing.

    Raises:
        InputError: The store cannot be read, or its files contradict each other.
    """
    source = open_source(config)
    names, kinds = config.columns.by_canonical_name, dict[str, str]()
    for unit in source.changes({}, now_ms()).fresh:
        kinds = merge_kinds(kinds, source.kinds(unit), names, unit.name)
        yield from source.batches(unit)
