"""Connections to a store's database: read-only, bounded in time, with words for what goes wrong.

PostgreSQL is asked in one snapshot for each connection, through server-side cursors. The server
itself ends a statement that takes too long; if it does not even do that, because it or the network
stands still, the connection is cut from this side.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from client.data.source_config import SqlReading
from common.errors import InputError

_CONNECT_TIMEOUT_S = 10
# Beyond the server's own bound: it gets the chance to say so itself.
_CUT_AFTER_S = 5.0
_CANCELLED = "57014"
# PostgreSQL's class of errors whose text quotes values of rows.
_DATA_EXCEPTION = "22"


@contextmanager
def connected(config: SqlReading, origin: str) -> Iterator[tuple[sa.Connection, Patience]]:
    """Opens a connection for reading; closes it on exit.

    Args:
        config: The store's declaration.
        origin: The table, for messages.

    Yields:
        The connection, and what every wait for the database is to be wrapped in.

    Raises:
        InputError: The database is out of reach or refuses, or does not answer in time.
    """
    engine, patience = _engine(config), Patience(config.timeout_s + _CUT_AFTER_S)
    postgresql = engine.dialect.name == "postgresql"
    if postgresql:
        sa.event.listen(engine, "do_connect", patience.connect)
    try:
        with ExitStack() as stack:
            stack.callback(patience.close)
            with patience.waiting():
                connection = stack.enter_context(engine.connect())
                if postgresql:
                    connection.exec_driver_sql(
                        f"SET LOCAL statement_timeout = {config.timeout_s * 1000}"
                    )
            yield connection, patience
    except DBAPIError as error:
        if patience.ended or getattr(error.orig, "sqlstate", None) == _CANCELLED:
            raise InputError(
                f"{origin} cannot be read: the database gave no answer within "
                f"{config.timeout_s} s.",
                remedy="See what keeps it busy, give refresh_by an index, or raise timeout_s in "
                "the store's declaration.",
            ) from None
        raise InputError(
            f"{origin} cannot be read: {_cause(error)}.",
            remedy="Check that the database runs and the reader may select these columns.",
        ) from None  # the original may quote a row
    finally:
        engine.dispose()


class Patience:
    """Cuts a connection whose server has given no answer for too long.

    A PostgreSQL server that stands still keeps no bound of its own, and its machine's kernel goes
    on acknowledging packets: nothing but a clock on this side ends the wait.

    Args:
        limit_s: For how long an answer is waited for.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._socket: socket.socket | None = None
        #: Whether the connection was cut.
        self.ended = False

    def connect(
        self, dialect: sa.Dialect, _record: object, arguments: Any, named: Any
    ) -> DBAPIConnection:
        """Makes the connection that will be cut if need be (SQLAlchemy's ``do_connect``)."""
        connection: Any = dialect.connect(*arguments, **named)
        # A descriptor of its own: the connection may close its, and another file take the number.
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        return cast("DBAPIConnection", connection)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Bounds one wait for the database."""
        timer = threading.Timer(self._limit_s, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def close(self) -> None:
        """Lets go of the connection."""
        if self._socket is not None:
            self._socket.close()

    def _cut(self) -> None:
        if self._socket is not None:
            self.ended = True
            with suppress(OSError):  # it has ended by itself meanwhile
                self._socket.shutdown(socket.SHUT_RDWR)


def _cause(error: DBAPIError) -> str:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state.startswith(_DATA_EXCEPTION):
        return f"a value of a row does not fit its column's type (SQLSTATE {state})"
    return str(error.orig).strip().split("\n")[0]


def _engine(config: SqlReading) -> sa.Engine:
    try:
        url = sa.make_url(config.resolve_url())
    except SQLAlchemyError:
        # The original repeats the URL, and with it the password.
        raise InputError(
            "The url of the store's declaration is not a database URL.",
            remedy="Write it as postgresql://user@host/database or sqlite:///file.",
        ) from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_S},
            isolation_level="REPEATABLE READ",
            execution_options={"postgresql_readonly": True},
        )
    if backend == "sqlite":
        return _sqlite_engine(config.base / (url.database or ""))
    raise InputError(
        f"The store's declaration names a {backend} database, which is not supported.",
        remedy="Use PostgreSQL or SQLite, or export the table to Parquet or CSV.",
    )


def _sqlite_engine(path: Path) -> sa.Engine:
    if not path.is_file():
        raise InputError(
            f"The SQLite database {path} does not exist.",
            remedy="Correct url in the store's declaration.",
        )
    # Opened read-only by URI: SQLite would otherwise create what it does not find.
    uri = f"{path.resolve().as_uri()}?mode=ro"
    return sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True))
