"""What the workers of one host keep: a database in their directory, in which all of them write and read."""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...exceptions import NotPublished
from ..adapter import Archive
from ..history import MEMORY, OVERHEAD, QUIET, TOTAL, History, Position, check_size
from .files import find_file, identify, leave_file, watched

log = logging.getLogger("flask_phoenix.workers")

#: Seconds for which another worker may hold it: one that was stopped in the middle of a write.
BUSY_TIMEOUT = 2.0
#: Seconds of a try, in which the process does nothing else, and seconds until the next one, which are its event loop's.
BLOCK, RETRY = 0.02, 0.05
#: Entries of all topics, and topics, that leave at most, with each entry that comes, since they are too old.
SWEEP = 8

#: `floor`: no topic that is forgotten had a number above it. `total`: bytes that all topics may have, as nodes say.
SCHEMA = """
CREATE TABLE IF NOT EXISTS life (boot TEXT, epoch TEXT, size INTEGER, floor INTEGER, total INTEGER);
CREATE TABLE IF NOT EXISTS topic (name TEXT PRIMARY KEY, head INTEGER, size INTEGER, until REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS topic_until ON topic (until);
CREATE TABLE IF NOT EXISTS entry (
    topic TEXT, offset INTEGER, until REAL, data BLOB, key TEXT, PRIMARY KEY (topic, offset)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_until ON entry (until);
CREATE UNIQUE INDEX IF NOT EXISTS entry_key ON entry (topic, key) WHERE key <> '';
"""
OLDEST = "SELECT offset, until, length(data) FROM entry"


