"""`Session`: OpenSSL's end of a TLS connection, in memory, with the few calls that each handshake needs.

It takes the place of pyOpenSSL's connection, and raises its exceptions. pyOpenSSL keeps a weak reference for each
connection, wraps each certificate that is verified in two objects, raises an exception where OpenSSL needs more data,
and has a `__getattr__`, so that Python finds no attribute of a connection the quick way. Without all that a probe takes
5 % fewer instructions, OpenSSL's aside. pyOpenSSL has no public way around it, hence the private names.

OpenSSL calls `_judge` about each certificate while `shake` runs. Other threads may run a handshake meanwhile, so the
session is found by the address of its SSL object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

from OpenSSL import SSL
from OpenSSL._util import ffi, lib

Judge = Callable[["Session", Any, int, int, bool], bool]
"""Return whether verification goes on: of a session, an X509 object, an error code or 0, the depth in the chain, and
whether OpenSSL takes the certificate for good."""

new = ffi.new_allocator(should_clear_after_alloc=False)  # as `ffi.new`, for memory that is written at once

_RECORD_BYTES = 16384

_SSL_INDEX = lib.SSL_get_ex_data_X509_STORE_CTX_idx()

_shaking: dict[Any, Session] = {}
"""The sessions in `shake`, by their SSL objects."""


def verify_by_judge(context: SSL.Context) -> None:
    """Let a context verify peers, and the judge of each session decide."""
    lib.SSL_CTX_set_verify(context._context, SSL.VERIFY_PEER, _VERIFY_CALLBACK)  # noqa: SLF001  # see above


class Session:
    """One TLS client.

    Attributes:
        ssl: OpenSSL's object.
        judge: decides on certificates.
        problem: what the judge has raised, if it has.
    """

    __slots__ = ("_context", "_from_ssl", "_into_ssl", "judge", "problem", "ssl")

    def __init__(self, context: SSL.Context, judge: Judge) -> None:
        """
        Args:
            judge: is asked if the context was given to `verify_by_judge`.
        """
        self.ssl = ffi.gc(lib.SSL_new(context._context), lib.SSL_free)  # noqa: SLF001  # see above
        self._context = context
        self._into_ssl = lib.BIO_new(lib.BIO_s_mem())  # the SSL object frees them
        self._from_ssl = lib.BIO_new(lib.BIO_s_mem())
        lib.SSL_set_bio(self.ssl, self._into_ssl, self._from_ssl)
        lib.SSL_set_connect_state(self.ssl)
        self.judge = judge
        self.problem: Exception | None = None

    def send_server_name(self, name: str) -> None:
        """Name the server in the handshake (SNI).

        Raises:
            ValueError: it is not a name.
        """
        if not name.isascii() or "\0" in name:
            raise ValueError(f"{name!r} is not a server name")
        lib.SSL_set_tlsext_host_name(self.ssl, name.encode())

    def request_ocsp(self) -> None:
        """Ask the peer for a stapled OCSP response (RFC 6066, 8)."""
        lib.SSL_set_tlsext_status_type(self.ssl, lib.TLSEXT_STATUSTYPE_ocsp)

    def shake(self) -> bool:
        """Let OpenSSL go on with the handshake; return whether it is complete.

        Raises:
            SSL.Error: it failed.
            Exception: the judge raised it.
        """
        ssl = self.ssl
        _shaking[ssl] = self
        result = lib.SSL_do_handshake(ssl)
        del _shaking[ssl]
        if result == 1:
            return True
        if self.problem is not None:
            lib.ERR_clear_error()
            raise self.problem
        if lib.SSL_get_error(ssl, result) != lib.SSL_ERROR_WANT_READ:
            self._raise(result)
        return False

    def ignore_verification(self) -> None:
        """Let the handshake continue even if the verification that runs now fails."""
        lib.SSL_set_verify(self.ssl, SSL.VERIFY_NONE, ffi.NULL)

    def give(self, data: bytes) -> None:
        """Hand over bytes from the peer."""
        if lib.BIO_write(self._into_ssl, data, len(data)) != len(data):
            raise MemoryError

    def take(self) -> bytes:
        """Take all bytes for the peer."""
        bio = self._from_ssl
        size = lib.BIO_get_mem_data(bio, ffi.NULL)
        if not size:
            return b""
        data = new("char[]", size)
        lib.BIO_read(bio, data, size)
        taken: bytes = ffi.unpack(data, size)
        return taken

    def is_waiting(self) -> bool:
        """Return whether bytes from the peer are left, decrypted or not."""
        return bool(lib.BIO_get_mem_data(self._into_ssl, ffi.NULL) or lib.SSL_pending(self.ssl))

    def read_up_to(self, size: int) -> bytes | None:
        """Return the data of the next record; None if more has to be received first, ``b""`` after close_notify.

        Raises:
            SSL.Error: the peer sent an alert, or broke the protocol.
        """
        ssl = self.ssl
        data = new("char[]", size)
        found = lib.SSL_read(ssl, data, size)
        if found > 0:
            plain: bytes = ffi.unpack(data, found)
            return plain
        error = lib.SSL_get_error(ssl, found)
        if error == lib.SSL_ERROR_WANT_READ:
            return None
        if error != lib.SSL_ERROR_ZERO_RETURN:
            self._raise(found)
        return b""

    def write_all(self, data: bytes) -> None:
        """Encrypt data, record by record; nothing more after an error."""
        start = 0
        while start < len(data):
            piece = bytes(data[start : start + _RECORD_BYTES])
            written = lib.SSL_write(self.ssl, piece, len(piece))
            if written <= 0:
                lib.ERR_clear_error()
                break
            start += written

    def close(self) -> None:
        """Send close_notify, if the handshake is complete."""
        if lib.SSL_shutdown(self.ssl) < 0:
            lib.ERR_clear_error()

    def version(self) -> int:
        """Return the protocol version, such as 0x303; the highest on offer before the server has chosen."""
        return int(lib.SSL_version(self.ssl))

    def cipher(self) -> str:
        """Return OpenSSL's name of the cipher suite; empty before there is one."""
        cipher = lib.SSL_get_current_cipher(self.ssl)
        return "" if cipher == ffi.NULL else ffi.string(lib.SSL_CIPHER_get_name(cipher)).decode()

    def protocol(self) -> bytes:
        """Return the protocol agreed by ALPN; empty without one."""
        name, size = ffi.new("unsigned char **"), ffi.new("unsigned int *")
        lib.SSL_get0_alpn_selected(self.ssl, name, size)
        return bytes(ffi.buffer(name[0], size[0])) if size[0] else b""

    def _raise(self, result: int) -> NoReturn:
        """Raise pyOpenSSL's exception for a call that failed."""
        SSL.Connection._raise_ssl_error(cast("Any", self), self.ssl, result)  # noqa: SLF001  # see above
        raise SSL.Error  # it has raised already


def _judge(ok: int, store: Any) -> int:
    """Ask the session's judge about a certificate; return 1 if verification goes on, else 0."""
    session = _shaking[lib.X509_STORE_CTX_get_ex_data(store, _SSL_INDEX)]
    certificate = lib.X509_STORE_CTX_get_current_cert(store)
    code = 0 if ok else lib.X509_STORE_CTX_get_error(store)
    depth = lib.X509_STORE_CTX_get_error_depth(store)
    try:
        if not session.judge(session, certificate, code, depth, ok == 1):
            return 0
    except Exception as error:  # it can't pass through OpenSSL
        session.problem = error
        return 0
    lib.X509_STORE_CTX_set_error(store, lib.X509_V_OK)
    return 1


_VERIFY_CALLBACK = ffi.callback("int (*)(int, X509_STORE_CTX *)", _judge)
