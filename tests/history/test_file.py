"""Test the history in a file: limits, several processes, sudden ends, foreign files and write errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe_exporter.history import file as history_file
from probe_exporter.history.file import QUEUE_FULL, WRITE_FAILED, FileHistory, verify
from probe_exporter.history.memory import MAX_BYTES, HistoryError, Query, Recent, estimated_size
from probe_exporter.history.probe_log import ProbeLog
from tests.exporters import ROOT
from tests.history.test_memory import finished
from tests.waiting import wait_until

ALL = Query(limit=1_000_000)

WRITER = """
import asyncio, sys
from collections import Counter
from pathlib import Path
from probe_exporter.history import file
from probe_exporter.history.file import FileHistory
from probe_exporter.history.probe_log import ProbeLog
from tests.history.test_memory import finished

file.LOCKED_SECONDS = 60.0  # no test of this script is about giving up on a lock

async def write(path, name, count, limit):
    lost = Counter()
    history = FileHistory(Path(path), int(limit), 1 << 26, ProbeLog(), lost)
    print("ready", flush=True)
    for number in range(int(count)):
        history.add(finished(f"{name} {number}"))
        await asyncio.sleep(0.001)
    history.close()
    print(sum(lost.values()), flush=True)

asyncio.run(write(*sys.argv[1:]))
"""


def a_file(path: Path, limit: int = 100, max_bytes: int = MAX_BYTES, lost: Counter[str] | None = None) -> FileHistory:
    return FileHistory(path, limit, max_bytes, ProbeLog(logging.DEBUG), Counter() if lost is None else lost)


@contextlib.contextmanager
def opened(path: Path, limit: int = 100, max_bytes: int = MAX_BYTES) -> Iterator[FileHistory]:
    with contextlib.closing(a_file(path, limit, max_bytes)) as history:
        yield history


def writer(path: Path, name: str, count: int, limit: int = 10_000) -> subprocess.Popen[str]:
    """Start a process that writes to a history."""
    command = [sys.executable, "-c", WRITER, str(path), name, str(count), str(limit)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."})


def stored(path: Path) -> int:
    """Return the bytes of all results in the file."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        (size,) = connection.execute("SELECT coalesce(sum(bytes), 0) FROM probes").fetchone()
    return int(size)


