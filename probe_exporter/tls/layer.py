"""A TLS client without I/O, and the verification of the peer's certificates, which collects all errors.

How verification works:

* OpenSSL checks the chain and calls `Check.judge` for each error and for each certificate that is good. An error is
  noted, and verification continues, so that all errors are found: expired, and by an unknown authority.
* The last call is about the peer's own certificate (depth 0). There the name is compared by Go's rules
  (`name_matching`), and the handshake is refused if anything was wrong, so that OpenSSL sends the alert.
* Where OpenSSL's verdict is not Go's (`_is_for_servers`), Go's counts.
* The first certificate that is good is the authority; no signature is checked before. If the same certificates
  verified not long ago, OpenSSL is told there to stop, and not to refuse the handshake for it (`Check.recall`).
* At the first call the peer's keys are known. If it would take too long to verify signatures by them, the handshake is
  refused (`Check.has_slow_keys`).
* If verification failed, `VerificationFailed` has the handshake as far as it went, for metrics.

Received data is decrypted in limited steps: `decrypt`, `behind`.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

from probe_exporter.addresses import literals
from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.tls import chain
from probe_exporter.tls.certificates import Certificate
from probe_exporter.tls.handshake import MAX_QUICK_HANDSHAKE_BYTES, Handshake, VerificationFailed
from probe_exporter.tls.session import Session
from probe_exporter.tls.suites import IANA_NAMES, VERSION_NAMES, cipher_of_hello
from probe_exporter.tls.verifications import Verifications

# OpenSSL's verification errors (x509_vfy.h) as values of the label of `probe_ssl_verify_error_info`.
_VERIFY_ERRORS = {
    2: "unknown_authority",  # no issuer for a certificate further up
    18: "unknown_authority",  # self-signed
    19: "unknown_authority",  # self-signed root that is not trusted
    20: "unknown_authority",  # no issuer here
    21: "unknown_authority",  # a lone certificate
    27: "unknown_authority",  # untrusted
    9: "not_yet_valid",
    10: "expired",
    7: "bad_signature",
    22: "chain_too_long",
    23: "revoked",
    79: "not_an_authority",  # an issuer that may not be one
    25: "path_too_long",
    26: "wrong_purpose",
    47: "name_constraint",
    66: "weak_key",
    67: "weak_key",
    68: "weak_signature",
}
_VERDICTS = {
    "expired": (Reason.CERTIFICATE_EXPIRED, "a certificate of the peer has expired"),
    "not_yet_valid": (Reason.CERTIFICATE_NOT_YET_VALID, "a certificate of the peer is not valid yet"),
    "wrong_name": (Reason.CERTIFICATE_WRONG_NAME, "the certificate is not for {name}"),
    "unknown_authority": (
        Reason.CERTIFICATE_UNKNOWN_AUTHORITY,
        "the certificate is signed by an unknown authority",
    ),
}
"""The errors that have a reason of their own; the first that applies is the probe's. All others are "invalid"."""

_INVALID_PURPOSE = 26

MAX_QUICK_MILLISECONDS = 12.0
"""The time of a chain's slow keys up to which it is verified on the event loop: a turn may take 20 ms. It is more than
that of a dozen Brainpool keys. Where a chain takes more, OpenSSL can't continue in a thread, so it is refused."""

MAX_FAULTS = 32
"""Errors kept with their certificates; a peer chooses how many certificates it sends."""

_PRECEDENCE = tuple(_VERDICTS)

_MAX_READ_BYTES = 16384  # a record; a buffer of more than 64 KiB makes the C library tidy its heap up when it is freed

MAX_TURN_RECORDS = 2000
"""Records with data that are decrypted in one turn of the event loop: about 3 ms if they are tiny."""

_FEW_RECORDS = 8
"""Records of a turn after which `decrypt` finds out whether there is more. That takes less than to read in vain, and
more than to read a record."""

_PIECE_BYTES = 16384
"""Bytes given to OpenSSL at once. It processes messages without data by itself: up to 4 ms if all are key updates."""

_SMALL_PIECE_BYTES = 4096
"""Bytes given to OpenSSL at once while it returns no data, which is also the case in the middle of a record."""

_IDLE_PIECE_RECORDS = 1000
"""The number of records that such a piece counts as, after more than one record without data."""

MAX_IDLE_BYTES = 131072
"""Bytes of messages without data (session tickets, key updates) between data; a server needs a few hundred."""
_NAMELESS = "it has no subjectAltName, and a common name does not count"
_HELLO_SIZE = 78  # the most of a ServerHello up to the suite


