"""Make TLS contexts of `tls_config` settings, and share them between modules with equal settings.

A context is made in a thread. It takes 6 ms and 0.9 MB with the system's authorities, and 0.06 ms and up to 6 kB for
each certificate of a `ca_file`: 0.2 s and 17 MB for 3,000.

pyOpenSSL and not the standard library's ssl: it has the chain that the peer sent and the one that was verified, even if
verification failed, and its OpenSSL is newer and faster than most systems'.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from OpenSSL import SSL, crypto
from OpenSSL._util import lib as openssl

from probe_exporter.prober.failure import ProbeFailed, Reason, check_files
from probe_exporter.prober.sharing import shared_result
from probe_exporter.settings.fields import encode
from probe_exporter.tls import system_authorities, verifications
from probe_exporter.tls.certificates import UNREADABLE
from probe_exporter.tls.layer import Layer
from probe_exporter.tls.session import verify_by_judge
from probe_exporter.tls.settings import TLSSettings, TLSVersion
from probe_exporter.tls.suites import CIPHERS, GROUPS, TLS13_CIPHERS, VERSIONS
from probe_exporter.tls.verifications import Verifications


@dataclass(frozen=True, slots=True)
class Identity:
    """A client certificate with its chain and key."""

    certificate: x509.Certificate
    chain: Sequence[x509.Certificate]
    key: PrivateKeyTypes


class ClientContext:
    """A TLS context of some settings, for any number of connections."""

    def __init__(self, settings: TLSSettings, alpn: tuple[str, ...]) -> None:
        """
        Raises:
            ProbeFailed: a file or a key can't be used.
        """
        self._verifications = None if settings.insecure_skip_verify else Verifications()
        self._context, _ = make_context(settings, settings.min_version, settings.max_version)
        self._offers_alpn = bool(alpn)
        if alpn:
            self._context.set_alpn_protos([name.encode() for name in alpn])

    def layer(self, server_name: str) -> Layer:
        """Return a new TLS client that sends `server_name` (SNI, unless it is an address) and verifies it.

        Raises:
            ProbeFailed: there is no name to verify, or it is not valid.
        """
        if self._verifications is not None:
            check_verifiable(server_name)
        try:
            return Layer(self._context, server_name.rstrip("."), self._verifications, self._offers_alpn)
        except ValueError:
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{server_name!r} is not a server name") from None


def make_context(settings: TLSSettings, lowest: TLSVersion, highest: TLSVersion) -> tuple[SSL.Context, Identity | None]:
    if settings.min_version > settings.max_version:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE,
            f"tls_config: min_version {settings.min_version} is above max_version {settings.max_version}",
        )
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(VERSIONS[lowest])
    context.set_max_proto_version(VERSIONS[highest])
    # OpenSSL has TLS 1.0 and 1.1 at security level 0 only. Level 1 refuses the keys and hashes that Go refuses.
    level = 1 if lowest >= "TLS12" else 0
    context.set_cipher_list(f"{':'.join(CIPHERS)}:@SECLEVEL={level}".encode())
    context.set_tls13_ciphersuites(":".join(TLS13_CIPHERS).encode())
    # OpenSSL refuses servers without secure renegotiation (RFC 5746) by default; Go, and so the original, accepts them.
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_LEGACY_SERVER_CONNECT)
    # pyOpenSSL has no public method for it. OpenSSL's default would add an ML-KEM key: see docs/decisions.md.
    openssl.SSL_CTX_set1_curves_list(context._context, ":".join(GROUPS).encode())  # noqa: SLF001  # see above
    if not settings.insecure_skip_verify:
        _trust(context, settings)
        verify_by_judge(context)
    elif settings.ca or settings.ca_file:
        _read_authorities(settings)  # not used, but a file that can't be read is an error even so
    return context, _identify(context, settings)


def check_verifiable(server_name: str) -> None:
    if not server_name:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, "tls_config needs server_name or insecure_skip_verify for this target"
        )


def _trust(context: SSL.Context, settings: TLSSettings) -> None:
    """Load the authorities. Each certificate of theirs is a trust anchor: root, intermediate or leaf."""
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    if not (settings.ca or settings.ca_file):
        _trust_system(context)
        return
    for certificate in _longest_lived(_read_authorities(settings)):
        store.add_cert(crypto.X509.from_cryptography(certificate))


def _trust_system(context: SSL.Context) -> None:
    """Load the system's authorities: those that OpenSSL finds, and the others that Go, and so the original, finds."""
    context.set_default_verify_paths()
    for path in system_authorities.missed_by_openssl():
        with contextlib.suppress(SSL.Error):  # the file has no certificate, or can't be read
            context.load_verify_locations(os.fsencode(path))  # pyOpenSSL refuses a text that is not UTF-8
    for directory in system_authorities.directories():
        context.load_verify_locations(None, os.fsencode(directory))


