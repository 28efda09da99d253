"""Tests of `--workers=auto`: CPU affinity, and the CPU quotas of cgroups of both versions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe_exporter.workers.cores import cpu_quota, usable_cores
from tests import exporters
from tests.http_client import ask
from tests.waiting import wait_until

V1_MOUNTS = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
V1_MOUNTS += "33 31 0:30 {base} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
V2_MOUNTS = "22 27 0:21 / /proc rw - proc proc rw\n31 23 0:28 {base} /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate\n"


def tree(root: Path, groups: str, mounts: str, quotas: dict[str, str]) -> Path:
    """Write the files of /proc and /sys below a directory; return that."""
    files = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **quotas}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def version_2(root: Path, quotas: dict[str, str], group: str = "/", base: str = "/") -> Path:
    """Write a tree of version 2; `quotas` are contents of ``cpu.max`` by the cgroup's directory."""
    files = {f"sys/fs/cgroup/{directory}/cpu.max": text for directory, text in quotas.items()}
    return tree(root, f"0::{group}\n", V2_MOUNTS.format(base=base), files)


def version_1(root: Path, quotas: dict[str, int], group: str = "/", base: str = "/") -> Path:
    """Write a tree of version 1; `quotas` are microseconds of each 100 ms by the cgroup's directory."""
    files = {}
    for directory, quota in quotas.items():
        files[f"sys/fs/cgroup/cpu,cpuacct/{directory}/cpu.cfs_quota_us"] = f"{quota}\n"
        files[f"sys/fs/cgroup/cpu,cpuacct/{directory}/cpu.cfs_period_us"] = "100000\n"
    return tree(root, f"9:name=systemd:/\n4:cpu,cpuacct:{group}\n0::/\n", V1_MOUNTS.format(base=base), files)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", math.inf),
        ("50000 100000\n", 0.5),
        ("250000 100000\n", 2.5),
        ("20000 10000\n", 2.0),
        ("", math.inf),
        ("garbage\n", math.inf),
        ("50000 0\n", math.inf),
    ],
)
def test_quota_of_version_2(tmp_path: Path, text: str, cores: float) -> None:
    assert cpu_quota(version_2(tmp_path, {".": text})) == cores


@pytest.mark.parametrize(("microseconds", "cores"), [(-1, math.inf), (0, math.inf), (50_000, 0.5), (400_000, 4.0)])
def test_quota_of_version_1(tmp_path: Path, microseconds: int, cores: float) -> None:
    assert cpu_quota(version_1(tmp_path, {".": microseconds})) == cores


def test_quota_of_a_parent_counts_if_it_is_lower(tmp_path: Path) -> None:
    quotas = {".": "max 100000", "system.slice": "300000 100000", "system.slice/exporter.service": "max 100000"}
    assert cpu_quota(version_2(tmp_path, quotas, "/system.slice/exporter.service")) == 3.0
    quotas["system.slice/exporter.service"] = "100000 100000"
    assert cpu_quota(version_2(tmp_path, quotas, "/system.slice/exporter.service")) == 1.0


def test_quota_of_version_1_is_that_of_the_own_cgroup(tmp_path: Path) -> None:
    quotas = {".": -1, "docker": -1, "docker/abc": 150_000, "docker/other": 10_000}
    assert cpu_quota(version_1(tmp_path, quotas, "/docker/abc")) == 1.5


@pytest.mark.parametrize("version", [1, 2])
def test_quota_of_a_container_without_cgroup_namespace(tmp_path: Path, version: int) -> None:
    """The paths in /proc are the host's; the cgroup of the container is mounted as the top."""
    place = ("/kubepods/pod1/abc", "/kubepods/pod1/abc")
    root = (
        version_1(tmp_path, {".": 50_000}, *place)
        if version == 1
        else version_2(tmp_path, {".": "50000 100000"}, *place)
    )
    assert cpu_quota(root) == 0.5


def test_quota_with_a_path_outside_of_the_mount_is_that_of_the_mount(tmp_path: Path) -> None:
    assert cpu_quota(version_2(tmp_path, {".": "50000 100000"}, "/../sibling")) == 0.5
    assert cpu_quota(version_2(tmp_path, {".": "50000 100000"}, "/elsewhere", "/kubepods/abc")) == 0.5


def test_quota_without_cgroups_is_infinite(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf
    assert cpu_quota(tree(tmp_path, "", V2_MOUNTS.format(base="/"), {})) == math.inf


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have an affinity of eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("quota", "workers"),
    [("max", 8), (50_000, 1), (100_000, 1), (199_999, 1), (200_000, 2), (250_000, 2), (900_000, 8)],
)
def test_cores_are_the_quota_rounded_down(tmp_path: Path, eight_cores: None, quota: object, workers: int) -> None:
    assert usable_cores(version_2(tmp_path, {".": f"{quota} 100000"})) == workers


@pytest.fixture
def one_core() -> Iterator[None]:
    """Let this process and its children use one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_workers_auto_with_one_core_is_one_process(tmp_path: Path, one_core: None) -> None:
    with exporters.ours_from_scratch(tmp_path, "--workers=auto") as exporter:
        assert ask(exporter.port, "/-/healthy").status == 200
        children = Path(f"/proc/{exporter.process.pid}/task/{exporter.process.pid}/children").read_text()
        assert "workers=1" in exporter.log.read_text()
    assert "A worker has started" not in exporter.log.read_text()
    assert children == ""


@pytest.mark.slow
def test_workers_auto_starts_a_worker_for_each_core(tmp_path: Path) -> None:
    number = usable_cores()
    with exporters.ours_from_scratch(tmp_path, "--workers=auto") as exporter:
        wait_until(lambda: exporter.log.read_text().count("Listening") == number)
        assert ask(exporter.port, "/-/healthy").status == 200
        exporter.process.terminate()
        assert exporter.process.wait(60) == 0
    assert exporter.log.read_text().count("A worker has started") == (number if number > 1 else 0)
