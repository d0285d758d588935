"""Answers kept for later turns, in SQLite: what /v1/responses and /api/v1/chat continue from. Knows no HTTP.

Each answer is a row that names the one before it, so any of them can be continued, and threads branch:

    resp_1 (user, assistant) <- resp_2 (user, assistant)
                             <- resp_3 (user, assistant)

A row holds the messages its turn added, in OpenAI's chat shape; `history` walks up to the first turn. A save is one
transaction in WAL mode with full sync: once it returns, neither a killed process nor a power cut loses it. Every call
opens its own connection (about a millisecond), so any thread and several servers may use one file.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from slipstream.base.config import home
from slipstream.base.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_log = logging.getLogger(__name__)
Made = TypeVar("Made")

_BUSY_S = 10.0  # another server may be writing
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOG_SUFFIXES = ("", "-wal", "-shm")

# One script for each version of the schema; user_version counts those that were run. Never change one, add one.
MIGRATIONS = (
    """
    CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        parent_id TEXT REFERENCES responses (id),
        created_s REAL NOT NULL,
        model TEXT NOT NULL,
        system_prompt TEXT,
        messages TEXT NOT NULL,
        body TEXT,
        is_deleted INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX responses_by_parent ON responses (parent_id);
    """,
)

_HISTORY = """
    WITH RECURSIVE turn (id, parent_id, system_prompt, messages, depth) AS (
        SELECT id, parent_id, system_prompt, messages, 0 FROM responses WHERE id = ? AND NOT is_deleted
        UNION ALL
        SELECT r.id, r.parent_id, r.system_prompt, r.messages, depth + 1
        FROM responses r JOIN turn ON r.id = turn.parent_id
    )
    SELECT system_prompt, messages FROM turn ORDER BY depth DESC
