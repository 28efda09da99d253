"""The certificate_file prober: read certificates from files of the exporter's machine, and report when they expire.

A target is the path of a file or of a directory. The module's `directories` are the only ones that are read:

* A path with a component ``..``, or one that does not begin with a directory, is refused before anything looks at it:
  looking at a path may mount a file system.
* Symbolic links are followed, and then the real path has to be below one of the directories too: Kubernetes mounts
  secrets as links within one directory.
* The real path is opened component by component without following links, so that a link that another process puts there
  in the meantime is an error.
* Only regular files are read, at most `MAX_FILE_BYTES` each, `MAX_FILES` of a directory, `MAX_BYTES` in all.
* A file of a directory that can't be used fails the probe, and the other files are reported.

Files are read and parsed in a thread. PKCS#12 is decrypted in a helper process: the file chooses how long that takes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import OwnReason, ProbeFailed, Reason
from probe_exporter.prober.files import MAX_SECRET_BYTES, read_file
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.settings.fields import FilePath
from probe_exporter.settings.rules import exclusive, required
from probe_exporter.settings.secrets import Secret
from probe_exporter.tls import certificates
from probe_exporter.tls.certificates import Certificate, earliest_expiry
from probe_exporter.tls.handshake import Handshake
from probe_exporter.tls.metrics import CERTIFICATE_INFO, EARLIEST_EXPIRY
from probe_exporter.tls.settings import CertificateSettings
from probe_exporter.values import pool

MAX_FILE_BYTES = 1 << 20
MAX_BYTES = 16 << 20
MAX_FILES = 256
MAX_ENTRIES = 4096
"""Entries of a directory that are looked at."""
MAX_CERTIFICATES = 4096
"""Certificates of all files."""
MAX_CERTIFICATE_BYTES = 64 << 10
"""Bytes of one certificate: 3,000 names. Parsing holds the interpreter's lock, so a larger one would block the event
loop for too long, even from a thread."""

SUFFIXES = (".pem", ".crt", ".cer", ".cert", ".der", ".p12", ".pfx")
"""Names of files in a directory that are read; other files, such as keys, are not opened."""

UNREADABLE = OwnReason(
    "certificate_file_unreadable",
    "A file does not exist, or the exporter may not read it.",
    advice="Check the path, and that the user of the exporter may read the file and enter its directories.",
)
INVALID = OwnReason(
    "certificate_file_invalid",
    "A file holds no certificate that can be parsed, or the password of a PKCS#12 file is wrong.",
    advice="`openssl x509 -in FILE -noout -text` or `openssl pkcs12 -in FILE -nokeys` shows what the file holds.",
)
TOO_LARGE = OwnReason(
    "certificate_file_too_large",
    "A file, or a directory, is larger than the prober reads.",
    advice="Probe files one by one, or move other files to another directory.",
)

FILES = Metric("probe_certificate_file_files", "Number of files that were read.")
COUNT = Metric("probe_certificate_file_certificates", "Number of certificates in all files.")
EXPIRY = Metric(
    "probe_certificate_file_expiry_timestamp_seconds",
    "Earliest expiry of the certificates in a file, in Unix seconds.",
    ("file",),
)
NOT_BEFORE = Metric(
    "probe_certificate_file_not_before_timestamp_seconds",
    "Start of the validity of the first certificate in a file, in Unix seconds.",
    ("file",),
)


class CertificateFileSettings(CertificateSettings):
    """The ``certificate_file`` block of a module. Its other keys examine the chain of a target that is one file.

    Args:
        directories: the only directories whose files are read, with all below them.
        password: of PKCS#12 files.
        password_file: file with that password.
    """

    rules = (required("directories"), exclusive("password", "password_file"))
    directories: tuple[FilePath, ...]
    password: Secret = Secret("")
    password_file: FilePath = ""


class _File(NamedTuple):
    """A file that was read; its name is `printable`."""

    name: str
    data: bytes


class _Read(NamedTuple):
    """What was read: files, and for each other file of a directory why it was not."""

    files: list[_File]
    failures: list[ProbeFailed]


async def probe_certificate_file(probe: Probe, settings: CertificateFileSettings) -> None:
    """Reads certificates from a file or a directory of the exporter's machine."""
    with probe.phase("read") as phase:
        phase.about = probe.target
        files, failures = await asyncio.to_thread(read_target, probe.target, settings.directories)
        for failure in failures:
            probe.log("Can't use a file", level=logging.WARNING, err=failure.message)
            probe.fail(failure)
        password = await asyncio.to_thread(_password, settings)
    probe.set(FILES, len(files))
    with probe.phase("validation"):
        _report(probe, await _parse_all(probe, files, password))


async def _parse_all(probe: Probe, files: Sequence[_File], password: str) -> list[tuple[str, Sequence[Certificate]]]:
    """Return the certificates of each file that holds any.

    Raises:
        ProbeFailed: they are more than `MAX_CERTIFICATES`.
    """
    chains, count = [], 0
    for file in files:
        chain = await _parse(probe, file, password)
        count += len(chain)
        if count > MAX_CERTIFICATES:
            raise ProbeFailed(TOO_LARGE, f"there are more than {MAX_CERTIFICATES} certificates")
        if chain:
            chains.append((file.name, chain))
    return chains


