"""SSH servers: how they introduce themselves, and a key exchange in which they prove that they have their host key.

RFC 4253 up to where encryption would begin: there the probe says goodbye. Nobody logs in, and nothing is sent that is
worth encrypting, so all ciphers are offered. The exchanges are those of RFC 8731 (curve25519), RFC 5656 (NIST's curves)
and RFC 8268 (group 14).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal, get_args

from annotated_types import MinLen
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from pydantic import AfterValidator

from probe_exporter import (
    Connection,
    Metric,
    OwnReason,
    Probe,
    ProbeFailed,
    Prober,
    Reason,
    SourceSettings,
    Text,
    connect,
    host_and_port,
)

PORT = 22
LONGEST_LINE = 1024
MOST_LINES = 100
LONGEST_PACKET = 35_000  # RFC 4253, 6.1: the most that everybody must take
MOST_PACKETS = 100

DURATION = Metric("probe_ssh_duration_seconds", "How long each phase took.", ("phase",))
SERVER = Metric(
    "probe_ssh_server_info", "How the server introduces itself.", ("protocol", "software", "comments"), type="info"
)
CHOSEN = Metric(
    "probe_ssh_algorithms_info",
    "What server and probe agree on for the proof of the host key.",
    ("key_exchange", "host_key"),
    type="info",
)
HOST_KEY = Metric(
    "probe_ssh_host_key_info", "The host key that the server has proved to have.", ("type", "fingerprint"), type="info"
)
HOST_KEY_BITS = Metric("probe_ssh_host_key_bits", "How long the host key is.")

MISMATCH = OwnReason("ssh_host_key_mismatch", "The server proves to have a host key, and it is none of `host_keys`.")
NO_COMMON_ALGORITHM = OwnReason("ssh_no_common_algorithm", "The server wants algorithms that the module does not.")
BAD_SIGNATURE = OwnReason("ssh_bad_signature", "The server does not prove to have the host key that it shows.")

_OURS = b"SSH-2.0-probe_exporter"
_REFUSALS = {  # of OpenSSH, in place of an introduction
    b"Exceeded MaxStartups": Reason.TARGET_FULL,
    b"Not allowed at this time": Reason.TARGET_ERROR,  # PerSourcePenalties
}

_BY_APPLICATION, _TOO_MANY_CONNECTIONS = struct.pack("!I", 11), struct.pack("!I", 12)  # RFC 4253, 11.1
_DISCONNECT, _IGNORE, _DEBUG, _KEXINIT, _ECDH_INIT, _ECDH_REPLY = 1, 2, 4, 20, 30, 31

_CIPHERS = (
    "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,"
    "aes128-ctr,aes192-ctr,aes256-ctr,aes128-cbc,aes192-cbc,aes256-cbc,3des-cbc"
)
_MACS = (
    "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,umac-128-etm@openssh.com,hmac-sha1-etm@openssh.com,"
    "hmac-sha2-256,hmac-sha2-512,umac-128@openssh.com,umac-64@openssh.com,hmac-sha1,hmac-md5"
)
_COMPRESSIONS = "none,zlib@openssh.com,zlib"

HostKeyAlgorithm = Literal[
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
]
KeyExchange = Literal[
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group14-sha256",
]


def _fingerprint(text: str) -> str:
    if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", text):
        raise ValueError("expected a fingerprint as `ssh-keygen -l` prints it: SHA256: and 43 characters of base64")
    return text


class SshSettings(SourceSettings):
    """The ``ssh`` block of a module; of algorithms, the first that the server knows too is taken."""

    host_keys: tuple[Annotated[Text, AfterValidator(_fingerprint)], ...] = ()
    host_key_algorithms: Annotated[tuple[HostKeyAlgorithm, ...], MinLen(1)] = get_args(HostKeyAlgorithm)
    key_exchanges: Annotated[tuple[KeyExchange, ...], MinLen(1)] = get_args(KeyExchange)


async def probe_ssh(probe: Probe, settings: SshSettings) -> None:
    """Has an SSH server prove that it has its host key, and looks whether it is an expected one."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        with probe.phase("banner", DURATION):
            introduction = await _introduction(probe, connection)
        with probe.phase("key_exchange", DURATION):
            blob = await _exchange_keys(probe, settings, connection, introduction)
            fingerprint = _report(probe, blob)
            connection.send(_packet(_DISCONNECT, _BY_APPLICATION + _string(b"probed") + _string(b"")))
            if settings.host_keys and fingerprint not in settings.host_keys:
                raise ProbeFailed(MISMATCH, f"the server's host key is {fingerprint}, which is not expected")