def _longest_lived(authorities: Iterable[x509.Certificate]) -> Iterable[x509.Certificate]:
    """Return, of several certificates with the same name and key, the one that expires last, as Go chooses it."""
    best: dict[tuple[x509.Name, bytes], x509.Certificate] = {}
    for certificate in sorted(authorities, key=lambda authority: authority.not_valid_after_utc):
        key = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        best[certificate.subject, key] = certificate
    return best.values()


def _read_authorities(settings: TLSSettings) -> list[x509.Certificate]:
    pem = _read("ca", settings.ca, settings.ca_file)
    try:
        return x509.load_pem_x509_certificates(pem)
    except UNREADABLE:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "tls_config: ca holds no certificate in PEM form") from None


def _identify(context: SSL.Context, settings: TLSSettings) -> Identity | None:
    """Load the client's certificate, its chain and its key."""
    if not (settings.cert or settings.cert_file):
        return None
    key = settings.key.reveal()
    try:
        leaf, *chain = x509.load_pem_x509_certificates(_read("cert", settings.cert, settings.cert_file))
        context.use_certificate(leaf)
        for certificate in chain:
            context.add_extra_chain_cert(certificate)
        private = serialization.load_pem_private_key(_read("key", key, settings.key_file), password=None)
        context.use_privatekey(cast("Any", private))  # the annotation lacks some kinds of keys
        context.check_privatekey()
    except (SSL.Error, *UNREADABLE) as error:
        what = type(error).__name__  # the text might quote the key
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"tls_config: unusable cert or key ({what})") from None
    return Identity(leaf, chain, private)


def _read(key: str, inline: str, path: str) -> bytes:
    if inline:
        return encode(inline)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        check_files(error, f"reading {path}")
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, f"tls_config: {key}_file {path} can't be read: {error.strerror}"
        ) from None


Stamp = tuple[tuple[int, int, int], ...]

Context = TypeVar("Context")

MAX_CONTEXTS = 256
"""A configuration rarely needs ten. If a module's parameters are part of ``tls_config``, requests add more."""

MAX_CONTEXTS_BYTES = 256 << 20
"""Estimated bytes of all contexts that are kept. The newest context is kept even if it alone takes more."""

_CONTEXT_BYTES = 14 << 10  # without authorities
_SYSTEM_BYTES = 1 << 20  # of the system's 150 authorities
_BYTES_OF_ONE = 9  # of memory, for each byte of a file with authorities; 4 if they have RSA keys

_contexts: dict[Hashable, tuple[Stamp, object, int]] = {}
"""The contexts with their estimated bytes, the one that was used last at the end."""


class _Making:
    """A context that a thread makes now, or as soon as one is free.

    Attributes:
        result: the context.
        waiting: the number of probes that wait for it.
        begun: whether a thread has begun.
    """

    __slots__ = ("_make", "begun", "result", "waiting")

    def __init__(self, make: Callable[[], object]) -> None:
        self.waiting = 0
        self.begun = False
        self._make = make
        self.result = asyncio.get_running_loop().run_in_executor(None, self._begin)

    def _begin(self) -> object:
        self.begun = True
        return self._make()


_making: dict[Hashable, _Making] = {}
"""The contexts that threads make. Part of the key is the event loop that waits for it."""


