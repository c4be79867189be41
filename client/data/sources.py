"""A region's transactions, wherever they are, through one interface.

Data minimisation: only the mapped columns are ever selected. The rest of a store's table is listed
by name, never read.
"""

from __future__ import annotations

from typing import Protocol

from client.data.file_source import FileSource
from client.data.source_config import FileSourceConfig, SqlSourceConfig, load_source_config
from client.data.sql_source import SqlSource
from client.data.transactions import Transactions

__all__ = ["FileSource", "SqlSource", "TransactionSource", "load_source_config", "open_source"]


class TransactionSource(Protocol):
    """A store of transactions."""

    def columns(self) -> list[str]:
        """The store's column names, in its order."""
        ...

    def read(self) -> Transactions:
        """Reads the mapped columns of all rows."""
        ...


def open_source(config: FileSourceConfig | SqlSourceConfig) -> TransactionSource:
    """The source that a declaration describes. Nothing is opened before it is asked."""
    return FileSource(config) if isinstance(config, FileSourceConfig) else SqlSource(config)