async def _introduction(probe: Probe, connection: Connection) -> bytes:
    """The line with which the server says what it is (RFC 4253, 4.2); others may come before."""
    connection.send(_OURS + b"\r\n")
    for _ in range(MOST_LINES):
        line = (await connection.until(b"\n", limit=LONGEST_LINE)).removesuffix(b"\r")
        if line.startswith(b"SSH-"):
            break
        if refusal := _REFUSALS.get(line):
            raise ProbeFailed(refusal, f"the server turns us away: {line.decode()}")
        probe.log("A line before the server's introduction", line=line[:200].decode("utf-8", "replace"))
    else:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, f"{MOST_LINES} lines came, and none in which an SSH server says so")
    said = line[:255].decode("utf-8", "replace")
    protocol, _, software = said.removeprefix("SSH-").partition("-")
    if protocol not in ("2.0", "1.99"):  # the latter speaks both (RFC 4253, 5.1)
        raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the server speaks SSH {protocol}, not SSH 2.0", introduction=said)
    software, _, comments = software.partition(" ")
    probe.set(SERVER, 1, protocol, software, comments)
    return line


async def _exchange_keys(probe: Probe, settings: SshSettings, connection: Connection, introduction: bytes) -> bytes:
    """The server's host key, which it has proved to have.

    Raises:
        ProbeFailed: it has not, or knows none of our algorithms.
    """
    ours = _offer(settings)
    connection.send(_packet(_KEXINIT, ours))
    theirs = await _receive(connection, _KEXINIT)
    exchange, algorithm = _agree(ours, theirs)
    probe.set(CHOSEN, 1, exchange, algorithm)

    begin, digest = _EXCHANGES[exchange]
    public, shared = begin()
    connection.send(_packet(_ECDH_INIT, _string(public)))
    blob, point, signature = _strings(await _receive(connection, _ECDH_REPLY), 3)
    try:
        secret = shared(point)
    except ValueError:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's half of the key exchange is none") from None

    kexinit = bytes([_KEXINIT])
    said = (_OURS, introduction, kexinit + ours, kexinit + theirs, blob, public, point, _integer(secret))
    _verify(algorithm, blob, signature, digest(b"".join(map(_string, said))).digest())
    return blob


def _report(probe: Probe, blob: bytes) -> str:
    """Report a host key; its fingerprint, as ``ssh-keygen -l`` prints it."""
    fingerprint = f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"
    kind, key = _key(blob)
    probe.set(HOST_KEY, 1, kind, fingerprint)
    probe.set(HOST_KEY_BITS, 256 if isinstance(key, Ed25519PublicKey) else key.key_size)
    return fingerprint


# --- what both sides can -----------------------------------------------------------------------------------


def _offer(settings: SshSettings) -> bytes:
    """The body of our KEXINIT (RFC 4253, 7.1)."""
    algorithms = (",".join(settings.key_exchanges), ",".join(settings.host_key_algorithms))
    lists = (*algorithms, _CIPHERS, _CIPHERS, _MACS, _MACS, _COMPRESSIONS, _COMPRESSIONS, "", "")
    return secrets.token_bytes(16) + b"".join([_string(one.encode()) for one in lists]) + bytes(5)


def _agree(ours: bytes, theirs: bytes) -> tuple[str, str]:
    """The key exchange and the host key's algorithm.

    Raises:
        ProbeFailed: for one of the things to agree on (the languages apart) there is nothing that both know.
    """
    kinds = ("key exchange", "host key", "cipher", "cipher", "MAC", "MAC", "compression", "compression")
    chosen = []
    for kind, we, they in zip(kinds, _strings(ours[16:], 8), _strings(theirs[16:], 8), strict=True):
        known = they.decode("ascii", "replace").split(",")
        common = next((one for one in we.decode().split(",") if one in known), None)
        if common is None:
            raise ProbeFailed(
                NO_COMMON_ALGORITHM, f"no {kind} that both know: the server offers {', '.join(known)[:500]}"
            )
        chosen.append(common)
    return chosen[0], chosen[1]


# --- key exchanges -----------------------------------------------------------------------------------------

# RFC 3526, 3: the prime of group 14; its generator is 2.
_PRIME = int(
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef9519b3cd3a431b"
    "302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe6"
    "49286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb9ed529077096966d"
    "670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf695581718"
    "3995497cea956ae515d2261898fa051015728e5a8aacaa68ffffffffffffffff",
    16,
)

Half = tuple[bytes, Callable[[bytes], int]]
"""Our half of an exchange: what to send, and the secret that follows from the server's half (or ValueError)."""


def _curve25519() -> Half:
    key = X25519PrivateKey.generate()
    return key.public_key().public_bytes_raw(), lambda theirs: int.from_bytes(
        key.exchange(X25519PublicKey.from_public_bytes(theirs)), "big"
    )


def _nist(curve: ec.EllipticCurve) -> Half:
    key = ec.generate_private_key(curve)
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), lambda theirs: int.from_bytes(
        key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(curve, theirs)), "big"
    )


def _group14() -> Half:
    exponent = secrets.randbits(256) | 1 << 255  # of 112 bits of security twice as many, and some (RFC 4419, 6.2)

    def shared(theirs: bytes) -> int:
        number = int.from_bytes(theirs, "big")
        if not 1 < number < _PRIME - 1:
            raise ValueError("no element of the group that keeps a secret")
        return pow(number, exponent, _PRIME)

    return _integer(pow(2, exponent, _PRIME)), shared