async def _parse(probe: Probe, file: _File, password: str) -> Sequence[Certificate]:
    """Return the certificates of a file; none, and a failed probe, if it holds none."""
    if b"-----BEGIN" in file.data:
        found = await asyncio.to_thread(parse_pem, file.data)
    else:
        found = await asyncio.to_thread(parse_der, file.data)
        if isinstance(found, str):
            try:
                found = await pool.run(parse_pkcs12, [file.data], password)
            except pool.HelperFailed as failed:
                found = str(failed)
    if isinstance(found, str):
        return _skip(probe, ProbeFailed(INVALID, f"{file.name}: {found}"))
    if max(map(len, found)) > MAX_CERTIFICATE_BYTES:
        message = f"{file.name}: a certificate has more than {MAX_CERTIFICATE_BYTES} bytes"
        return _skip(probe, ProbeFailed(TOO_LARGE, message))
    chain = await asyncio.to_thread(read_chain, found)
    if isinstance(chain, str):
        return _skip(probe, ProbeFailed(INVALID, f"{file.name}: {chain}"))
    return chain


def _skip(probe: Probe, failure: ProbeFailed) -> Sequence[Certificate]:
    probe.log("Can't use a file", level=logging.WARNING, err=failure.message)
    probe.fail(failure)
    return ()


def _report(probe: Probe, chains: Sequence[tuple[str, Sequence[Certificate]]]) -> None:
    probe.set(COUNT, sum(len(chain) for _, chain in chains))
    if not chains:
        if probe.failure is None:
            raise ProbeFailed(INVALID, "the directory holds no certificates")
        return
    everything = [one for _, chain in chains for one in chain]
    probe.set(EARLIEST_EXPIRY, earliest_expiry(everything))
    for name, chain in chains:
        probe.set(CERTIFICATE_INFO, 1, *chain[0].labels)
        probe.set(EXPIRY, earliest_expiry(chain), name)
        probe.set(NOT_BEFORE, chain[0].summary.not_before, name)
        _judge(probe, name, chain)
    if len(chains) == 1:
        probe.handshake = Handshake("", "", chains[0][1], None)  # for the keys that examine a chain


def _judge(probe: Probe, name: str, chain: Sequence[Certificate]) -> None:
    """Fail the probe if a certificate has expired, or the first is not valid yet."""
    now = time.time()
    if earliest_expiry(chain) < now:
        probe.fail(ProbeFailed(Reason.CERTIFICATE_EXPIRED, f"{name}: a certificate has expired"))
    elif chain[0].summary.not_before > now:
        probe.fail(ProbeFailed(Reason.CERTIFICATE_NOT_YET_VALID, f"{name}: the certificate is not valid yet"))


# --- reading -----------------------------------------------------------------------------------------------


def read_target(target: str, directories: Sequence[str]) -> _Read:
    """Return the files of a target: the file itself, or those of the directory whose names end in `SUFFIXES`.

    Args:
        target: an absolute path, or a path below the first of the directories.

    Raises:
        ProbeFailed: the path is outside of the directories, can't be read, or there is too much to read.
    """
    real, root = _resolve(target, directories)
    descriptor = _open_below(root, real)
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return _read_directory(descriptor, root, real)
        name = printable(target)
        return _Read([_File(name, _read(descriptor, name))], [])
    finally:
        os.close(descriptor)


def _resolve(target: str, directories: Sequence[str]) -> tuple[str, str]:
    """Return the real path of a target, and the real path of the directory that allows it."""
    if not target or "\0" in target or not _is_encodable(target):
        raise ProbeFailed(Reason.TARGET_INVALID, "the target is not a path")
    if ".." in Path(target).parts:
        raise ProbeFailed(Reason.TARGET_DENIED, "the path of a certificate has no component `..`")
    roots = [os.path.realpath(directory) for directory in directories]
    wanted = Path(directories[0], target)  # an absolute target replaces the directory
    if any(wanted.is_relative_to(directory) for directory in (*directories, *roots)):
        real = os.path.realpath(wanted)
        for root in roots:
            if Path(real).is_relative_to(root):
                return real, root
    raise ProbeFailed(Reason.TARGET_DENIED, "the file is not below one of the module's `directories`")


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _open_below(root: str, real: str, name: str = "the file") -> int:
    """Open a path below a directory without following any symbolic link; return the descriptor.

    Args:
        name: the file, for messages.

    Raises:
        ProbeFailed: there is a link now, or the path can't be opened.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO would block
    try:
        descriptor = os.open(root, flags)
        for part in Path(real).relative_to(root).parts:
            outer, descriptor = descriptor, -1
            try:
                descriptor = os.open(part, flags, dir_fd=outer)
            finally:
                os.close(outer)
    except OSError as error:
        raise ProbeFailed(UNREADABLE, f"{name} can't be read: {error.strerror}") from None
    return descriptor


def _read(descriptor: int, name: str) -> bytes:
    """Return the contents of a regular file.

    Raises:
        ProbeFailed: it is none, or too large.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ProbeFailed(UNREADABLE, f"{name} is no regular file")
    pieces, size = [], 0
    try:
        while size <= MAX_FILE_BYTES and (piece := os.read(descriptor, MAX_FILE_BYTES + 1 - size)):
            pieces.append(piece)
            size += len(piece)
    except OSError as error:
        raise ProbeFailed(UNREADABLE, f"{name} can't be read: {error.strerror}") from None
    if size > MAX_FILE_BYTES:
        raise ProbeFailed(TOO_LARGE, f"{name} has more than {MAX_FILE_BYTES} bytes")
    return b"".join(pieces)


