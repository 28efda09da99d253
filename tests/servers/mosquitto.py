"""mosquitto: an MQTT broker with an anonymous port, a port that requires a password, and a TLS port."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import NOBODY, Room, listening, server

USER, PASSWORD = "probe", "hunter2"
READ_ONLY = "readonly/probe"
"""A topic that `USER` may only read; it may read and write `probe/…`, and nothing else."""
RIGHTS = f"""
user {USER}
topic readwrite probe/#
topic read {READ_ONLY}
"""

CONFIG = """
per_listener_settings true
log_dest stderr
persistence false

listener {port} 127.0.0.1
allow_anonymous true

listener {closed_port} 127.0.0.1
allow_anonymous false
password_file {passwords}
acl_file {rights}

listener {tls_port} 127.0.0.1
allow_anonymous true
certfile {certificate}
keyfile {key}
"""


@dataclass(frozen=True)
class Mosquitto:
    """A running mosquitto: the anonymous port, the port where `USER` logs in with `PASSWORD`, and the TLS port."""

    port: int
    closed_port: int
    tls_port: int


@server
def mosquitto(room: Room) -> Iterator[Mosquitto]:
    room.needs("mosquitto", "mosquitto_passwd")
    made = Mosquitto(room.port(), room.port(), room.port())
    certificate, key = room.certificate()
    passwords = room.directory / "passwords"
    room.run("mosquitto_passwd", "-c", "-b", passwords, USER, PASSWORD)
    config = room.write(
        "mosquitto.conf",
        CONFIG.format(port=made.port, closed_port=made.closed_port, tls_port=made.tls_port, passwords=passwords,
                      rights=room.write("rights", RIGHTS), certificate=certificate, key=key),
    )  # fmt: skip
    ready = listening(made.port, made.closed_port, made.tls_port)
    with room.running("mosquitto", "-c", config, ready=ready, user=NOBODY):
        yield made
