"""What the judge of a session raises comes out of `shake`, and concerns no other session of the context."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from OpenSSL import SSL

from probe_exporter.tls.context import make_context
from probe_exporter.tls.session import Session
from probe_exporter.tls.settings import TLSSettings
from tests.targets import Pki


class Server:
    """A TLS server in memory."""

    def __init__(self, pki: Pki) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._connection = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def answer(self, data: bytes) -> bytes:
        """Return what it sends after `data` of a client's handshake."""
        self._incoming.write(data)
        try:
            self._connection.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()


def asked(session: Session, server: Server) -> None:
    """Take the handshake to where the session has the server's certificate."""
    assert not session.shake()
    session.give(server.answer(session.take()))


def agree(session: Session, certificate: Any, code: int, depth: int, ok: bool) -> bool:
    return True


def test_judge_that_raises_ends_its_own_handshake_alone(pki: Pki) -> None:
    def fail(session: Session, certificate: Any, code: int, depth: int, ok: bool) -> bool:
        raise LookupError("of the judge")

    context, _ = make_context(TLSSettings(ca_file=str(pki.directory / "root.pem")), "TLS12", "TLS13")
    bad, good = Session(context, fail), Session(context, agree)
    for session in (bad, good):
        asked(session, Server(pki))
    with pytest.raises(LookupError, match="of the judge"):
        bad.shake()
    assert good.shake()
    assert good.version() == SSL.TLS1_3_VERSION


def test_refusal_by_the_judge_ends_the_handshake_with_an_alert(pki: Pki) -> None:
    context, _ = make_context(TLSSettings(ca_file=str(pki.directory / "root.pem")), "TLS12", "TLS12")
    session = Session(context, lambda *_: False)
    asked(session, Server(pki))
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        session.shake()
    assert session.take()[:1] == b"\x15"
