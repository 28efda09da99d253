"""Count the cores that this process may use, for ``--workers=auto``: CPU affinity and the CPU quotas of cgroups.

A container's CPU limit is a quota of its cgroup. The kernel stops all threads of a cgroup that has used its quota until
the next period begins, up to 0.1 s later, and that time would be added to the durations of probes. So a share of a core
is rounded down: a limit of 2500m gives two workers. The quotas of parent cgroups limit the process too.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

CPU = "cpu"
"""The name of the controller in version 1 of cgroups. The only hierarchy of version 2 has an empty name."""


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of whole cores that this process may use, at least 1.

    Args:
        root: the directory with ``proc`` and ``sys``.
    """
    return max(1, math.floor(min(len(os.sched_getaffinity(0)), cpu_quota(root))))


def cpu_quota(root: Path = Path("/")) -> float:
    """Return the lowest CPU quota of this process's cgroups in cores, infinity if there is none."""
    return min(_quotas(root), default=math.inf)


def _quotas(root: Path) -> Iterator[float]:
    """Yield all quotas of this process's cgroups and of their parents. Files that can't be read have none."""
    for directory, read in _cgroups(root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota = read(directory)
            if quota > 0:
                yield quota


def _cgroups(root: Path) -> Iterator[tuple[Path, Callable[[Path], float]]]:
    """Yield each directory that may have a quota, and the function that reads it: see cgroups(7)."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    fields = [line.split(":", 2) for line in groups]
    paths = {name: path for _, names, path in fields for name in names.split(",")}
    for mount in mounts:
        place, _, kind = mount.partition(" - ")
        system, _, options = kind.split(" ", 2)
        if system == "cgroup2" and "" in paths:
            path, read = paths[""], _read_version_2
        elif system == "cgroup" and CPU in options.split(",") and CPU in paths:
            path, read = paths[CPU], _read_version_1
        else:
            continue
        _, _, _, base, point = place.split(" ")[:5]
        top = root / point.lstrip("/")
        yield from ((top / below, read) for below in _below(path, base))


def _below(path: str, base: str) -> list[PurePosixPath]:
    """Return the cgroup and its parents as paths below the directory that is mounted.

    A container without a cgroup namespace sees the path of its host, and finds its own cgroup where the mount begins.
    """
    cgroup = PurePosixPath(path)
    if ".." in cgroup.parts or not cgroup.is_relative_to(base):
        return [PurePosixPath()]
    inner = cgroup.relative_to(base)
    return list(dict.fromkeys([inner, *inner.parents, PurePosixPath()]))


def _read_version_2(directory: Path) -> float:
    quota, period = (directory / "cpu.max").read_text().split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _read_version_1(directory: Path) -> float:
    """Return the quota; it is negative if there is none."""
    quota, period = ((directory / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return int(quota) / int(period)
