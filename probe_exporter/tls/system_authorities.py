"""Find the files of the system's certificate authorities: the bundle, and every file of the directories, as Go does.

OpenSSL finds a certificate of a directory by a link that is named by a hash, such as ``4042bcee.0``; ``openssl rehash``
makes them. A certificate that somebody mounts into a container's ``/etc/ssl/certs`` has no such link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

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
    return next((path for path in map(Path, [named] if named else files or BUNDLES) if path.is_file()), None)


def directories() -> list[str]:
    """Return the directories of authorities that exist."""
    named = [path for path in os.environ.get(DIRECTORIES_VARIABLE, "").split(":") if path]
    return [path for path in named or DIRECTORIES if Path(path).is_dir()]


def missed_by_openssl() -> Iterator[str]:
    """Yield the files of authorities that OpenSSL does not load by itself.

    These are files of the directories without a link to them, and the bundle if a variable is set that does not name
    another. Some may hold no certificate.
    """
    whole = bundle()
    ignored = FILE_VARIABLE in os.environ or DIRECTORIES_VARIABLE in os.environ  # by pyOpenSSL
    if whole is not None and ignored and not os.environ.get(FILE_VARIABLE):
        yield str(whole)
    known = set() if whole is None else {_identity(whole.stat())}
    for directory in directories():
        files = _files(directory)
        known |= {identity for name, identity in files if _is_hash(name)}
        for name, identity in files:
            if identity not in known:
                known.add(identity)
                yield f"{directory}/{name}"


def _files(directory: str) -> list[tuple[str, Identity]]:
    """Return name and identity of the regular files of a directory, and of those that its links lead to."""
    found = []
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return []
    for entry in entries:
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere
            continue
        if stat.S_ISREG(status.st_mode):
            found.append((entry.name, _identity(status)))
    return found


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _is_hash(name: str) -> bool:
    """Return whether a file has the name by which OpenSSL finds it."""
    digits, _, number = name.partition(".")
    return len(digits) == 8 and number.isdigit() and all(digit in "0123456789abcdef" for digit in digits)
