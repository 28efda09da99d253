"""`Authority`: a certificate authority for one test, with a web server for what authorities publish."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from tests.targets.streams import StreamServer

Key = ec.EllipticCurvePrivateKey
Page = bytes | str | None
"""What the web server answers at a path: a body, the location of a redirect, or nothing at all."""

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def days(number: float) -> datetime.timedelta:
    return datetime.timedelta(days=number)


def timestamps(*log_ids: bytes) -> x509.ExtensionType:
    """Return the extension with signed certificate timestamps of these logs (RFC 6962, 3.3), signed by no log."""
    signature = b"\x04\x03" + _sized(b"a signature")  # by ECDSA with SHA-256
    stamps = [b"\0" + log_id + (1_700_000_000_000).to_bytes(8, "big") + _sized(b"") + signature for log_id in log_ids]
    listed = _sized(b"".join(map(_sized, stamps)))
    size = len(listed)
    length = (
        bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")
    )
    return x509.UnrecognizedExtension(x509.PrecertificateSignedCertificateTimestamps.oid, b"\x04" + length + listed)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def a_name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


class Authority(StreamServer):
    """A root, its web server, and the certificates that it issues.

    Attributes:
        pages: by path; a path that is missing answers 404.
        requests: the paths that were requested.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.name = "root"
        self.key: Key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._sign(
            x509.CertificateBuilder()
            .subject_name(a_name(self.name))
            .public_key(self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )
        self.ca_file = directory / "authority.pem"
        self.ca_file.write_bytes(self.root.public_bytes(PEM))
        self.pages: dict[str, Page | Callable[[bytes], bytes]] = {}
        self.requests: list[str] = []

    def issue_intermediate(self, *extensions: x509.ExtensionType) -> Intermediate:
        """Issue the certificate of an authority, which then issues the certificates of servers."""
        may_issue = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self.issue(extensions=[may_issue, *extensions], name="intermediate")
        return Intermediate(self, certificate, self.key_of("intermediate"))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def _sign(
        self, builder: x509.CertificateBuilder, *, begins: float = -30.0, lasts: float = 90.0
    ) -> x509.Certificate:
        start = now() + days(begins)
        return (
            builder.issuer_name(a_name(self.name))
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + days(lasts))
            .sign(self.key, hashes.SHA256())
        )

    def issue(
        self, *urls: str, extensions: Iterable[x509.ExtensionType] = (), name: str = "leaf", **times: float
    ) -> x509.Certificate:
        """Issue a certificate for loopback that names these distribution points, and write it with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(a_name(name))
            .public_key(key.public_key())
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if urls:
            points = [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None) for url in urls]
            builder = builder.add_extension(x509.CRLDistributionPoints(points), critical=False)
        # The builder refuses what a hostile authority may issue, such as two extensions of one kind.
        builder._extensions += [x509.Extension(extension.oid, False, extension) for extension in extensions]
        certificate = self._sign(builder, **times)
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (self.directory / f"{name}.pem").write_bytes(certificate.public_bytes(PEM))
        (self.directory / f"{name}.key").write_bytes(key.private_bytes(PEM, *plain))
        return certificate

    def crl(
        self,
        *revoked: int,
        begins: float = -1.0,
        ends: float | None = 1.0,
        key: Key | None = None,
        encoding: serialization.Encoding = DER,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> bytes:
        """Return a list of serial numbers. Without `ends` it does not say when the next one is due."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(a_name(self.name))
        builder = builder.last_update(now() + days(begins)).next_update(now() + days(1.0 if ends is None else ends))
        when = now() + days(begins)
        # The builder copies its entries at each call, which takes minutes for a long list.
        builder._revoked_certificates = [
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build() for serial in revoked
        ]
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(key or self.key, hashes.SHA256()).public_bytes(encoding)

    def status(
        self,
        certificate: x509.Certificate,
        *,
        revoked: bool = False,
        unknown: bool = False,
        begins: float = -1.0,
        ends: float | None = 1.0,
        signer: tuple[x509.Certificate, Key] | None = None,
        shown: Sequence[x509.Certificate] = (),
    ) -> bytes:
        """Return an OCSP response about a certificate, signed by the root unless another signer is given."""
        by, key = signer or (self.root, self.key)
        status = ocsp.OCSPCertStatus.UNKNOWN if unknown else ocsp.OCSPCertStatus.GOOD
        builder = ocsp.OCSPResponseBuilder().add_response(
            certificate,
            self.root,
            hashes.SHA1(),  # identifies the issuer
            ocsp.OCSPCertStatus.REVOKED if revoked else status,
            now() + days(begins),
            None if ends is None else now() + days(ends),
            now() - days(1) if revoked else None,
            None,
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, by)
        if shown:
            builder = builder.certificates(list(shown))
        return builder.sign(key, hashes.SHA256()).public_bytes(DER)

    def key_of(self, name: str) -> Key:
        """Return the key of an issued certificate."""
        key = serialization.load_pem_private_key((self.directory / f"{name}.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ", 2)[1]
            self.requests.append(path)
            size = next(
                (int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length:")), 0
            )
            body = await reader.readexactly(size)
            page = self.pages.get(path, b"")
            if page is None:
                await asyncio.Event().wait()
            status, extra, content = "200 OK", "", page
            if path not in self.pages:
                status = "404 Not Found"
            if isinstance(page, str):
                status, extra, content = "302 Found", f"Location: {page}\r\n", b""
            elif callable(page):
                content = page(body)
            assert isinstance(content, bytes)
            writer.write(f"HTTP/1.1 {status}\r\n{extra}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Intermediate(Authority):
    """An authority below another one. It publishes on the web server of that one."""

    def __init__(
        self, above: Authority, certificate: x509.Certificate, key: Key
    ) -> None:  # it needs no root of its own
        self.directory = above.directory
        self.name = "intermediate"
        self.key = key
        self.root = certificate

    def issue(
        self, *urls: str, extensions: Iterable[x509.ExtensionType] = (), name: str = "leaf", **times: float
    ) -> x509.Certificate:
        """Issue a certificate, and write it with that of the authority."""
        certificate = super().issue(*urls, extensions=extensions, name=name, **times)
        with (self.directory / f"{name}.pem").open("ab") as file:
            file.write(self.root.public_bytes(PEM))
        return certificate


@asynccontextmanager
async def tls_server(directory: Path, name: str = "leaf", answer: bytes = b"") -> AsyncIterator[int]:
    """Serve TLS with a certificate of `Authority.issue`; yield the port.

    Args:
        answer: is sent after the head of a request; without it, the server waits for the client to close.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / f"{name}.pem", directory / f"{name}.key")
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if answer:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
            await reader.read()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