def client_context(settings: TLSSettings, alpn: tuple[str, ...]) -> Coroutine[Any, Any, ClientContext]:
    """Return a client's context for some settings: see `loading.client_context`."""
    return remembered(alpn, settings, lambda: ClientContext(settings, alpn))


async def remembered(kind: Hashable, settings: TLSSettings, make: Callable[[], Context]) -> Context:
    """Return the context of this kind for some settings; it is made once, and again after one of its files has changed.

    Modules with equal settings share one, so that a thousand modules load the system's authorities once.

    Args:
        make: is called in a thread, if the context is not among those used last.

    Raises:
        ProbeFailed: the settings can't be used.
    """
    for source in settings.references:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"tls_config: {source} needs a secret manager: none here")
    stamp = tuple([_stamp(setting, path) for setting, path in settings.files])
    key = (settings.context_key, kind)
    known = _contexts.pop(key, None)
    if known is None or known[0] != stamp:
        return await _make(key, stamp, _estimated_bytes(settings, stamp), make)
    _contexts[key] = known
    return cast("Context", known[1])


def _estimated_bytes(settings: TLSSettings, stamp: Stamp) -> int:
    """Estimate the memory that a context will take: right for small certificates, twice too much for RSA keys."""
    if settings.insecure_skip_verify:
        return _CONTEXT_BYTES
    if not (settings.ca or settings.ca_file):
        return _CONTEXT_BYTES + _SYSTEM_BYTES
    return _CONTEXT_BYTES + _BYTES_OF_ONE * (len(settings.ca) + sum([size for _, size, _ in stamp]))


async def _make(key: Hashable, stamp: Stamp, size: int, make: Callable[[], Context]) -> Context:
    """Make a context in a thread, or wait for the thread that makes it for another probe.

    If all probes that wait are cancelled, a thread that has begun ends its work, for later probes. One that has not
    does not begin: parameters of requests may ask for contexts faster than threads make them.
    """
    work = (asyncio.get_running_loop(), key, stamp)
    making = _making.get(work)
    if making is None:
        _making[work] = making = _Making(make)
        making.result.add_done_callback(lambda made: _keep(work, made, size))
    making.waiting += 1
    try:
        return cast("Context", await shared_result(making.result))
    except ProbeFailed as failed:  # an exception of its own, because other probes raise this one too
        raise type(failed)(failed.reason, failed.message) from None
    finally:
        making.waiting -= 1
        if not (making.waiting or making.begun) and making.result.cancel() and _making.get(work) is making:
            del _making[work]


def _keep(work: tuple[object, Hashable, Stamp], made: asyncio.Future[Any], size: int) -> None:
    """Keep a context, unless it could not be made, or the configuration has changed meanwhile."""
    usable = not made.cancelled() and made.exception() is None  # asyncio logs an exception that no task has asked for
    making = _making.get(work)
    if making is None or making.result is not made:
        return
    del _making[work]
    if not usable:
        return
    _, key, stamp = work
    _contexts.pop(key, None)
    _drop_least_used(MAX_CONTEXTS - 1, MAX_CONTEXTS_BYTES - size)
    _contexts[key] = stamp, made.result(), size


def _drop_least_used(number: int, size: int) -> None:
    """Drop the contexts that were not used for longest, until so many are left, and of so many estimated bytes."""
    kept = sum([one for _, _, one in _contexts.values()])
    while _contexts and (len(_contexts) > number or kept > size):
        kept -= _contexts.pop(next(iter(_contexts)))[2]


def forget_contexts() -> None:
    """Drop every context with its verifications, when the configuration changes; the next probes make new ones."""
    _contexts.clear()
    _making.clear()
    verifications.memory.forget()


def _stamp(key: str, path: str) -> tuple[int, int, int]:
    """Return what changes when a file does."""
    try:
        status = os.stat(path)  # noqa: PTH116  # runs for each probe, and a Path takes longer than the system call
    except OSError as error:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, f"tls_config: {key}_file {path} can't be read: {error.strerror}"
        ) from None
    return status.st_ino, status.st_size, status.st_mtime_ns
