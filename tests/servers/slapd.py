"""OpenLDAP (slapd): a small directory over LDAP with StartTLS and over LDAPS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import NOBODY, Room, listening, server

BASE = "dc=example,dc=test"
USER, PASSWORD = f"cn=probe,{BASE}", "hunter2"
PEOPLE = f"ou=people,{BASE}"
"""The parent of three entries: Ann, Bob and Cid."""
ELSEWHERE = "dc=elsewhere"
"""A suffix that the server refers to another server."""

CONFIG = """
include /etc/ldap/schema/core.schema
modulepath /usr/lib/ldap
moduleload back_mdb
referral ldap://127.0.0.1:1
pidfile {directory}/pid
argsfile {directory}/args
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
database mdb
directory {directory}/data
suffix "{base}"
rootdn "cn=admin,{base}"
access to attrs=userPassword by anonymous auth by * none
access to * by * read
"""
ENTRIES = f"""
dn: {BASE}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: {USER}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: probe
userPassword: {PASSWORD}

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people
""" + "".join(
    f"""
dn: cn={name},{PEOPLE}
objectClass: person
cn: {name}
sn: Doe
"""
    for name in ("Ann", "Bob", "Cid")
)


@dataclass(frozen=True)
class Slapd:
    """A running slapd: `USER` binds with `PASSWORD`, anonymous clients may read. The ports of LDAP and LDAPS."""

    port: int
    tls_port: int


@server
def slapd(room: Room) -> Iterator[Slapd]:
    room.needs("slapd", "slapadd", files=("/etc/ldap/schema/core.schema", "/usr/lib/ldap/back_mdb*"))
    made = Slapd(room.port(), room.port())
    certificate, key = room.certificate()
    (room.directory / "data").mkdir()
    text = CONFIG.format(directory=room.directory, certificate=certificate, key=key, base=BASE)
    config = room.write("slapd.conf", text)
    room.run("slapadd", "-f", config, stdin=ENTRIES, user=NOBODY)
    urls = f"ldap://127.0.0.1:{made.port} ldaps://127.0.0.1:{made.tls_port}"
    ready = listening(made.port, made.tls_port)
    with room.running("slapd", "-d", "stats", "-f", config, "-h", urls, ready=ready, user=NOBODY):
        yield made