class Check:
    """One verification of a peer's certificates.

    Attributes:
        errors: values of the label of `probe_ssl_verify_error_info`.
        faults: the errors with the SHA-256 fingerprints of their certificates, in hex; the peer's own has none.
        complete: whether the peer's own certificate has been checked, which comes last.
        sent: the certificates of the peer, if they have been read; None before.
        verified: the chain of an earlier verification; None if this one was not left out.
    """

    __slots__ = ("_nameless", "_verifications", "complete", "errors", "faults", "sent", "server_name", "verified")

    def __init__(self, server_name: str, verifications: Verifications | None = None) -> None:
        self.server_name = server_name
        self._verifications = verifications
        self.sent: tuple[Certificate, ...] | None = None
        self.verified: tuple[Certificate, ...] | None = None
        self.errors: list[str] = []
        self.faults: list[tuple[str, str]] = []
        self.complete = False
        self._nameless = ""  # why the certificate is valid for no name at all

    def judge(self, session: Session, certificate: Any, code: int, depth: int, ok: bool) -> bool:
        """Note an error and go on; at the peer's own certificate, return the verdict.

        A verification that is recalled ends at once. OpenSSL takes it for failed, which `ignore_verification` is for.

        Raises:
            ProbeFailed: the peer sent a certificate that can't be read.
        """
        if self.sent is None:  # the first call, before any signature is checked
            self.sent = chain.sent(session)
            if ok and depth and self.recall(depth):
                session.ignore_verification()
                return False
            if self.has_slow_keys():
                return False
        if not ok:
            if code != _INVALID_PURPOSE or not _is_for_servers(certificate, depth):
                self.note(code, certificate)
            return True
        return depth > 0 or self.check_name(chain.read(certificate))

    def note(self, code: int, certificate: Any) -> None:
        """Add an error of OpenSSL's verification."""
        word = _VERIFY_ERRORS.get(code, f"error_{code}")
        if len(self.faults) < MAX_FAULTS:
            self.faults.append((chain.fingerprint(certificate).hex(), word))
        if word not in self.errors:
            self.errors.append(word)

    def check_name(self, leaf: Certificate | None) -> bool:
        """Compare the name with the certificate; return whether there is no error at all."""
        self.complete = True
        if leaf is None or not leaf.is_for(self.server_name):
            self.errors.append("wrong_name")
            if leaf is not None and not leaf.has_alternative_names:
                self._nameless = _NAMELESS if leaf.has_readable_extensions else "its extensions can't be read"
        return not self.errors

    def has_slow_keys(self) -> bool:
        """Note an error and return True if the signatures of the chain take too long to verify on the event loop."""
        sent = self.sent or ()
        slow = [certificate for certificate in sent if certificate.key_milliseconds]
        if sum([certificate.key_milliseconds for certificate in slow]) <= MAX_QUICK_MILLISECONDS:
            return False
        if sum([certificate.size for certificate in sent]) > MAX_QUICK_HANDSHAKE_BYTES:
            return False  # this is a thread
        self.faults += [(certificate.fingerprint.hex(), "slow_key") for certificate in slow[:MAX_FAULTS]]
        self.errors.append("slow_key")
        self.complete = True
        return True

    def recall(self, depth: int) -> bool:
        """Return whether the certificates verified not long ago, for any name, and are for this one.

        Args:
            depth: the place of the authority in the chain that OpenSSL has found.
        """
        if self._verifications is None or self.sent is None:
            return False
        found = self._verifications.find(self.sent)
        if found is None or len(found.links) != depth + 1 or not self.sent[0].is_for(self.server_name):
            return False
        self.verified = found.chain(self.sent)
        self.complete = True
        return True

    def failure(self, handshake: Handshake) -> VerificationFailed:
        """Return the failure for the errors found."""
        first = min(self.errors, key=lambda word: _PRECEDENCE.index(word) if word in _VERDICTS else len(_VERDICTS))
        reason, sentence = _VERDICTS.get(
            first, (Reason.CERTIFICATE_INVALID, f"the certificate does not verify ({first})")
        )
        message = sentence.format(name=self.server_name)
        if first == "wrong_name" and self._nameless:
            message += f": {self._nameless}"
        return VerificationFailed(reason, message, handshake)


