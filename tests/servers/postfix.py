"""postfix: SMTP with STARTTLS, and SMTP over TLS. It delivers nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import Room, listening, server

MAIN = """
compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.example.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_relay_restrictions = reject
smtpd_tls_security_level = may
smtpd_tls_chain_files = {key} {certificate}
maillog_file = /dev/stdout
"""
MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{tls_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
proxymap unix - - n - - proxymap
rewrite unix - - n - - trivial-rewrite
tlsmgr unix - - n 1000? 1 tlsmgr
"""
DAEMONS = ("smtpd", "anvil", "postlogd", "proxymap", "trivial-rewrite", "tlsmgr")
"""The programs of the services in `MASTER`."""


@dataclass(frozen=True)
class Postfix:
    """A running postfix: the port with STARTTLS, and the port with implicit TLS."""

    port: int
    tls_port: int


@server
def postfix(room: Room) -> Iterator[Postfix]:
    room.needs(
        "postfix", "master", users=("postfix",), groups=("postdrop",), root=True,
        files=("/etc/postfix/postfix-files", *(f"/usr/lib*/postfix/**/{name}" for name in DAEMONS)),
    )  # fmt: skip
    made = Postfix(room.port(), room.port())
    certificate, key = room.certificate()
    paths = {"directory": room.directory, "certificate": certificate, "key": key}
    room.write("conf/main.cf", MAIN.format(**paths))
    room.write("conf/master.cf", MASTER.format(port=made.port, tls_port=made.tls_port))
    for name in ("spool", "data"):
        (room.directory / name).mkdir()
    shutil.chown(room.directory / "data", "postfix")
    config = ("-c", room.directory / "conf")
    room.run("postfix", *config, "check")  # creates the queue directories
    with room.running("master", *config, "-d", ready=listening(made.port, made.tls_port)):
        yield made
