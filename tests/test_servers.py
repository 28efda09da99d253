"""What a fixture of a real server needs of the machine: where it is missing, tests are skipped with the reason."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Room
from tests.targets import Pki


@pytest.fixture
def room(tmp_path: Path, pki: Pki) -> Room:
    return Room(tmp_path, pki)


def test_needs_are_met_by_what_is_there(room: Room) -> None:
    room.needs("sh", files=("/bin/s*", "/etc/passwd"))


@pytest.mark.parametrize(
    ("programs", "others", "lacking"),
    [
        (("sh", "no-such-program"), {}, "no-such-program"),
        ((), {"files": ("/etc/passwd", "/no/such/*.so")}, r"/no/such/\*\.so"),
        ((), {"users": ("no-such-user",)}, "user no-such-user"),
        ((), {"groups": ("no-such-group",)}, "group no-such-group"),
    ],
    ids=["program", "file", "user", "group"],
)
def test_needs_skip_with_what_is_missing(
    room: Room, monkeypatch: pytest.MonkeyPatch, programs: tuple[str, ...], others: dict[str, Any], lacking: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(pytest.skip.Exception, match=f"this machine lacks (user nobody, )?{lacking}$"):
        room.needs(*programs, **others)


def test_needs_of_users_do_not_matter_to_an_ordinary_user(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers then run as that user, and only those that need root are skipped."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    room.needs("sh", users=("no-such-user",))
    with pytest.raises(pytest.skip.Exception, match=r"this machine lacks root$"):
        room.needs("sh", root=True)
