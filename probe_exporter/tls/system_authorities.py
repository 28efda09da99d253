"""Find the files of the system's certificate authorities: the bundle, and every file of the directories, as Go does.

OpenSSL finds a certificate of a directory by a link that is named by a hash, such as ``4042bcee.0``; ``openssl rehash``
makes such links. A certificate mounted into a container's ``/etc/ssl/certs`` has none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from probe_exporter.prober.failure import check_files

FILE_VARIABLE, DIRECTORIES_VARIABLE = "SSL_CERT_FILE", "SSL_CERT_DIR"
"""Environment variables that replace `BUNDLES` and `DIRECTORIES`: a path, and paths with colons between them."""

BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
)
"""The files in which pyOpenSSL looks for the system's authorities, in its order; the first that exists counts."""

DIRECTORIES = ("/etc/ssl/certs", "/etc/pki/tls/certs")

Identity = tuple[int, int]
"""Device and inode of a file."""


def bundle(files: Sequence[str] | None = None) -> Path | None:
    """Return the file with the system's authorities: the first of `files` (default: `BUNDLES`); None if none exists."""
    named = os.environ.get(FILE_VARIABLE)
    return next((Path(path) for path in ([named] if named else files or BUNDLES) if _is(path, stat.S_ISREG)), None)


def directories() -> list[str]:
    """Return the directories of authorities that exist."""
    named = [path for path in os.environ.get(DIRECTORIES_VARIABLE, "").split(":") if path]
    return [path for path in named or DIRECTORIES if _is(path, stat.S_ISDIR)]


def missed_by_openssl() -> Iterator[str]:
    """Yield the files of authorities that OpenSSL does not load by itself.

    These are files of the directories without a link to them, and the bundle if a variable is set that does not name
    another. Some may hold no certificate.

    Raises:
        OutOfFiles: no file descriptor is left.
    """
    whole = bundle()
    ignored = FILE_VARIABLE in os.environ or DIRECTORIES_VARIABLE in os.environ  # by pyOpenSSL
    if whole is not None and ignored and not os.environ.get(FILE_VARIABLE):
        yield str(whole)
    known: set[Identity] = set()
    if whole is not None:
        try:
            with whole.open("rb") as file:
                known.add(_identity(os.fstat(file.fileno())))
        except OSError as error:  # OpenSSL could not read it either, and did not say so
            check_files(error, f"reading {whole}")
    for directory in directories():
        files = _files(directory)
        known |= {identity for _, identity, hashed in files if hashed}
        for name, identity, _ in files:
            if identity not in known:
                known.add(identity)
                yield f"{directory}/{name}"


def _files(directory: str) -> list[tuple[str, Identity, bool]]:
    """Return the regular files of a directory, and those that its links lead to.

    Returns:
        Of each the name, the identity, and whether it is a link by which OpenSSL finds a certificate. Another file with
        such a name may have it for another reason: OpenSSL before 1.0, and Android, have another hash.

    Raises:
        OutOfFiles: no file descriptor is left.
    """
    found = []
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        check_files(error, f"reading {directory}")
        return []
    for entry in entries:
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere
            continue
        if stat.S_ISREG(status.st_mode):
            found.append((entry.name, _identity(status), entry.is_symlink() and _is_hash(entry.name)))
    return found


def _is(path: str, kind: Callable[[int], bool]) -> bool:
    """Return whether a file is of a kind. A path that can't be looked at leads to none, as for OpenSSL and Go.

    `Path.is_file` raises PermissionError for a file in a directory that may not be searched, before Python 3.14.
    """
    try:
        return kind(Path(path).stat().st_mode)
    except OSError:
        return False


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _is_hash(name: str) -> bool:
    """Return whether a file has the name by which OpenSSL finds it."""
    digits, _, number = name.partition(".")
    return len(digits) == 8 and number.isdecimal() and all(digit in "0123456789abcdef" for digit in digits)
