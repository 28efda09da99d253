"""Run functions in helper processes: results, limits, and what happens to a helper at a cancellation or its death."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe_exporter.values import pool
from tests.waiting import until


@pytest.fixture(autouse=True)
def no_helpers() -> Iterator[None]:
    """Begin and end without idle helpers."""
    for _ in range(2):
        while pool._idle:
            pool._idle.pop().kill()
        if _ == 0:
            yield


def join(*arguments: object) -> tuple[int, tuple[object, ...]]:
    """Return the process's id and the arguments."""
    return os.getpid(), arguments


def sleep(body: bytes) -> None:
    """Tell by a file that this process works, and never return."""
    Path(body.decode()).write_text(str(os.getpid()))
    while True:
        signal.pause()


def die(_: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def test_function_runs_in_another_process() -> None:
    process, arguments = await pool.run(join, [b"a" * 5_000_000, b""], 1, {"b": [2.5]})
    assert process != os.getpid()
    assert arguments == (b"a" * 5_000_000, b"", 1, {"b": [2.5]})


async def test_idle_helper_is_used_again() -> None:
    first, _ = await pool.run(join, [])
    assert (await pool.run(join, []))[0] == first


def test_idle_helper_serves_another_event_loop() -> None:
    first, _ = asyncio.run(pool.run(join, []))
    assert asyncio.run(pool.run(join, []))[0] == first


async def test_helpers_are_limited_in_number() -> None:
    results = await asyncio.gather(*[pool.run(join, [b"x"]) for _ in range(5 * pool.MAX_HELPERS)])
    assert 1 <= len({process for process, _ in results}) <= pool.MAX_HELPERS


async def test_cancellation_kills_the_helper(tmp_path: Path) -> None:
    """A cancelled job's helper is killed at once, and the next job gets another helper."""
    file = tmp_path / "process"
    task = asyncio.create_task(pool.run(sleep, [str(file).encode()]))
    await until(lambda: file.exists() and file.read_text())
    process = int(file.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not alive(process))
    assert (await pool.run(join, []))[0] != process


async def test_death_of_a_helper_at_work_is_reported() -> None:
    with pytest.raises(pool.HelperFailed, match="died"):
        await pool.run(die, [b""])
    await pool.run(join, [])


async def test_helper_that_died_while_idle_is_replaced() -> None:
    first, _ = await pool.run(join, [])
    os.kill(first, signal.SIGKILL)
    await until(lambda: not alive(first))
    assert (await pool.run(join, []))[0] != first


async def test_idle_helper_exits_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.01)
    process, _ = await pool.run(join, [])
    await until(lambda: not alive(process))
    assert not pool._idle


async def test_helper_exits_if_its_socket_closes() -> None:
    """So it ends with the exporter, even if that is killed."""
    process, _ = await pool.run(join, [])
    pool._idle.pop()._connection.close()
    await until(lambda: not alive(process))


async def test_helper_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(pool.HelperFailed, match="can't start a helper process: No such file"):
        await pool.run(join, [])
