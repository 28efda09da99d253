"""Start real servers from Debian's packages for tests, each on free loopback ports with its own configuration.

Each server has a file, which ends in a generator decorated with `@server`: that makes the fixture of that name. To add
a server, add a file and its package in `.ci/run`. A server starts when the first test requests its fixture, and serves
all tests of the session::

    @server
    def memcached(room: Room) -> Iterator[int]:
        room.needs("memcached")
        port = room.port()
        with room.running("memcached", "-l", "127.0.0.1", "-p", port, "-u", "root", ready=listening(port)):
            yield port

A fixture first checks with `Room.needs` what its server needs: programs, the users they run as, files of its
packages. If anything is missing, its tests are skipped with the reason; in CI they fail.
"""

from __future__ import annotations

import atexit
import grp
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.processes import Ready, free_port, having_said, listening, running
from tests.targets import Pki

__all__ = ["NOBODY", "Room", "having_said", "listening", "server"]

T = TypeVar("T")

NOBODY = "nobody"
"""The user for programs that refuse to run as root."""

_ELSEWHERE = ("usr/sbin", "usr/local/sbin", "usr/lib/postfix/sbin", "usr/lib/postgresql/*/bin")
"""Directories of servers that are not on an ordinary user's PATH."""


_made: dict[Callable[[Room], None], Path] = {}
"""The directories that `Room.copy_of` copies."""


@dataclass(frozen=True)
class Room:
    """The working directory of one server, with a short path that every user can enter, and the test certificates.

    Attributes:
        directory: empty at first; deleted when the server has stopped.
        pki: the test certificates, valid and invalid.
    """

    directory: Path
    pki: Pki

    def port(self) -> int:
        """Return a free loopback port."""
        return free_port()

    def write(self, name: str, text: str) -> Path:
        """Write a file in the directory; return its path."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def certificate(self, name: str = "leaf") -> tuple[Path, Path]:
        """Copy a test certificate with its chain, and its key, into the directory; return their paths."""
        certificate, key = (Path(shutil.copy(self.pki.directory / f"{name}.{kind}", self.directory))
                            for kind in ("pem", "key"))  # fmt: skip
        key.chmod(0o600)
        return certificate, key

    def copy_of(self, name: str, make: Callable[[Room], None]) -> Path:
        """Copy a directory that is slow to create into this one; call `make` once a session, with a room of its own.

        Args:
            name: the directory that `make` creates in its room.
        """
        if make not in _made:
            room = Path(tempfile.mkdtemp(prefix=f"{name}-"))
            atexit.register(shutil.rmtree, room, ignore_errors=True)
            room.chmod(0o755)
            make(Room(room, self.pki))
            _made[make] = room / name
        return Path(shutil.copytree(_made[make], self.directory / name))

    def needs(
        self, *programs: str, users: Iterable[str] = (), groups: Iterable[str] = (), files: Iterable[str] = (),
        root: bool = False,
    ) -> None:  # fmt: skip
        """Skip the test unless this machine has all of these.

        Args:
            programs: by name.
            users, groups: by name; only checked for root, whose servers change their user.
            files: patterns of absolute paths; each must match a file.
            root: whether an ordinary user can't start the server.
        """
        lacking = [name for name in programs if _program(name) is None]
        lacking += [pattern for pattern in files if not any(Path("/").glob(pattern.lstrip("/")))]
        if os.geteuid() == 0:
            lacking += [f"user {name}" for name in (NOBODY, *users) if not _is_known(pwd.getpwnam, name)]
            lacking += [f"group {name}" for name in groups if not _is_known(grp.getgrnam, name)]
        elif root:
            lacking.append("root")
        if lacking:
            pytest.skip(f"this machine lacks {', '.join(lacking)}")

    def program(self, name: str) -> str:
        """Return the path of a program; skip the test if it is not installed."""
        self.needs(name)
        return str(_program(name))

    def run(self, program: str, *arguments: object, stdin: str = "", user: str | None = None) -> str:
        """Run a program in the directory until it exits; return its output.

        Raises:
            RuntimeError: the program failed; the message has its output.
        """
        done = subprocess.run(
            [self.program(program), *map(str, arguments)], cwd=self.directory, input=stdin, capture_output=True,
            text=True, timeout=300, user=self._give(user),
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def running(
        self, program: str, *arguments: object, ready: Ready, user: str | None = None
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run a server in the directory for a ``with`` block, which starts when it is ready (`processes.running`).

        Args:
            program: its name.
            arguments: its arguments; the server must stay in the foreground.
            ready: usually ``listening(port)``, or ``having_said("ready", room.log(program))``.
            user: the user that it runs as if root starts it; the directory then belongs to that user.
        """
        command = [self.program(program), *map(str, arguments)]
        return running(command, self.directory, self.log(program), ready, user=self._give(user))

    def log(self, program: str) -> Path:
        """Return the file with the standard output and standard error of a program."""
        return self.directory / f"{program}.log"

    def _give(self, user: str | None) -> str | None:
        if user is None or os.geteuid() != 0:
            return None
        for directory, _, files in os.walk(self.directory):
            for name in (".", *files):
                with suppress(FileNotFoundError):  # a file of another server that runs in this directory
                    shutil.chown(Path(directory, name), user)
        return user


def _program(name: str) -> str | None:
    places = [str(path) for pattern in _ELSEWHERE for path in sorted(Path("/").glob(pattern), reverse=True)]
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *places]))


def _is_known(lookup: Callable[[str], object], name: str) -> bool:
    with suppress(KeyError):
        lookup(name)
        return True
    return False


def server(make: Callable[[Room], Iterator[T]]) -> Any:
    """Make a fixture with the function's name from a generator that starts a server in a room and yields its details,
    such as ports, for tests."""

    @pytest.fixture(scope="session", name=make.__name__)
    def fixture(pki: Pki) -> Iterator[T]:
        with tempfile.TemporaryDirectory(prefix=f"{make.__name__}-") as directory:
            Path(directory).chmod(0o755)
            with contextmanager(make)(Room(Path(directory), pki)) as made:
                yield made

    return fixture