class WorkersArchive:
    """Keeps the histories of the workers of a directory. A call blocks its process, for a fraction of a millisecond.

    Where another one holds the database for longer, it pauses between tries, so that others go on meanwhile.

    What is kept outlives any worker, and all of them where the directory stays. It need not outlive the machine, so
    nothing is forced to the disk: when the machine has started anew, it begins anew. So its clock is the one that
    counts from there, which all processes share and nobody sets. Where its file is deleted or damaged, all begin anew.

    :param directory: in which the workers listen.
    :param total: bytes that all topics keep together; None: as many as the nodes say.
    :param reached: called when that bound has dropped what its topic would have kept.
    :param pause: waits for so many seconds, while another process holds it for longer.
    """

    def __init__(
        self,
        directory: Path,
        total: int | None = None,
        reached: Callable[[], None] = lambda: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reached = reached
        self._pause = pause
        #: Until when nobody tries: another process holds the database.
        self._held_until = 0.0
        self._directory = directory
        self._total = total
        self._process = 0
        self._lock = threading.Lock()
        self._database: sqlite3.Connection
        self._file: Path
        #: What is looked at before each step, and by what it was known when it was opened.
        self._watched: list[str] = []
        self._identity: list[int] = []
        self._epoch = ""

    def append(self, topic: str, history: History, data: bytes, key: str) -> tuple[Position, bool]:
        """Keep an entry; return its position, and whether it is new: one with a key that is kept is not kept twice.

        :raises InvalidPayload: it is larger than what its topic may keep.
        :raises NotPublished: the database cannot be used.
        """
        size = len(data) + OVERHEAD
        check_size(size, history, topic)
        with self._writing() as database:
            now = time.monotonic()
            if key:
                self._trim(database, topic, history, now)
                same = database.execute("SELECT offset FROM entry WHERE topic = ? AND key = ?", (topic, key)).fetchone()
                if same is not None:
                    return Position(self._epoch, same[0]), False
            offset = _head(database, topic, now + history.ttl + MEMORY) + 1
            database.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", (topic, offset, now + history.ttl, data, key))
            _grow(database, topic, size, offset)
            self._trim(database, topic, history, now)
            full = self._trim_all(database)
            position = Position(self._epoch, offset)
        if full:
            self._reached()
        return position, True

    def read(self, topic: str, since: Position | None) -> tuple[Position, list[tuple[int, bytes]] | None]:
        """Return where a topic is, and the entries after a position, or all; None: some are lost.

        :raises NotPublished: the database cannot be used.
        """
        with self._writing() as database:  # so that all that is read is of one moment
            head = _head(database, topic, time.monotonic() + QUIET)
            position = Position(self._epoch, head)
            if since is not None and (since.epoch != self._epoch or since.offset > head):
                return position, None
            rows: list[tuple[int, bytes]] = database.execute(
                "SELECT offset, data FROM entry WHERE topic = ? AND offset > ? AND until > ? ORDER BY offset",
                (topic, -1 if since is None else since.offset, time.monotonic()),
            ).fetchall()
        return position, rows if since is None or len(rows) == head - since.offset else None

    def position(self, topic: str) -> Position:
        """Return where a topic is.

        :raises NotPublished: the database cannot be used.
        """
        with self._writing() as database:
            return Position(self._epoch, _head(database, topic, time.monotonic() + QUIET))

    def close(self) -> None:
        """Close the database; the next call opens it."""
        if self._process == os.getpid():
            self._process = 0
            self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Make what is done one step.

        :raises NotPublished: it cannot be done.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT
        try:
            while not self._lock_database(time.monotonic() > deadline):
                self._pause(RETRY)
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise
            finally:
                self._lock.release()
        except (sqlite3.Error, OSError) as error:
            if type(error) is sqlite3.DatabaseError:  # the file is none of SQLite's any more
                with self._lock:
                    self._begin_anew()
            remedy = "is a worker stopped, or the disk full?"
            if not self._directory.is_dir():
                remedy = (
                    f"start the server, and have it listen there with PHOENIX_PUBSUB_URL=workers://{self._directory}"
                )
            raise NotPublished(
                f"the history of the workers in {self._directory} cannot be used: {error}; {remedy}"
            ) from error

    def _lock_database(self, last: bool) -> bool:
        """Begin a transaction, and keep this process' threads out; return False if another process holds it.

        :param last: whether that is an error.
        """
        if time.monotonic() < self._held_until and not last:
            return False
        self._lock.acquire()
        try:
            self._open()
            self._database.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            self._lock.release()  # for nobody may wait with it
            if last or "locked" not in str(error):
                raise
            self._held_until = time.monotonic() + RETRY
            return False
        return True

    def _open(self) -> None:
        """Open this process' own connection: what a fork has inherited is its parent's."""
        if self._process == os.getpid():
            if identify(self._watched) == self._identity != []:
                return
            self._begin_anew()
        self._file = find_file(self._directory)
        database = sqlite3.connect(self._file, timeout=BLOCK, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(SCHEMA)
            self._epoch = _begin(database, self._total)
        except BaseException:
            database.close()
            raise
        self._database, self._process = database, os.getpid()
        self._watched = watched(self._directory, self._file)
        self._identity = identify(self._watched)

    def _begin_anew(self) -> None:
        """Leave a file that is deleted or damaged, or that others have left; all who use it do so."""
        log.error(
            "the history of the workers in %s was deleted or damaged, and begins anew: see that nothing but the workers"
            " changes that directory",
            self._directory,
        )
        self.close()
        with suppress(FileNotFoundError):  # nothing leads to it any more
            leave_file(self._directory, self._file)

    def _trim(self, database: sqlite3.Connection, topic: str, history: History, now: float) -> None:
        """Drop what the topic keeps beyond its own bounds, and some of what is too old."""
        head, size = database.execute("SELECT head, size FROM topic WHERE name = ?", (topic,)).fetchone() or (0, 0)
        dropped = []
        for offset, until, length in database.execute(f"{OLDEST} WHERE topic = ? ORDER BY offset", (topic,)):
            if offset > head - history.size and until > now and size <= history.max_bytes:
                break
            size -= length + OVERHEAD
            dropped.append((topic, offset, length))
        _drop(database, dropped)
        late = f"SELECT topic, offset, length(data) FROM entry WHERE until <= ? ORDER BY until LIMIT {SWEEP}"
        _drop(database, database.execute(late, (now,)).fetchall())
        forgotten = f"SELECT name, head FROM topic WHERE until <= ? AND size = 0 ORDER BY until LIMIT {SWEEP}"
        for name, head in database.execute(forgotten, (now,)).fetchall():
            database.execute("DELETE FROM topic WHERE name = ?", (name,))
            database.execute("UPDATE life SET floor = max(floor, ?)", (head,))

    def _trim_all(self, database: sqlite3.Connection) -> bool:
        """Drop what all topics keep beyond their bound; return whether there was such."""
        full = False
        while _number(database, "SELECT size - total FROM life") > 0:
            full = True
            first = "SELECT topic, offset, length(data) FROM entry ORDER BY until LIMIT 1"
            _drop(database, database.execute(first).fetchall())
        return full


class KeepsInDirectory(Archive):
    """What keeps where the workers of a directory do, whether it is one of them or publishes from outside."""

    keeps = True
    _archive: WorkersArchive

    def kept(
        self, topic: str, history: History, since: Position | None
    ) -> tuple[Position, list[tuple[int, bytes]] | None]:
        """Return where a topic is, and the entries after a position, or all."""
        return self._archive.read(topic, since)

    def position(self, topic: str, history: History) -> Position:
        """Return where a topic is."""
        return self._archive.position(topic)


def _begin(database: sqlite3.Connection, total: int | None) -> str:
    """Return the epoch of the database; it is emptied where the machine has started anew, since it may be torn."""
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    database.execute("BEGIN IMMEDIATE")
    row: tuple[str, str] | None = database.execute("SELECT boot, epoch FROM life").fetchone()
    if row is None or row[0] != boot:
        for table in ("life", "topic", "entry"):
            database.execute(f"DELETE FROM {table}")
        row = boot, secrets.token_hex(4)
        database.execute("INSERT INTO life VALUES (?, ?, 0, 0, ?)", (*row, TOTAL))
    if total is not None:
        database.execute("UPDATE life SET total = ?", (total,))
    database.execute("COMMIT")
    return row[1]


def _number(database: sqlite3.Connection, query: str, *arguments: object) -> int:
    """Return the number that a query finds, or 0."""
    row: tuple[int] | None = database.execute(query, arguments).fetchone()
    return 0 if row is None else row[0]


def _head(database: sqlite3.Connection, topic: str, until: float) -> int:
    """Return the last number of a topic, which is remembered at least until then."""
    row = database.execute("SELECT head, until FROM topic WHERE name = ?", (topic,)).fetchone()
    if row is None:
        row = _number(database, "SELECT floor FROM life"), until
        database.execute("INSERT INTO topic VALUES (?, ?, 0, ?)", (topic, *row))
    elif row[1] < until - QUIET / 2:
        database.execute("UPDATE topic SET until = ? WHERE name = ?", (until, topic))
    head: int = row[0]
    return head


def _grow(database: sqlite3.Connection, topic: str, size: int, head: int = 0) -> None:
    """Count bytes, and where the topic is."""
    grown = "UPDATE topic SET head = max(head, ?), size = size + ? WHERE name = ?"
    database.execute(grown, (head, size, topic))
    database.execute("UPDATE life SET size = size + ?", (size,))


def _drop(database: sqlite3.Connection, entries: list[tuple[str, int, int]]) -> None:
    """Drop entries: the topic, the offset, and the length of each."""
    for topic, offset, length in entries:
        database.execute("DELETE FROM entry WHERE topic = ? AND offset = ?", (topic, offset))
        _grow(database, topic, -length - OVERHEAD)
