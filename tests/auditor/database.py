"""Reads the books from SQLite or PostgreSQL, in one snapshot, with plain SQL. Writes nothing.

SQLite comes with Python. PostgreSQL needs the one driver that requirements.txt pins.
"""

import ssl
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs, quote, unquote, urlsplit

from .rows import Books


def read_books(url):
    """Everything that the checks look at."""
    with connected(url) as query:
        return read_with(query)


def read_with(query):
    """The same with a function that runs a query and gives its rows."""
    return Books(**{field.name: _read(query, get_args(field.type)[0]) for field in fields(Books)})


@contextmanager
def connected(url):
    """A function that runs a query and gives its rows, all of them of the same moment."""
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        connection = _open_sqlite(url)
    elif scheme in ("postgres", "postgresql"):
        connection = _open_postgres(url)
    else:
        raise ValueError("the database URL must begin with sqlite:// or postgres://")
    try:
        cursor = connection.cursor()

        def query(sql):
            cursor.execute(sql)
            return cursor.fetchall()

        yield query
    finally:
        connection.close()


def _read(query, row):
    found = query(f"SELECT {', '.join(row.COLUMNS)} FROM {row.TABLE} ORDER BY {row.ORDER_BY}")
    return [_row(row, values) for values in found]


def _row(row, values):
    named = dict(zip(row.COLUMNS, values, strict=True))
    for name in row.BOOLEANS:
        named[name] = bool(named[name])
    return row(**named)


def _open_sqlite(url):
    import sqlite3

    path = Path(unquote(urlsplit(url.replace("sqlite:", "file:", 1)).path or urlsplit(url).netloc))
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None
    )
    # The first read begins the snapshot, and nothing ends it before the connection does.
    connection.execute("BEGIN")
    return connection


def _open_postgres(url):
    import pg8000.dbapi

    connection = pg8000.dbapi.connect(**postgres_options(url))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    return connection


def postgres_options(url):
    """The driver's arguments for a URL. Parameters may stand in the query, as libpq allows, and a host
    that begins with a slash is the directory of a Unix socket."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    host = query.get("host") or unquote(parts.hostname or "") or "localhost"
    port = int(query.get("port") or parts.port or 5432)
    options = {
        "user": query.get("user") or unquote(parts.username or "") or "postgres",
        "database": query.get("dbname") or unquote(parts.path.lstrip("/")) or "postgres",
        "password": query.get("password") or (unquote(parts.password) if parts.password else None),
    }
    if host.startswith("/"):
        return options | {"unix_sock": f"{host}/.s.PGSQL.{port}"}
    options |= {"host": host, "port": port}
    mode = query.get("sslmode", "prefer")
    if mode in ("verify-ca", "verify-full"):
        context = ssl.create_default_context(cafile=query.get("sslrootcert"))
        context.check_hostname = mode == "verify-full"
        options["ssl_context"] = context
    elif mode == "require":
        options["ssl_context"] = True
    return options
