"""X.509 certificates: labels and expiry for metrics, in the original's form; names and usages for verification.

Each certificate is parsed once and cached: targets send the same certificates at every scrape.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from probe_exporter.addresses import literals
from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.tls import der, slow_keys
from probe_exporter.tls.name_matching import any_matches

# What cryptography warns of is about a peer's certificate, not about the exporter, and would go to stderr as bare text.
warnings.filterwarnings("ignore", category=CryptographyDeprecationWarning)
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

MAX_REMEMBERED_BYTES = 16 << 20
"""The estimated bytes of all remembered certificates. Targets choose the size of theirs."""

_LARGEST_SHARE = 64
"""A certificate that takes more than this part of it is not remembered but read at each handshake."""

_COPIES = 4
"""Copies of a certificate in memory: as DER, and nearly as large as labels and as parsed objects."""

_OBJECT_BYTES = 4096

_MAX_HOSTS = 64
"""Host names for which a certificate remembers whether it is valid."""

# The attributes that have a short name, in the order in which the original writes them.
_NAMED = {
    NameOID.SERIAL_NUMBER: "SERIALNUMBER",
    NameOID.COMMON_NAME: "CN",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.POSTAL_CODE: "POSTALCODE",
    NameOID.STREET_ADDRESS: "STREET",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.COUNTRY_NAME: "C",
}
_SERVER_USAGES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_LAST_ONE_COUNTS = {NameOID.SERIAL_NUMBER, NameOID.COMMON_NAME}

MAX_REREAD_BYTES = 16 << 10
"""Bytes of a certificate up to which it is read once more for one extension. It takes 1 ms for 1,000 extensions."""

UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates, lists and responses that it can't read: not only ValueError."""

E = TypeVar("E", bound=x509.ExtensionType)


