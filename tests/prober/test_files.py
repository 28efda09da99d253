"""Test the reading of files that settings name: it never waits, and has a limit."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from probe_exporter.prober.files import open_file, read_file
from tests.descriptors import open_descriptors


def test_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"abc")
    assert read_file(str(file), 3) == b"abc"
    with pytest.raises(OSError, match="it has more than 2 bytes"):
        read_file(str(file), 2)


def test_device_without_an_end_has_too_many_bytes() -> None:
    with pytest.raises(OSError, match="it has more than 1000 bytes"):
        read_file("/dev/zero", 1000)
    assert read_file("/dev/null", 1000) == b""


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = open_descriptors()
    with pytest.raises(OSError, match="it is a pipe"):
        open_file(str(pipe))
    assert open_descriptors() <= before


def test_directory_is_refused(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(IsADirectoryError) as refused:
        open_file(str(tmp_path))
    assert open_descriptors() <= before
    assert refused.value.errno == errno.EISDIR
