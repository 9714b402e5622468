"""Answers on disk, by a hash of the whole request."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pellucid.api._errors import CacheError

FORMAT = 1
"""Part of every key: answers of another format are not found."""

_FILE = "responses.sqlite3"
_BUSY_TIMEOUT_S = 60.0
_ROWS_AT_ONCE = 500


class ResponseCache:
    """A table of answers that several processes may use at once.

    An SQLite database in write-ahead mode: an answer is there whole or not at all, whenever a
    process is killed. It holds hashes of requests and answers, never a key or a prompt.

    Args:
        directory: Where it lies; made when it is first used.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory).expanduser() / _FILE
        self._connection: tuple[int, sqlite3.Connection] | None = None

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return what is known of some keys.

        Raises:
            CacheError: (a ValueError) If the file cannot be read.
        """
        found: dict[str, Any] = {}
        with self._open() as connection:
            for start in range(0, len(keys), _ROWS_AT_ONCE):
                some = keys[start : start + _ROWS_AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, answer FROM responses WHERE key IN ({marks})"
                rows = connection.execute(query, some)
                found.update((key, json.loads(answer)) for key, answer in rows)
        return found

    def put_many(self, answers: Mapping[str, Any]) -> None:
        """Keep answers; all of them at once, or none.

        Raises:
            CacheError: (a ValueError) If the file cannot be written.
        """
        rows = [(key, json.dumps(answer)) for key, answer in answers.items()]
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany("INSERT OR REPLACE INTO responses VALUES (?, ?)", rows)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def __len__(self) -> int:
        with self._open() as connection:
            return int(connection.execute("SELECT count(*) FROM responses").fetchone()[0])

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        held, self._connection = self._connection, None
        if held is not None and held[0] == os.getpid():
            held[1].close()

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        try:
            # A connection must not be used on the other side of a fork.
            if self._connection is None or self._connection[0] != os.getpid():
                self._connection = (os.getpid(), self._connect())
            yield self._connection[1]
        except (sqlite3.Error, OSError) as error:
            raise CacheError(
                f"the cache {str(self.path)!r} cannot be used: {error}. Delete it, or name another "
                "cache_dir."
            ) from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            # In this mode a power cut can lose the last answers, and can damage nothing.
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, answer TEXT NOT NULL) "
                "WITHOUT ROWID"
            )
        except BaseException:
            connection.close()
            raise
        return connection


def request_key(request: Mapping[str, Any]) -> str:
    """Return the hash of a request: all that decides the answer, and no key."""
    text = json.dumps([FORMAT, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