def extension_of(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """Return an extension of a certificate; None if it has none that can be read, or two of one kind.

    cryptography reads all extensions or none. If another one can't be read, the certificate is read once more without
    it, as Go ignores what it does not know; a large certificate is not.
    """
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    except UNREADABLE:
        pass
    try:
        return _with_only(certificate, kind.oid).extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return None


def _with_only(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> x509.Certificate:
    """Return a certificate with one of its extensions alone.

    Raises:
        UNREADABLE: the certificate is too large, or that extension can't be read.
    """
    encoded = certificate.public_bytes(serialization.Encoding.DER)
    if len(encoded) > MAX_REREAD_BYTES:
        raise ValueError("the certificate is too large to be read once more")
    signed, *signature = der.elements(der.content(encoded))
    *others, extensions = der.elements(der.content(signed))
    wanted = der.object_identifier(oid.dotted_string)
    kept = [one for one in der.elements(der.content(der.content(extensions))) if der.content(one).startswith(wanted)]
    changed = b"".join(others) + der.element(extensions[0], der.element(der.SEQUENCE, b"".join(kept)))
    parts = der.element(der.SEQUENCE, changed) + b"".join(signature)
    return x509.load_der_x509_certificate(der.element(der.SEQUENCE, parts))


class LeafLabels(NamedTuple):
    """The labels of ``probe_ssl_last_chain_info``, of the peer's own certificate."""

    fingerprint_sha256: str
    subject: str
    issuer: str
    subjectalternative: str
    serialnumber: str


MAX_SUMMARY_NAMES = 20
MAX_SUMMARY_CHARACTERS = 250
"""Limits of a `Summary`: host names, and characters of each text. A peer chooses them, and the history keeps them."""


_SUMMARY_BYTES = 700
_TEXT_BYTES = 60
"""What a summary takes without its texts, and a text without its characters."""


class Summary(NamedTuple):
    """A certificate for people, in a few short texts.

    Attributes:
        common_name: of the subject; empty without one.
        names: DNS names and addresses of its subjectAltName, the first of them; `name_count` is the number of all.
        key: kind and size of its public key, such as ``RSA 2048``; empty if unknown.
        signature: hash of its signature, such as ``sha256``.
        self_signed: whether subject and issuer are the same.
        bytes: about what it takes in memory; the history asks for each probe.
    """

    fingerprint_sha256: str
    common_name: str
    subject: str
    issuer: str
    names: tuple[str, ...]
    name_count: int
    not_before: float  # Unix seconds
    not_after: float  # Unix seconds
    key: str
    signature: str
    self_signed: bool
    bytes: int


class Certificate:
    """A parsed certificate, with what was derived from it.

    Attributes:
        x509: the certificate.
        fingerprint: its SHA-256 fingerprint.
        large: whether it is too large to be remembered; its summary has no names then.
    """

    def __init__(self, certificate: x509.Certificate, fingerprint: bytes = b"", *, large: bool = False) -> None:
        self.x509 = certificate
        self.fingerprint = fingerprint or certificate.fingerprint(hashes.SHA256())
        self.large = large
        self._valid_for: dict[str, bool] = {}

    @cached_property
    def labels(self) -> LeafLabels:
        """The labels for metrics.

        Raises:
            ProbeFailed: its subject or issuer can't be read.
        """
        try:
            return _leaf_labels(self.x509)
        except UNREADABLE as error:
            raise ProbeFailed(Reason.CERTIFICATE_INVALID, f"a certificate of the peer can't be read: {error}") from None

    @cached_property
    def summary(self) -> Summary:
        """The certificate for people."""
        return _summary(self.x509, large=self.large)

    @property
    def size(self) -> int:
        """Its size in bytes, as the peer sends it."""
        return len(self.x509.public_bytes(serialization.Encoding.DER))

    @cached_property
    def key_milliseconds(self) -> float:
        """About how long a signature by its key takes to verify; 0 for a usual key."""
        return slow_keys.milliseconds(self.x509)

    @cached_property
    def expiry(self) -> float:
        """When it expires, in Unix seconds."""
        return self.x509.not_valid_after_utc.timestamp()

    @cached_property
    def has_alternative_names(self) -> bool:
        """Whether it has a subjectAltName, without which it is valid for no host."""
        return _alternative_names(self.x509) is not None

    @cached_property
    def has_readable_extensions(self) -> bool:
        """Whether its extensions can be read, all of them."""
        try:
            return self.x509.extensions is not None
        except UNREADABLE:
            return False

    @cached_property
    def is_for_servers(self) -> bool:
        """Whether its extended key usage, if it has one, allows TLS servers or anything."""
        usages = _usages(self.x509)
        return usages is None or not _SERVER_USAGES.isdisjoint(usages)

    @cached_property
    def is_for_anything(self) -> bool:
        """Whether its extended key usage has "any"."""
        return ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in (_usages(self.x509) or ())

    def is_for(self, host: str) -> bool:
        """Whether it is valid for a host name or address; the common name does not count."""
        known = self._valid_for.get(host)
        if known is None:
            known = _is_for(self.x509, host)
            if len(self._valid_for) < _MAX_HOSTS and len(host) < 256:
                self._valid_for[host] = known
        return known


class _Memory:
    """The certificates read so far, by their SHA-256 fingerprints. All are forgotten when they take too much."""

    def __init__(self) -> None:
        self.known: dict[bytes, Certificate] = {}
        self.bytes = 0

    def add(self, fingerprint: bytes, certificate: x509.Certificate) -> Certificate:
        """Make the `Certificate` of a certificate, and remember it unless it is large."""
        size = size_in_memory(certificate)
        made = Certificate(certificate, fingerprint, large=size > MAX_REMEMBERED_BYTES // _LARGEST_SHARE)
        if not made.large:
            if self.bytes + size > MAX_REMEMBERED_BYTES:
                self.known.clear()
                self.bytes = 0
            self.known[fingerprint] = made
            self.bytes += size
        return made


def size_in_memory(certificate: x509.Certificate) -> int:
    """Estimate the bytes that a certificate takes, with what is derived from it."""
    return _COPIES * len(certificate.public_bytes(serialization.Encoding.DER)) + _OBJECT_BYTES


memory = _Memory()


def read(certificate: x509.Certificate) -> Certificate:
    """Return the one `Certificate` of a certificate."""
    fingerprint = certificate.fingerprint(hashes.SHA256())
    return memory.known.get(fingerprint) or memory.add(fingerprint, certificate)


def earliest_expiry(chain: Iterable[Certificate]) -> float:
    """Return when the first of some certificates expires, in Unix seconds."""
    return min([certificate.expiry for certificate in chain])


def _leaf_labels(certificate: x509.Certificate) -> LeafLabels:
    """Return the labels of a certificate; names that do not parse are an empty label."""
    serial = abs(certificate.serial_number)
    return LeafLabels(
        fingerprint_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        subject=distinguished_name(certificate.subject),
        issuer=distinguished_name(certificate.issuer),
        subjectalternative=",".join(_dns_names(certificate)),
        serialnumber=serial.to_bytes(max(1, (serial.bit_length() + 7) // 8), "big").hex(),
    )


def _summary(certificate: x509.Certificate, *, large: bool) -> Summary:
    subject, issuer = ("", "") if large else (_name_of(certificate, "subject"), _name_of(certificate, "issuer"))
    all_names = [] if large else _all_names(certificate)
    common_name = "" if large else _common_name(certificate)
    names = tuple([_cut(name) for name in all_names[:MAX_SUMMARY_NAMES]])
    return Summary(
        fingerprint_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        common_name=common_name,
        subject=subject,
        issuer=issuer,
        names=names,
        name_count=len(all_names),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        key=_key(certificate),
        signature=_signature(certificate),
        self_signed=bool(subject) and subject == issuer,
        bytes=_SUMMARY_BYTES + sum(_TEXT_BYTES + 2 * len(text) for text in (common_name, subject, issuer, *names)),
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SUMMARY_CHARACTERS else f"{text[:MAX_SUMMARY_CHARACTERS]}…"


def _name_of(certificate: x509.Certificate, which: str) -> str:
    """Return the subject or the issuer; empty if it does not parse."""
    try:
        return _cut(distinguished_name(getattr(certificate, which)))
    except UNREADABLE:
        return ""


def _common_name(certificate: x509.Certificate) -> str:
    try:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE:
        return ""
    return _cut(_text(found[-1].value)) if found else ""


def _all_names(certificate: x509.Certificate) -> list[str]:
    names = _alternative_names(certificate)
    if names is None:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _signature(certificate: x509.Certificate) -> str:
    """Return the hash of the signature, such as ``sha256``; empty if it has none of its own, or is unknown."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return ""
    return algorithm.name if algorithm else ""


def _key(certificate: x509.Certificate) -> str:
    """Return kind and size of the public key, such as ``RSA 2048``; empty if it is unknown."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return ""
    match key:
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"ECDSA {key.curve.name}"
        case dsa.DSAPublicKey():
            return f"DSA {key.key_size}"
        case _:
            return type(key).__name__.removesuffix("PublicKey").strip("_")


def _dns_names(certificate: x509.Certificate) -> list[str]:
    names = _alternative_names(certificate)
    return [] if names is None else names.get_values_for_type(x509.DNSName)


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """Return the subjectAltName; None if there is none that parses."""
    return extension_of(certificate, x509.SubjectAlternativeName)


def _usages(certificate: x509.Certificate) -> x509.ExtendedKeyUsage | None:
    """Return the extended key usage; None if there is none that parses."""
    return extension_of(certificate, x509.ExtendedKeyUsage)


def distinguished_name(name: x509.Name) -> str:
    """Format a name as the original does: attributes grouped by kind in a fixed order, the rest by OID in reverse.

    RFC 2253 has neither the grouping nor the order, but dashboards match on the result.
    """
    values: dict[x509.ObjectIdentifier, list[str]] = {}
    others: list[str] = []
    for attribute in name:
        if attribute.oid in _NAMED:
            values.setdefault(attribute.oid, []).append(_escape(_text(attribute.value)))
        else:
            others.append(f"{attribute.oid.dotted_string}={_other_value(attribute.value)}")
    parts = []
    for oid, short in _NAMED.items():
        if oid in values:
            kept = values[oid][-1:] if oid in _LAST_ONE_COUNTS else values[oid]
            parts.append("+".join(f"{short}={value}" for value in kept))
    return ",".join(parts + others[::-1])


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _other_value(value: str | bytes) -> str:
    """Format text as text, and a BIT STRING as its DER in hex."""
    if isinstance(value, str):
        return _escape(value)
    return "#" + bytes((0x03, len(value))).hex() + value.hex()


def _escape(value: str) -> str:
    escaped = "".join("\\" + c if c in ',+"\\<>;' else c for c in value)
    if escaped.startswith((" ", "#")):
        escaped = "\\" + escaped
    if len(value) > 1 and value.endswith(" "):
        escaped = escaped[:-1] + "\\ "
    return escaped


def _is_for(certificate: x509.Certificate, host: str) -> bool:
    names = _alternative_names(certificate)
    if names is None:
        return False
    address = literals.literal(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    if address is not None:
        wanted = address.partition("%")[0]  # a zone is local to this machine
        return any(literals.literal(str(one)) == wanted for one in names.get_values_for_type(x509.IPAddress))
    try:
        return any_matches(names.get_values_for_type(x509.DNSName), to_ascii(host))
    except ValueError:
        return False