def rows(path: Path) -> int:
    """Return the number of results in the file."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        (number,) = connection.execute("SELECT count(*) FROM probes").fetchone()
    return int(number)


# --- which results are kept ----------------------------------------------------------------------------------


async def test_select_and_get_see_added_results_at_once(tmp_path: Path) -> None:
    with opened(tmp_path / "h") as history:
        history.add(finished("x", failed=True, label="shown"))
        (entry,) = await history.select(Query(target="x"))
        assert (entry.module, entry.reason, entry.phase, entry.message) == ("one", "target_invalid", "phase", "no")
        assert (entry.started, entry.duration, entry.timeout) == (1000.0, 0.5, 1.0)
        found = await history.get(entry.id)
        assert found is not None
        assert found[0] == entry
        assert found[1].details["prober"] == "nothing"
        assert 'probe_test_info{value="shown"} 1' in found[1].debug
        for number in (entry.id + 1, 0, -1, 1 << 70):
            assert await history.get(number) is None


async def test_results_survive_a_restart_and_ids_continue(tmp_path: Path) -> None:
    with opened(tmp_path / "h") as history:
        for target in ("a", "b"):
            history.add(finished(target))
    with opened(tmp_path / "h") as history:
        history.add(finished("c"))
        entries = await history.select(ALL)
        assert [entry.target for entry in entries] == ["c", "b", "a"]
        assert [entry.id for entry in entries] == [3, 2, 1]


async def test_ids_are_never_reused(tmp_path: Path) -> None:
    for _ in range(3):
        with opened(tmp_path / "h", limit=1) as history:
            history.add(finished("x"))
            history.add(finished("y"))
    with opened(tmp_path / "h", limit=0):
        pass  # deletes all results
    with opened(tmp_path / "h") as history:
        history.add(finished("z"))
        (entry,) = await history.select(ALL)
        assert entry.id > 3


async def test_results_are_written_without_a_query(tmp_path: Path) -> None:
    with opened(tmp_path / "h") as history:
        history.add(finished("x"))
        while not stored(tmp_path / "h"):  # noqa: ASYNC110  # a thread writes it
            await asyncio.sleep(0.05)


async def test_text_that_is_not_utf_8_is_stored_escaped(tmp_path: Path) -> None:
    with opened(tmp_path / "h") as history:
        history.add(finished("caf\udce9 \0 \N{BLACK STAR}", label="\udce9"))
        (entry,) = await history.select(ALL)
        assert entry.target == "caf\\udce9 \0 \N{BLACK STAR}"
        assert await history.get(entry.id) is not None


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(0, 6),
    max_bytes=st.integers(1_000, 50_000),
    probes=st.lists(st.tuples(st.booleans(), st.integers(0, 3_000)), max_size=30),
)
def test_file_keeps_the_same_limits_as_memory(
    tmp_path: Path, limit: int, max_bytes: int, probes: list[tuple[bool, int]]
) -> None:
    """By number the file holds exactly what memory holds. By bytes each has its own measure."""
    path = tmp_path / "h"
    path.unlink(missing_ok=True)
    recent = Recent(limit, MAX_BYTES, Counter())

    async def fill() -> list[str]:
        with opened(path, limit, max_bytes if max_bytes % 2 else MAX_BYTES) as history:
            for number, (failed, size) in enumerate(probes):
                result = finished(f"t{number}", failed=failed, label=os.urandom(size).hex())
                history.add(result)
                recent.add(result)
            return [entry.target for entry in await history.select(ALL)]

    targets = asyncio.run(fill())
    recent.settle()
    if max_bytes % 2:
        assert stored(path) <= max_bytes
        assert len(targets) <= 2 * limit
    else:
        assert targets == [item.result.target for item in recent]


def test_byte_limit_drops_successes_before_failures(tmp_path: Path) -> None:
    noise = [os.urandom(1_500).hex() for _ in range(60)]

    async def fill() -> list[str]:
        with opened(tmp_path / "h", limit=100, max_bytes=120_000) as history:
            for number, label in enumerate(noise):
                history.add(finished(f"{'f' if number < 5 else 's'}{number}", failed=number < 5, label=label))
                await history.select(Query(limit=1))
            return [entry.target for entry in await history.select(ALL)]

    targets = asyncio.run(fill())
    assert stored(tmp_path / "h") <= 120_000
    assert {f"f{number}" for number in range(5)} < set(targets)
    assert targets[0] == "s59"
    assert "s5" not in targets


def test_file_size_stays_bounded(tmp_path: Path) -> None:
    async def fill() -> None:
        with opened(tmp_path / "h", limit=50, max_bytes=500_000) as history:
            for number in range(400):
                history.add(finished(f"t{number}", failed=number % 2 == 0, label=os.urandom(10_000).hex()))
                if number % 20 == 0:
                    await history.select(Query(limit=1))

    asyncio.run(fill())
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert size < 2_000_000, "400 probes of 10 kB were added"


# --- several processes and sudden ends -----------------------------------------------------------------------


async def test_processes_create_and_share_a_file(tmp_path: Path) -> None:
    writers = [writer(tmp_path / "h", name, 300) for name in ("a", "b", "c")]
    for process in writers:
        out, _ = process.communicate(timeout=300)
        assert (process.returncode, out) == (0, "ready\n0\n")
    with opened(tmp_path / "h", limit=10_000) as history:
        entries = await history.select(ALL)
    assert [entry.id for entry in entries] == list(range(900, 0, -1))
    for name in ("a", "b", "c"):
        of_one = [entry.target for entry in reversed(entries) if entry.target.startswith(name)]
        assert of_one == [f"{name} {number}" for number in range(300)], "results are lost or out of order"


async def test_process_sees_results_of_another(tmp_path: Path) -> None:
    with opened(tmp_path / "h") as history:
        assert await history.select(ALL) == []
        out, _ = writer(tmp_path / "h", "other", 3, limit=100).communicate(timeout=300)
        assert out == "ready\n0\n"
        assert [entry.target for entry in await history.select(ALL)] == ["other 2", "other 1", "other 0"]


FORKING = """
import asyncio, os, sys
from collections import Counter
from pathlib import Path
from probe_exporter.history import file
from probe_exporter.history.file import FileHistory
from probe_exporter.history.probe_log import ProbeLog
from tests.history.test_memory import finished

file.LOCKED_SECONDS = 60.0

