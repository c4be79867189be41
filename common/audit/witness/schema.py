"""The tables of a witness's file, and the triggers that let it only go forward.

The triggers guard against a mistake in our own code: that a head never goes back is checked by the
witness, in one transaction with the change.
"""

from __future__ import annotations

from functools import cache

import apsw

APPLICATION_ID = 0x66707277  # "fprw"
SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE head (
  origin TEXT PRIMARY KEY,
  size INTEGER NOT NULL CHECK (size >= 0),
  root BLOB NOT NULL CHECK (length(root) = 32),
  note BLOB NOT NULL,
  time_s INTEGER NOT NULL CHECK (time_s > 0)
) STRICT;
CREATE TABLE cosigned (
  origin TEXT NOT NULL,
  size INTEGER NOT NULL,
  root BLOB NOT NULL CHECK (length(root) = 32),
  note BLOB NOT NULL,
  PRIMARY KEY (origin, size)
) STRICT;
CREATE TABLE evidence (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  origin TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('split-view', 'unproven')),
  size INTEGER NOT NULL,
  root BLOB NOT NULL CHECK (length(root) = 32),
  known BLOB NOT NULL,
  other BLOB NOT NULL,
  found_at_s INTEGER NOT NULL,
  UNIQUE (origin, kind, size, root)
) STRICT;
CREATE TABLE cosignature (
  origin TEXT NOT NULL,
  size INTEGER NOT NULL,
  root BLOB NOT NULL CHECK (length(root) = 32),
  name TEXT NOT NULL,
  key_id BLOB NOT NULL CHECK (length(key_id) = 4),
  time_s INTEGER NOT NULL,
  line TEXT NOT NULL,
  PRIMARY KEY (origin, size, root, name, key_id)
) STRICT;

CREATE TRIGGER head_goes_forward BEFORE UPDATE ON head
WHEN NEW.origin <> OLD.origin OR NEW.size < OLD.size OR NEW.time_s < OLD.time_s
  OR (NEW.size = OLD.size AND NEW.root <> OLD.root)
BEGIN SELECT raise(ABORT, 'a head only goes forward'); END;

CREATE TRIGGER head_stays BEFORE DELETE ON head
BEGIN SELECT raise(ABORT, 'a head only goes forward'); END;

CREATE TRIGGER evidence_no_update BEFORE UPDATE ON evidence
BEGIN SELECT raise(ABORT, 'evidence is not changed'); END;

CREATE TRIGGER split_view_stays BEFORE DELETE ON evidence WHEN OLD.kind = 'split-view'
BEGIN SELECT raise(ABORT, 'evidence of a split view stays'); END;
"""

Schema = frozenset[tuple[str | None, ...]]


def create_schema(connection: apsw.Connection) -> None:
    """Makes the tables of a new file, within a transaction."""
    connection.execute(SCHEMA)
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", SCHEMA_VERSION)


def is_witness_file(connection: apsw.Connection) -> bool:
    """Whether the file says that it is a witness's, of this version."""
    found = (connection.pragma("application_id"), connection.pragma("user_version"))
    return found == (APPLICATION_ID, SCHEMA_VERSION)


def schema_of(connection: apsw.Connection) -> Schema:
    """The definitions of a file's tables, indices and triggers; empty for a new file."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return frozenset(rows)


@cache
def expected_schema() -> Schema:
    """The definitions that a witness's file must have."""
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    return schema_of(connection)