"""


class StoredTurn(msgspec.Struct, kw_only=True):
    """One answer and what it answered.

    Attributes:
        response_id: `resp_…`.
        parent_id: The answer this one continues, None for the first of a thread.
        model: Key of the model that answered.
        system_prompt: That later turns keep unless they bring one of their own.
        messages: What this turn added: the new input, and the answer.
        body: The answer as the route gave it, for asking for it again.
    """

    response_id: str
    parent_id: str | None
    model: str
    messages: list[dict[str, Any]]
    system_prompt: str | None = None
    body: dict[str, Any] | None = None


class History(msgspec.Struct, frozen=True):
    """A thread up to one answer.

    Attributes:
        system_prompt: Of that answer's turn.
        messages: Of all turns, the oldest first.
    """

    system_prompt: str | None = None
    messages: list[dict[str, Any]] = []


class ChatStore:
    """Keeps answers. Blocks on the disk, so the event loop calls it in a thread; any thread may.

    Args:
        path: Of the file; `chats.sqlite3` in SLIPSTREAM_HOME if not given. Made at the first save.

    Attributes:
        set_aside: Where a damaged file was moved to, None if there was none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._given_path = path
        self._opening = threading.Lock()
        self._is_checked = False
        self.set_aside: Path | None = None

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._given_path or home() / "chats.sqlite3"

    def save(self, turn: StoredTurn) -> None:
        """Keep an answer. It is on disk when this returns.

        Raises:
            StoreError: the disk is full, or the file cannot be written.
            ValueError: there is an answer of that id.
        """
        values = (
            turn.response_id,
            turn.parent_id,
            time.time(),
            turn.model,
            turn.system_prompt,
            json.dumps(turn.messages),
            None if turn.body is None else json.dumps(turn.body),
        )

        def insert(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(
                    "INSERT INTO responses (id, parent_id, created_s, model, system_prompt, messages, body) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
            except sqlite3.IntegrityError as error:
                message = f"there is an answer {turn.response_id} already"
                raise ValueError(message) from error

        self._run(insert)

    def history(self, response_id: str) -> History | None:
        """Return the thread that ends with an answer, None if there is no such answer."""

        def read(connection: sqlite3.Connection) -> History | None:
            rows = connection.execute(_HISTORY, (response_id,)).fetchall()
            if not rows:
                return None
            messages = [message for _system, text in rows for message in json.loads(text)]
            return History(rows[-1][0], messages)

        return self._run(read)

    def body(self, response_id: str) -> dict[str, Any] | None:
        """Return an answer as its route gave it, None if there is none to ask for."""

        def read(connection: sqlite3.Connection) -> dict[str, Any] | None:
            row = connection.execute(
                "SELECT body FROM responses WHERE id = ? AND NOT is_deleted", (response_id,)
            ).fetchone()
            return None if row is None or row[0] is None else dict(json.loads(row[0]))

        return self._run(read)

    def delete(self, response_id: str) -> bool:
        """Forget an answer; later turns of its thread keep what they were told.

        So its row goes when nothing continues it any more, together with deleted rows above it that are then free.

        Returns:
            Whether there was one.
        """

        def remove(connection: sqlite3.Connection) -> bool:
            marked = connection.execute(
                "UPDATE responses SET is_deleted = 1, body = NULL WHERE id = ? AND NOT is_deleted",
                (response_id,),
            ).rowcount
            free: str | None = response_id if marked else None
            while free is not None:
                row = connection.execute(
                    "SELECT parent_id FROM responses WHERE id = ?1 AND is_deleted "
                    "AND NOT EXISTS (SELECT 1 FROM responses WHERE parent_id = ?1)",
                    (free,),
                ).fetchone()
                if row is not None:
                    connection.execute("DELETE FROM responses WHERE id = ?", (free,))
                free = row[0] if row else None
            return bool(marked)

        return self._run(remove)

    def _run(self, work: Callable[[sqlite3.Connection], Made]) -> Made:
        """Run `work` in a transaction; once more in a new file if the old one turns out to be damaged."""
        for attempt in range(2):
            try:
                with self._transaction() as connection:
                    return work(connection)
            except sqlite3.DatabaseError as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind
                if code not in _DAMAGED or attempt:
                    message = f"chats cannot be kept in {self.path}: {error}"
                    raise StoreError(message) from error
                self._set_aside(error)
            except OSError as error:
                message = f"chats cannot be kept in {self.path}: {error}"
                raise StoreError(message) from error
        message = "unreachable"
        raise AssertionError(message)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # autocommit here, BEGIN below: sqlite3's own transactions do not cover a script
        with closing(sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)) as opened:
            self._prepare(opened)
            opened.execute("BEGIN IMMEDIATE")
            try:
                yield opened
            except BaseException:
                if opened.in_transaction:
                    opened.execute("ROLLBACK")
                raise
            opened.execute("COMMIT")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Bring the file to the newest schema, checking the whole of it the first time."""
        connection.execute("PRAGMA synchronous = FULL")
        with self._opening:
            if not self._is_checked:
                connection.execute("PRAGMA journal_mode = WAL")
                found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise _damaged(found)
                self._is_checked = True
            version = _version(connection)
            if version > len(MIGRATIONS):
                message = (
                    f"{self.path} was written by a newer Slipstream (version {version} of the file, this one knows "
                    f"{len(MIGRATIONS)}); update, or set another SLIPSTREAM_HOME"
                )
                raise StoreError(message)
            if version < len(MIGRATIONS):
                _migrate(connection)

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Move a damaged file out of the way, so that a new one is made."""
        with self._opening:
            self._is_checked = False
            stamp = time.strftime("%Y%m%d-%H%M%S")
            target = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
            for suffix in _LOG_SUFFIXES:
                file = Path(f"{self.path}{suffix}")
                if file.exists():
                    file.replace(f"{target}{suffix}")
            self.set_aside = target
        _log.error(
            "the chats in %s are damaged (%s); the file is now %s and a new one is made: earlier answers "
            "cannot be continued",
            self.path,
            error,
            target,
        )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrate(connection: sqlite3.Connection) -> None:
    """Run the scripts that are new, each with its number in one transaction."""
    while (number := _version(connection)) < len(MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection) == number:  # another server may have been faster
                for statement in MIGRATIONS[number].split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number + 1}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _damaged(found: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(found)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error