_EXCHANGES: Mapping[str, tuple[Callable[[], Half], Callable[[bytes], hashlib._Hash]]] = {
    "curve25519-sha256": (_curve25519, hashlib.sha256),
    "curve25519-sha256@libssh.org": (_curve25519, hashlib.sha256),
    "ecdh-sha2-nistp256": (partial(_nist, ec.SECP256R1()), hashlib.sha256),
    "ecdh-sha2-nistp384": (partial(_nist, ec.SECP384R1()), hashlib.sha384),
    "ecdh-sha2-nistp521": (partial(_nist, ec.SECP521R1()), hashlib.sha512),
    "diffie-hellman-group14-sha256": (_group14, hashlib.sha256),
}


# --- host keys ---------------------------------------------------------------------------------------------

_Key = Ed25519PublicKey | ec.EllipticCurvePublicKey | RSAPublicKey

_SIGNATURES: Mapping[str, tuple[str, hashes.HashAlgorithm]] = {
    "ssh-ed25519": ("ssh-ed25519", hashes.SHA512()),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256", hashes.SHA256()),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384", hashes.SHA384()),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521", hashes.SHA512()),
    "rsa-sha2-512": ("ssh-rsa", hashes.SHA512()),  # RFC 8332: a key like any of RSA, another digest
    "rsa-sha2-256": ("ssh-rsa", hashes.SHA256()),
}
"""By the names of algorithms: what their keys are called, and the digest that is signed."""


def _key(blob: bytes) -> tuple[str, _Key]:
    """A host key's type, and the key itself.

    Raises:
        ProbeFailed: it is none.
    """
    (kind,) = _strings(blob, 1)
    try:
        key = load_ssh_public_key(kind + b" " + base64.b64encode(blob))
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):  # the last for compressed points
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's host key can't be read") from None
    if not isinstance(key, _Key):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's host key is of a type that nobody asked for")
    return kind.decode(), key


def _verify(algorithm: str, blob: bytes, signature: bytes, message: bytes) -> None:
    """Raises: ProbeFailed: it is not the signature that the host key makes of `message`, by this algorithm."""
    wanted, digest = _SIGNATURES[algorithm]
    kind, key = _key(blob)
    made_by, data = _strings(signature, 2)
    if kind != wanted or made_by != algorithm.encode():
        raise ProbeFailed(BAD_SIGNATURE, f"the server proves to have its host key by something else than {algorithm}")
    try:
        match key:
            case Ed25519PublicKey():
                key.verify(data, message)
            case RSAPublicKey():
                key.verify(data, message, PKCS1v15(), digest)
            case _:
                r, s = (int.from_bytes(half, "big") for half in _strings(data, 2))
                key.verify(encode_dss_signature(r, s), message, ec.ECDSA(digest))
    except InvalidSignature:
        raise ProbeFailed(BAD_SIGNATURE, "the signature is not that of the host key over this connection") from None


# --- packets -----------------------------------------------------------------------------------------------


def _packet(kind: int, body: bytes) -> bytes:
    """RFC 4253, 6, without encryption: the padding makes the length a multiple of 8."""
    padding = 4 + -(len(body) + 10) % 8
    return struct.pack("!IBB", len(body) + padding + 2, padding, kind) + body + bytes(padding)


async def _receive(connection: Connection, wanted: int) -> bytes:
    """The body of the next message, which is to be of one kind; what everybody may say at any time is passed over.

    Raises:
        ProbeFailed: the server says goodbye, or something else.
    """
    for _ in range(MOST_PACKETS):
        size, padding = struct.unpack("!IB", await connection.exactly(5))
        if not padding + 2 <= size <= LONGEST_PACKET:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "what the server sends is no packet of SSH")
        packet = await connection.exactly(size - 1)
        kind, body = packet[0], packet[1 : len(packet) - padding]
        if kind == wanted:
            return body
        if kind == _DISCONNECT:
            (why,) = _strings(body[4:], 1)
            reason = Reason.TARGET_FULL if body[:4] == _TOO_MANY_CONNECTIONS else Reason.TARGET_ERROR
            raise ProbeFailed(reason, f"the server ends it: {why[:200].decode('utf-8', 'replace')}")
        if kind not in (_IGNORE, _DEBUG):
            raise ProbeFailed(Reason.PROTOCOL_ERROR, f"a message {kind} came where a message {wanted} belongs")
    raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server sends nothing but messages without a meaning")


def _string(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def _strings(data: bytes, count: int) -> list[bytes]:
    """The first strings of a message (RFC 4251, 5).

    Raises:
        ProbeFailed: there are fewer.
    """
    found = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 + size:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "a message of the server's ends too early")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def _integer(number: int) -> bytes:
    """What stands in the string of a positive mpint (RFC 4251, 5)."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


prober = Prober("ssh", SshSettings, probe_ssh, reasons=(MISMATCH, NO_COMMON_ALGORITHM, BAD_SIGNATURE))