class Layer:
    """A TLS client without I/O: bytes from the peer go in; bytes for the peer, and plain text, come out."""

    __slots__ = (
        *("_check", "_hello", "_idle", "_offers_alpn", "_requests_ocsp", "_session", "_unread", "_verifications"),
        *("behind", "ended", "failure", "handshake"),
    )

    def __init__(
        self, context: SSL.Context, server_name: str, verifications: Verifications | None, offers_alpn: bool
    ) -> None:
        """
        Args:
            verifications: the successes with the context; None if it does not verify.
            offers_alpn: whether the context offers protocols.
        """
        self._verifications = verifications
        self._offers_alpn = offers_alpn
        self._requests_ocsp = False
        self._check = Check(server_name, verifications)
        self._session = Session(context, self._check.judge)
        self._hello = b""  # what the peer sent first
        self._unread = bytearray()  # received, and not given to OpenSSL yet
        self._idle = 0  # bytes given to OpenSSL since it returned data
        self.handshake: Handshake | None = None
        self.behind = False  # received data is left to decrypt in another turn of the event loop
        self.ended = False  # the peer has sent close_notify
        self.failure: ProbeFailed | None = None  # the peer sent an alert, or broke the protocol
        if server_name and literals.literal(server_name) is None:
            self._session.send_server_name(to_ascii(server_name))

    def request_ocsp(self) -> None:
        """Ask the peer for a stapled OCSP response (RFC 6066, 8), before the handshake."""
        self._session.request_ocsp()
        self._requests_ocsp = True

    def advance(self, data: bytes) -> bool:
        """Take handshake bytes from the peer; return whether the handshake is complete.

        Raises:
            ProbeFailed: it failed; `outgoing` then has the alert for the peer.
        """
        if data:
            if len(self._hello) < _HELLO_SIZE:
                self._hello += data
            self._session.give(data)
        try:
            if not self._session.shake():
                return False
        except SSL.Error as error:
            if self._check.errors:
                raise self._check.failure(self._observe()) from None
            raise ProbeFailed(Reason.TLS_HANDSHAKE, f"the TLS handshake failed: {describe(error)}") from None
        if self._verifications is not None and not self._check.complete:
            self._check.check_name(next(iter(chain.sent(self._session)), None))
        if self._check.errors:
            self._drop_outgoing()
            raise self._check.failure(self._observe())
        self.handshake = self._observe()
        if self._verifications is not None and self._check.verified is None:
            self._verifications.add(self.handshake.sent, self.handshake.verified or ())
        return True

    def decrypt(self, data: bytes) -> bytes:
        """Return the plain text of what the peer sent, up to a `failure`; nothing more after one.

        It may leave some of the data for the next call: then `behind` is true.
        """
        if self.failure is not None:
            return b""
        self._unread += data
        if not self.has_more():
            self.behind = False
            return b""
        plain: list[bytes] = []
        work = self._give_piece()
        try:
            while work < MAX_TURN_RECORDS:
                record = self._session.read_up_to(_MAX_READ_BYTES)
                if record:
                    plain.append(record)
                    self._idle = 0
                    work += 1
                    if work <= _FEW_RECORDS and not self.has_more():
                        break
                elif record is not None:
                    self.ended = True
                    self._unread.clear()
                    break
                elif self._unread:
                    work += self._give_piece()
                else:
                    break
            self.behind = work >= MAX_TURN_RECORDS and self.failure is None
        except SSL.Error as error:
            self._fail(describe(error))
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def _give_piece(self) -> int:
        """Give OpenSSL more of the received data; return the number of records that it counts as."""
        size = _SMALL_PIECE_BYTES if self._idle else _PIECE_BYTES
        piece = bytes(self._unread[:size])
        if not piece:
            return 0
        del self._unread[:size]
        counted = _IDLE_PIECE_RECORDS if self._idle >= _PIECE_BYTES + _SMALL_PIECE_BYTES else 0
        self._idle += len(piece)
        if self._idle > MAX_IDLE_BYTES:
            self._fail(f"the peer sent more than {MAX_IDLE_BYTES} bytes of messages without data")
            return MAX_TURN_RECORDS
        self._session.give(piece)
        return counted

    def _fail(self, what: str) -> None:
        self.failure = ProbeFailed(Reason.TLS_HANDSHAKE, f"TLS broke: {what}")
        self.behind = False
        self._unread.clear()

    def encrypt(self, data: bytes) -> bytes:
        """Return `data` as records for the peer; nothing after a `failure`."""
        self._session.write_all(data)
        return self.outgoing()

    def outgoing(self) -> bytes:
        """Return the bytes to send to the peer; may be empty."""
        return self._session.take()

    def has_more(self) -> bool:
        """Return whether there is received data that has not been returned."""
        return bool(self._unread) or self._session.is_waiting()

    def close(self) -> None:
        """Send close_notify."""
        self._session.close()

    def _drop_outgoing(self) -> None:
        """Drop what OpenSSL would send after a handshake that we refuse, such as a client certificate."""
        self.outgoing()

    def _observe(self) -> Handshake:
        session, check = self._session, self._check
        name = session.cipher()
        sent = chain.sent(session) if check.sent is None else check.sent
        verified = check.verified
        if verified is None and self._verifications is not None and not check.errors:
            verified = chain.verified(session)
        if sent:
            _ = sent[0].labels  # a cached property: of a large certificate this takes long, and we may be in a thread
        return Handshake(
            version=VERSION_NAMES.get(session.version(), "unknown"),
            cipher=IANA_NAMES.get(name, name) if name else cipher_of_hello(self._hello),
            sent=sent,
            verified=verified,
            verify_errors=tuple(check.errors),
            faults=tuple(check.faults),
            protocol=session.protocol().decode("ascii", "replace") if self._offers_alpn else "",
            stapled=chain.stapled(session) if self._requests_ocsp else None,
        )


def _is_for_servers(certificate: Any, depth: int) -> bool:
    """Whether Go takes a certificate that OpenSSL says is for other purposes.

    Go knows "any" as an extended key usage, and does not look at the key usage of the server's own certificate.
    """
    known = chain.read(certificate)
    return known.is_for_servers if depth == 0 else known.is_for_anything


def describe(error: SSL.Error) -> str:
    """Return OpenSSL's text for an error, without the names of its functions."""
    if isinstance(error, SSL.SysCallError):
        return "the connection ended"
    reasons = [entry[-1] for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(dict.fromkeys(reason for reason in reasons if reason)) or "no reason given"
