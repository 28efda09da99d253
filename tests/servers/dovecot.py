"""dovecot: IMAP and POP3, with STARTTLS and with implicit TLS; every user has the same empty mailbox."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from tests.servers import NOBODY, Room, listening, server

PASSWORD = "hunter2"
"""The password of every user."""

CONFIG = """
base_dir = {directory}/run
state_dir = {directory}/state
log_path = /dev/stderr
protocols = imap pop3
listen = 127.0.0.1
{users}
login_greeting = Dovecot ready.
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
mail_location = maildir:{directory}/mail
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={directory}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{  # no delay after a wrong password
    mode = 0
  }}
}}
"""
USERS = """
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
"""


@dataclass(frozen=True)
class Dovecot:
    """A running dovecot: its ports with STARTTLS (STLS in POP3), and its ports with implicit TLS."""

    imap: int
    imaps: int
    pop3: int
    pop3s: int


@server
def dovecot(room: Room) -> Iterator[Dovecot]:
    room.needs(
        "dovecot", users=("dovecot", "dovenull"), groups=("nogroup",),
        files=("/usr/lib*/dovecot/**/imap-login", "/usr/lib*/dovecot/**/pop3-login"),
    )  # fmt: skip
    made = Dovecot(*(room.port() for _ in range(4)))
    certificate, key = room.certificate()
    # Root can use the users of the package; any other user runs everything itself.
    me = {"user": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
    users = "" if os.geteuid() == 0 else USERS.format(**me)
    owner = {"user": NOBODY, "group": "nogroup"} if os.geteuid() == 0 else me
    paths = {"directory": room.directory, "certificate": certificate, "key": key}
    text = CONFIG.format(**paths, **owner, users=users, password=PASSWORD, **asdict(made))
    config = room.write("dovecot.conf", text)
    mail = room.directory / "mail"
    mail.mkdir()
    shutil.chown(mail, owner["user"])
    ports = (made.imap, made.imaps, made.pop3, made.pop3s)
    with room.running("dovecot", "-F", "-c", config, ready=listening(*ports)):
        yield made
