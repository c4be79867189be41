"""The tables of an audit log's file, and the triggers that keep them append-only.

The triggers guard against a mistake in our own code or a careless hand; against someone who means
it, the signed checkpoints that others hold do.
"""

from __future__ import annotations

from functools import cache

import apsw

APPLICATION_ID = 0x66707266  # "fprf"
SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE entry (
  leaf_index INTEGER PRIMARY KEY,
  data BLOB NOT NULL CHECK (length(data) <= 65535)
) STRICT;
CREATE TABLE tile (
  level INTEGER NOT NULL,
  number INTEGER NOT NULL,
  hashes BLOB NOT NULL CHECK (length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0),
  PRIMARY KEY (level, number)
) STRICT;
CREATE TABLE checkpoint (
  size INTEGER NOT NULL,
  key_id TEXT NOT NULL,
  root BLOB NOT NULL CHECK (length(root) = 32),
  note BLOB NOT NULL,
  PRIMARY KEY (size, key_id)
) STRICT;

CREATE TRIGGER entry_in_order BEFORE INSERT ON entry
WHEN NEW.leaf_index IS NOT (SELECT coalesce(max(leaf_index) + 1, 0) FROM entry)
BEGIN SELECT raise(ABORT, 'an entry takes the next index'); END;

CREATE TRIGGER tile_once BEFORE INSERT ON tile
WHEN EXISTS (SELECT 1 FROM tile WHERE level = NEW.level AND number = NEW.number)
BEGIN SELECT raise(ABORT, 'a tile is stored once'); END;

CREATE TRIGGER tile_grows BEFORE UPDATE ON tile
WHEN NEW.level <> OLD.level OR NEW.number <> OLD.number
  OR length(NEW.hashes) <= length(OLD.hashes)
  OR substr(NEW.hashes, 1, length(OLD.hashes)) <> OLD.hashes
BEGIN SELECT raise(ABORT, 'a tile only grows'); END;

CREATE TRIGGER checkpoint_once BEFORE INSERT ON checkpoint
WHEN NEW.size > (SELECT coalesce(max(leaf_index) + 1, 0) FROM entry)
  OR EXISTS (SELECT 1 FROM checkpoint WHERE size = NEW.size AND key_id = NEW.key_id)
BEGIN SELECT raise(ABORT, 'a checkpoint is stored once, for entries that are there'); END;

CREATE TRIGGER meta_once BEFORE INSERT ON meta
WHEN EXISTS (SELECT 1 FROM meta WHERE name = NEW.name)
BEGIN SELECT raise(ABORT, 'what a log is, is said once'); END;

CREATE TRIGGER meta_no_update BEFORE UPDATE ON meta
BEGIN SELECT raise(ABORT, 'the log is append-only'); END;

CREATE TRIGGER meta_no_delete BEFORE DELETE ON meta
BEGIN SELECT raise(ABORT, 'the log is append-only'); END;

CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry
BEGIN SELECT raise(ABORT, 'the log is append-only'); END;

CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry
BEGIN SELECT raise(ABORT, 'the log is append-only'); END;

CREATE TRIGGER tile_no_delete BEFORE DELETE ON tile
BEGIN SELECT raise(ABORT, 'the log is append-only'); END;

CREATE TRIGGER checkpoint_no_update BEFORE UPDATE ON checkpoint
BEGIN SELECT raise(ABORT, 'the log is append-only'); END;

CREATE TRIGGER checkpoint_no_delete BEFORE DELETE ON checkpoint
BEGIN SELECT raise(ABORT, 'the log is append-only'); END;
"""

Schema = frozenset[tuple[str | None, ...]]


def create_schema(connection: apsw.Connection, origin: str) -> None:
    """Makes the tables of a new log, within a transaction."""
    connection.execute(SCHEMA)
    connection.execute("INSERT INTO meta VALUES ('origin', ?)", (origin,))
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", SCHEMA_VERSION)


def is_log(connection: apsw.Connection) -> bool:
    """Whether the file says that it is a log of this version."""
    found = (connection.pragma("application_id"), connection.pragma("user_version"))
    return found == (APPLICATION_ID, SCHEMA_VERSION)


def schema_of(connection: apsw.Connection) -> Schema:
    """The definitions of a file's tables, indices and triggers; empty for a new file."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return frozenset(rows)


@cache
def expected_schema() -> Schema:
    """The definitions that a log must have."""
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    return schema_of(connection)
