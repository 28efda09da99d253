"""Log lines never block or fail the caller; what stderr does not take is dropped and counted."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from probe_exporter.telemetry import log_output
from probe_exporter.telemetry.log_output import MAX_QUEUE_BYTES, Writer
from tests.waiting import wait_until

LINE = "a line\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return both ends of a pipe that only the test reads."""
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


def test_writer_writes_lines_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    output = Writer(writer)
    for number in range(1000):
        output.put(f"{number}\n")
    output.close()
    assert os.read(reader, 65536).decode().split() == [str(number) for number in range(1000)]


def test_writer_drops_lines_if_nobody_reads_and_goes_on_when_somebody_does(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    before = log_output.dropped()
    output = Writer(writer)
    many = 2 * MAX_QUEUE_BYTES // 1000
    for _ in range(many):
        output.put(f"{'x' * 999}\n")
    lost = log_output.dropped() - before
    assert 0.4 * many < lost < 0.6 * many
    received = bytearray()

    def read() -> None:
        while data := os.read(reader, 65536):
            received.extend(data)

    threading.Thread(target=read, daemon=True).start()
    wait_until(lambda: received.count(b"\n") == many - lost)
    output.put(LINE)
    wait_until(lambda: received.endswith(LINE.encode()))
    output.close()


def test_writer_that_is_closed_waits_for_nobody(pipe: tuple[int, int]) -> None:
    before = log_output.dropped()
    output = Writer(pipe[1])
    for _ in range(1000):
        output.put(f"{'x' * 999}\n")
    output.close(0.01)
    assert log_output.dropped() > before
    os.set_blocking(pipe[0], False)

    def ended() -> bool:
        """Let the thread finish its write: it would count lines as dropped during a later test."""
        with contextlib.suppress(BlockingIOError):
            os.read(pipe[0], 65536)
        return not output._thread.is_alive()

    wait_until(ended)


def test_writer_counts_lines_if_stderr_fails(pipe: tuple[int, int]) -> None:
    before = log_output.dropped()
    output = Writer(pipe[0])  # not open for writing
    output.put(LINE * 3)
    wait_until(lambda: log_output.dropped() == before + 3)
    output.close()


@pytest.mark.slow
def test_nonblocking_output_drops_what_a_full_pipe_does_not_take() -> None:
    program = f"""
import os
from probe_exporter.telemetry import log_output
reader, writer = os.pipe()
os.dup2(writer, 2)
with log_output.nonblocking():
    for _ in range(200):
        log_output.write({LINE!r} * 100)
print(log_output.dropped() + os.read(reader, 1 << 20).count(b"\\n"), log_output.dropped() > 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["20000", "True"]


@pytest.mark.parametrize("replaced", ["None", "open('/dev/full', 'w')", "closed"])
@pytest.mark.slow
def test_direct_output_counts_lines_if_stderr_is_unusable(replaced: str) -> None:
    program = f"""
import sys
from probe_exporter.telemetry import log_output
closed = open('/dev/null', 'w')
closed.close()
sys.stderr = {replaced}
log_output.write({LINE!r})
print(log_output.dropped())
sys.stderr = None
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "1\n"


@pytest.mark.slow
def test_closed_standard_descriptors_are_occupied() -> None:
    program = """
import os
from probe_exporter.telemetry import log_output
os.close(0); os.close(2)
log_output.occupy_standard_descriptors()
print(os.readlink("/proc/self/fd/0"), os.readlink("/proc/self/fd/2"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["/dev/null", "/dev/null"]
