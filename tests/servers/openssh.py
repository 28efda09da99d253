"""OpenSSH (sshd) with a host key of every kind. No user can log in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import NOBODY, Room, listening, server

KINDS = {
    "ed25519": ("ed25519", "256"),
    "rsa": ("rsa", "2048"),
    "nistp256": ("ecdsa", "256"),
    "nistp384": ("ecdsa", "384"),
    "nistp521": ("ecdsa", "521"),
}
"""The type and bits of each host key for ssh-keygen."""


@dataclass(frozen=True)
class OpenSsh:
    """A running sshd.

    Attributes:
        port: the port it listens on.
        fingerprints: the fingerprints of its host keys by type, as ``ssh-keygen -l`` prints them (``SHA256:…``).
    """

    port: int
    fingerprints: dict[str, str]


@server
def openssh(room: Room) -> Iterator[OpenSsh]:
    room.needs("sshd", "ssh-keygen")
    port, fingerprints = room.port(), {}
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", "PidFile none", "UsePAM no", "MaxStartups 100"]
    for kind, (type_, bits) in KINDS.items():
        path = room.directory / f"host_{kind}"
        room.run("ssh-keygen", "-q", "-t", type_, "-b", bits, "-N", "", "-f", path)
        fingerprints[kind] = room.run("ssh-keygen", "-l", "-f", path).split()[1]
        lines.append(f"HostKey {path}")
    config = room.write("sshd_config", "\n".join([*lines, ""]))
    # As root it would need a system directory, and the key exchange needs no root.
    with room.running("sshd", "-D", "-e", "-f", config, ready=listening(port), user=NOBODY):
        yield OpenSsh(port, fingerprints)