async def write(history, name):
    for number in range(100):
        history.add(finished(f"{name} {number}"))
        await asyncio.sleep(0.001)
    history.close()

history = FileHistory(Path(sys.argv[1]), 1000, 1 << 26, ProbeLog(), Counter())
children = []
for name in "abc":
    child = os.fork()
    if not child:
        asyncio.run(write(history, name))
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""


def test_history_may_be_opened_before_a_fork(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING, str(tmp_path / "h")]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}, timeout=300, check=True)

    async def look() -> None:
        with opened(tmp_path / "h", limit=1000) as history:
            assert len({entry.target for entry in await history.select(ALL)}) == 300

    asyncio.run(look())


@pytest.mark.parametrize("held", [0, 1, 200])
def test_file_is_intact_after_the_writer_is_killed(tmp_path: Path, held: int) -> None:
    process = writer(tmp_path / "h", "killed", 1_000_000)
    assert process.stdout is not None
    process.stdout.readline()
    wait_until(lambda: rows(tmp_path / "h") >= held)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stdout.close()

    async def look() -> None:
        with opened(tmp_path / "h", limit=10_000) as history:
            before = await history.select(ALL)
            assert [entry.target for entry in reversed(before)] == [f"killed {number}" for number in range(len(before))]
            assert len(before) >= held
            history.add(finished("after"))
            assert (await history.select(ALL))[0].target == "after"

    asyncio.run(look())


# --- files that are not a history ----------------------------------------------------------------------------


def foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE somebody_else_s (x)")
        connection.commit()


def of_the_future(path: Path) -> None:
    a_file(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def damaged(path: Path) -> None:
    async def fill() -> None:
        with opened(path) as history:
            for number in range(50):
                history.add(finished(f"t{number}", label=os.urandom(2_000).hex()))

    asyncio.run(fill())
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 6] = os.urandom(4096 * 3)
    path.write_bytes(content)


UNUSABLE = pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("notes of somebody's " * 100), "not a database"),
        (foreign, "not a history: it is left as it is"),
        (of_the_future, "version 99"),
        (damaged, "is damaged|malformed"),
        (Path.mkdir, "unable to open"),
        (lambda path: path.symlink_to("/nonexistent/h"), "unable to open"),
    ],
    ids=["text", "foreign database", "newer version", "damaged", "directory", "dangling link"],
)