def _read_directory(descriptor: int, root: str, real: str) -> _Read:
    files, failures, size = list[_File](), list[ProbeFailed](), 0
    for name in _certificate_names(descriptor):
        try:
            file = _read_below(root, real, name)
        except ProbeFailed as failed:
            failures.append(failed)
            continue
        if file is None:
            continue
        files.append(file)
        size += len(file.data)
        if len(files) > MAX_FILES or size > MAX_BYTES:
            raise ProbeFailed(TOO_LARGE, f"the directory has more than {MAX_FILES} files or {MAX_BYTES} bytes")
    return _Read(files, failures[:MAX_FILES])


def _read_below(root: str, real: str, name: str) -> _File | None:
    """Return a file of a directory; None for a directory, and for a link that leads away from `root`."""
    path = os.path.realpath(os.path.join(real, name))  # noqa: PTH118  # a directory of links, as Kubernetes has it
    if not Path(path).is_relative_to(root):
        return None
    shown = printable(name)
    opened = _open_below(root, path, shown)
    try:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            return None
        return _File(shown, _read(opened, shown))
    finally:
        os.close(opened)


def printable(name: str) -> str:
    r"""Return a file's name as text that UTF-8 can encode; different names stay different.

    A byte that is not UTF-8 becomes ``\xff``, and backslashes in that name are doubled. They are doubled too in a name
    with a backslash before an ``x``, which would otherwise look like such a byte. All other names stay as they are.
    """
    if "\\x" not in name and not any("\udc80" <= one <= "\udcff" for one in name):
        return name
    return name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _certificate_names(descriptor: int) -> list[str]:
    """Return the names in a directory that may be those of certificates, sorted.

    Raises:
        ProbeFailed: there are too many names.
    """
    with os.scandir(descriptor) as entries:
        names = list[str]()
        for entry in entries:
            names.append(entry.name)
            if len(names) > MAX_ENTRIES:
                raise ProbeFailed(TOO_LARGE, f"the directory has more than {MAX_ENTRIES} entries")
    return sorted(name for name in names if name.lower().endswith(SUFFIXES))


def _password(settings: CertificateFileSettings) -> str:
    if not settings.password_file:
        return settings.password.reveal()
    try:
        return read_file(settings.password_file, MAX_SECRET_BYTES).decode().strip()
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"certificate_file: password_file can't be read: {what}") from None


# --- parsing: each returns certificates as DER, or a sentence about what is wrong -----------------------------


def parse_pem(data: bytes) -> list[bytes] | str:
    """Parse PEM; other blocks, such as keys, are skipped."""
    try:
        return [_der(one) for one in x509.load_pem_x509_certificates(data)]
    except certificates.UNREADABLE:
        return "there is no certificate in PEM form that can be parsed"


def parse_der(data: bytes) -> list[bytes] | str:
    """Parse one certificate as DER."""
    try:
        return [_der(x509.load_der_x509_certificate(data))]
    except certificates.UNREADABLE:
        return "this is no certificate"


def parse_pkcs12(data: bytes, password: str) -> list[bytes] | str:
    """Parse PKCS#12: the certificate of the key first. Runs in a helper process."""
    try:
        found = pkcs12.load_pkcs12(data, password.encode() or None)
    except certificates.UNREADABLE:
        return "neither a certificate nor a PKCS#12 file that this password opens"
    ordered = [found.cert, *found.additional_certs]
    ders = [_der(one.certificate) for one in ordered if one is not None]
    return ders or "the PKCS#12 file has no certificate"


def read_chain(ders: Sequence[bytes]) -> list[Certificate] | str:
    """Return certificates, of which everything that metrics need is read. Runs in a thread."""
    chain = [certificates.read(x509.load_der_x509_certificate(der)) for der in ders]
    try:
        _ = chain[0].labels, chain[0].summary, [one.expiry for one in chain]  # cached properties
    except ProbeFailed:
        return "the names of the certificate can't be read"
    return chain


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


prober = Prober(
    "certificate_file",
    CertificateFileSettings,
    probe_certificate_file,
    reasons=(UNREADABLE, INVALID, TOO_LARGE),
)
