"""Test the checks of configuration, listening addresses and history."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from probe_exporter.config.reloading import Source
from probe_exporter.history.file import _APPLICATION, _SCHEMA
from probe_exporter.testing import serve
from probe_exporter.tools.doctor import exporter
from tests.processes import free_port


def test_configuration_is_loaded(tmp_path: Path) -> None:
    good = tmp_path / "good.yml"
    good.write_text("modules: {one: {prober: http}}")
    (found,) = exporter.configuration(Source((str(good),)))
    assert (found.verdict, found.message) == ("pass", f"1 modules of {good}")


def test_each_problem_of_a_configuration_has_a_finding(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text("modules:\n  one: {prober: http, tiemout: 3s}\n  two: {prober: nonsense}\n")
    found = exporter.configuration(Source((str(bad),)))
    assert [one.verdict for one in found] == ["fail", "fail"]
    assert "bad.yml:2:23: modules.one.tiemout" in found[0].message
    assert "--config.check" in found[0].fix
    bad.write_text("modules: {one: {prober: http, http: {no_follow_redirects: true}}}")
    assert [one.verdict for one in exporter.configuration(Source((str(bad),)))] == ["warn"]


def test_free_addresses_pass(tmp_path: Path) -> None:
    addresses = [f"127.0.0.1:{free_port()}", f"unix:{tmp_path}/socket"]
    assert [one.verdict for one in exporter.listen_addresses(addresses)] == ["pass", "pass"]


def test_address_in_use_fails_unless_an_exporter_has_it() -> None:
    with serve(b"SSH-2.0-x\r\n") as other:
        (found,) = exporter.listen_addresses([str(other)])
    assert found.verdict == "fail"
    assert found.message == f"{other}: Address already in use"
    assert f"ss -ltnp 'sport = :{other.port}'" in found.fix
    with serve(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nHealthy") as running:
        (found,) = exporter.listen_addresses([str(running)])
    assert (found.verdict, found.message) == ("pass", f"an exporter listens on {running} already")


@pytest.mark.parametrize("address", ["nowhere", "host:port", "127.0.0.1:99999", "unix:/none/socket", "192.0.2.1:9115"])
def test_unusable_addresses_fail_with_a_fix(address: str) -> None:
    (found,) = exporter.listen_addresses([address])
    assert found.verdict == "fail"
    assert found.fix


def test_history_in_memory_passes() -> None:
    assert exporter.history("", 1).verdict == "pass"


def test_history_file_is_not_created_or_changed(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    assert exporter.history(str(file), 1).verdict == "pass"
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # includes hidden files
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(f"{_SCHEMA} PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = 1")
    before = file.read_bytes()
    assert exporter.history(str(file), 1).verdict == "pass"
    assert file.read_bytes() == before


def test_unusable_history_fails_with_a_fix(tmp_path: Path) -> None:
    found = exporter.history(str(tmp_path / "none" / "file"), 1)
    assert (found.verdict, found.fix) == ("fail", f"mkdir -p {tmp_path}/none")
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE a (b)")
    found = exporter.history(str(file), 1)
    assert "but not a history" in found.message
    assert found.fix == f"mv {file} {file}.old"
    file.write_bytes(b"x" * 1000)
    assert exporter.history(str(file), 1).verdict == "fail"
    file.unlink()
    file.symlink_to(file)
    assert exporter.history(str(file), 1).verdict == "fail"


def test_history_without_space_is_a_warning(tmp_path: Path) -> None:
    found = exporter.history(str(tmp_path / "file"), 1 << 60)
    assert found.verdict == "warn"
    assert "less than --history.max-bytes" in found.message


def test_port_is_free_again_after_the_check() -> None:
    port = free_port()
    exporter.listen_addresses([f"127.0.0.1:{port}"])
    socket.create_server(("127.0.0.1", port)).close()