@UNUSABLE
def test_file_that_is_not_a_history_is_refused_and_unchanged(make: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "h"
    make(path)  # type: ignore[operator]  # one of the functions above
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(HistoryError, match=message) as caught:
        a_file(path)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


@UNUSABLE
def test_verify_refuses_the_same_files_and_changes_nothing(make: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "h"
    make(path)  # type: ignore[operator]  # one of the functions above
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(HistoryError, match=message):
        verify(path)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_verify_accepts_a_history_that_is_in_use(tmp_path: Path) -> None:
    history = a_file(tmp_path / "h")
    verify(tmp_path / "h")
    history.close()
    verify(tmp_path / "h")


def test_file_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    a_file(tmp_path / "h").close()
    assert (tmp_path / "h").stat().st_mode & 0o777 == 0o600


async def test_empty_file_becomes_a_history(tmp_path: Path) -> None:
    (tmp_path / "h").touch()
    with opened(tmp_path / "h") as history:
        history.add(finished("x"))
        assert len(await history.select(ALL)) == 1


# --- errors at run time --------------------------------------------------------------------------------------


async def test_locked_file_drops_results_without_blocking(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    lost: Counter[str] = Counter()
    history = a_file(tmp_path / "h", limit=5, lost=lost)
    number = 0

    async def add_while(true: Callable[[], bool]) -> None:
        nonlocal number
        while true():
            history.add(finished(f"t{number}"))
            number += 1
            await asyncio.sleep(0.001)

    with contextlib.closing(sqlite3.connect(tmp_path / "h", isolation_level=None)) as other:
        monkeypatch.setattr(history_file, "LOCKED_SECONDS", 3600.0)
        other.execute("BEGIN EXCLUSIVE")
        await add_while(lambda: number < 300)  # waiting for the lock would take an hour
        assert history._writing is not None
        assert not history._writing.done()
        assert lost[QUEUE_FULL] > 0, "the oldest successes were not dropped"
        assert lost[WRITE_FAILED] == 0
        other.execute("ROLLBACK")
        assert await history.select(ALL)
        history._disconnect()
        monkeypatch.setattr(history_file, "LOCKED_SECONDS", 0.01)
        other.execute("BEGIN EXCLUSIVE")
        await add_while(lambda: not caplog.records)
        await add_while(lambda: lost[WRITE_FAILED] < 2)
        assert [record.levelname for record in caplog.records] == ["ERROR"], "the error was not logged exactly once"
        assert "locked" in str(caplog.records[0].__dict__["fields"]["err"])
        other.execute("ROLLBACK")
    history._disconnect()
    monkeypatch.setattr(history_file, "LOCKED_SECONDS", 60.0)
    for _ in range(5):
        history.add(finished(f"t{number}"))
        number += 1
    entries = await history.select(ALL)
    assert [entry.target for entry in entries] == [f"t{one}" for one in range(number - 1, number - 6, -1)]
    history.close()
    assert caplog.messages[-1] == "The history is written again"


DISK_FULL = """
import asyncio, resource, sys
from collections import Counter
from pathlib import Path
from probe_exporter.history.memory import Query
from probe_exporter.history.file import FileHistory
from probe_exporter.history.probe_log import ProbeLog
from tests.history.test_memory import finished

async def write():
    lost = Counter()
    history = FileHistory(Path(sys.argv[1]), 10_000, 1 << 26, ProbeLog(), lost)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    for number in range(50):
        history.add(finished(f"t{number}", label=str(number) * 3000))
        await history.select(Query(limit=1))
    failed = lost["write_failed"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    history.add(finished("after"))
    print(failed, len(await history.select(Query(limit=1000))), (await history.select(Query(limit=1)))[0].target)
    history.close()

asyncio.run(write())
"""


def test_full_disk_drops_results_and_recovers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path / "h")]
    environment = {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300, check=True)
    failed, held, newest = done.stdout.split()
    assert 0 < int(failed) < 50
    assert int(held) == 51 - int(failed)
    assert newest == "after"


def test_result_that_can_not_be_rendered_is_dropped_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn:
        def __str__(self) -> str:
            raise RuntimeError("a bug of the prober's")

    async def fill() -> list[str]:
        lost: Counter[str] = Counter()
        with contextlib.closing(a_file(tmp_path / "h", lost=lost)) as history:
            bad = finished("bad")
            bad.probe.log("Noted", what=Stubborn())
            for result in (finished("a"), bad, finished("b")):
                history.add(result)
            targets = [entry.target for entry in await history.select(ALL)]
        assert lost == {WRITE_FAILED: 1, QUEUE_FULL: 0}
        return targets

    assert asyncio.run(fill()) == ["b", "a"]
    assert "Unexpected exception: a probe is missing in the history" in caplog.text


def test_details_that_earlier_releases_did_not_write_are_empty(tmp_path: Path) -> None:
    async def read() -> dict[str, object]:
        with opened(tmp_path / "h") as history:
            history.add(finished("x"))
            await history.select(ALL)
            with contextlib.closing(sqlite3.connect(tmp_path / "h")) as other, other:
                (packed,) = other.execute("SELECT document FROM probes").fetchone()
                whole = json.loads(zlib.decompress(packed))
                for key in ("parameters", "phases", "tls"):
                    del whole["details"][key]
                other.execute("UPDATE probes SET document = ?", (zlib.compress(json.dumps(whole).encode()),))
            found = await history.get(1)
            assert found is not None
            return found[1].details

    details = asyncio.run(read())
    assert (details["parameters"], details["phases"], details["tls"]) == ({}, [], [])
    assert details["prober"] == "nothing"


def test_write_queue_is_bounded(tmp_path: Path) -> None:
    history = a_file(tmp_path / "h", limit=1_000_000, max_bytes=1 << 30)

    async def flood() -> None:
        for _ in range(3_000):
            history._queue.add(finished("x"))
        history._queue.settle()
        assert sum(1 for _ in history._queue) == 1_000
        for _ in range(100):
            history._queue.add(finished("x", label="x" * 500_000))
        history._queue.settle()
        assert history._queue.bytes <= 16 << 20
        assert estimated_size(finished("x", label="x" * 500_000)) * 100 > 16 << 20

    asyncio.run(flood())
    history._queue.take()
    history.close()
