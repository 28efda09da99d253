"""The ssh prober: read an SSH server's version, and verify in a key exchange that it owns its host key (RFC 4253).

* Both sides send a line with their version, then KEXINIT with the algorithms that they support. For each kind of
  algorithm, the first one of the client that the server also has is chosen.
* In the key exchange both sides derive a shared secret. The server signs a hash of it and of all earlier messages with
  its host key, so a valid signature proves that the server owns the key.
* The probe then disconnects, before encryption and login begin. It offers all ciphers, because it never uses one.
* Key exchanges: RFC 8731 (curve25519), RFC 5656 (NIST curves), RFC 8268 (group 14). Of the last, the private exponent
  is short, so that one exchange takes a few milliseconds.
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
MAX_LINE_BYTES = 1024
MAX_LINES = 100
MAX_PACKET_BYTES = 35_000  # RFC 4253, 6.1: the size that every implementation must accept
MAX_PACKETS = 100

DURATION = Metric("probe_ssh_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=4)
SERVER = Metric(
    "probe_ssh_server_info",
    "Version of the server, as its identification string has it.",
    ("protocol", "software", "comments"),
    type="info",
)
CHOSEN = Metric(
    "probe_ssh_algorithms_info",
    "Algorithms that server and probe agreed on for the key exchange.",
    ("key_exchange", "host_key"),
    type="info",
)
HOST_KEY = Metric(
    "probe_ssh_host_key_info", "Host key that the server has proved to own.", ("type", "fingerprint"), type="info"
)
HOST_KEY_BITS = Metric("probe_ssh_host_key_bits", "Length of the host key in bits.")

MISMATCH = OwnReason(
    "ssh_host_key_mismatch",
    "The server's host key is none of `host_keys`.",
    advice=(
        "Find out why before you change `host_keys`: the host was installed anew, its key was rotated, or "
        "another machine answers. `ssh-keyscan HOST` shows the present keys."
    ),
)
NO_COMMON_ALGORITHM = OwnReason(
    "ssh_no_common_algorithm",
    "The server supports none of the algorithms that the module allows.",
    advice=(
        "The message has what the server offers. Old servers: allow more in the module. New servers may have "
        "dropped what the module demands."
    ),
)
BAD_SIGNATURE = OwnReason(
    "ssh_bad_signature",
    "The server does not prove that it owns the host key that it sent.",
    advice=(
        "Another machine may answer in the server's place, with its public key but not its private one: treat "
        "it as an attack until you know better."
    ),
)

_OURS = b"SSH-2.0-probe_exporter"
_REFUSALS = {  # lines that OpenSSH sends instead of its version
    b"Exceeded MaxStartups": Reason.TARGET_FULL,
    b"Not allowed at this time": Reason.TARGET_ERROR,  # PerSourcePenalties
}

_BY_APPLICATION, _TOO_MANY_CONNECTIONS = struct.pack("!I", 11), struct.pack("!I", 12)  # RFC 4253, 11.1
_DISCONNECT, _IGNORE, _DEBUG, _KEXINIT, _ECDH_INIT, _ECDH_REPLY = 1, 2, 4, 20, 30, 31

# No setting asks for a cipher or a MAC, so all common names are offered (RFC 4253, 4344, 6668 and OpenSSH's).
_CIPHERS = (
    "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,"
    "aes128-ctr,aes192-ctr,aes256-ctr,aes128-cbc,aes192-cbc,aes256-cbc,3des-ctr,3des-cbc,"
    "rijndael-cbc@lysator.liu.se,twofish256-ctr,twofish128-ctr,twofish256-cbc,twofish128-cbc,twofish-cbc,"
    "blowfish-ctr,blowfish-cbc,cast128-ctr,cast128-cbc,arcfour256,arcfour128,arcfour"
)
_MACS = (
    "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,umac-128-etm@openssh.com,umac-64-etm@openssh.com,"
    "hmac-sha1-etm@openssh.com,hmac-sha2-256,hmac-sha2-512,umac-128@openssh.com,umac-64@openssh.com,hmac-sha1,"
    "hmac-sha2-256-96,hmac-sha2-512-96,hmac-sha1-96,hmac-md5,hmac-md5-96,hmac-ripemd160,hmac-ripemd160@openssh.com"
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
    """The ``ssh`` block of a module; the first algorithm that the server also supports is chosen.

    Args:
        host_keys: fingerprints (``SHA256:…``); the server must have one of these keys.
        host_key_algorithms: algorithms of the host key to offer, best first.
        key_exchanges: key exchange methods to offer, best first.
    """

    host_keys: tuple[Annotated[Text, AfterValidator(_fingerprint)], ...] = ()
    host_key_algorithms: Annotated[tuple[HostKeyAlgorithm, ...], MinLen(1)] = get_args(HostKeyAlgorithm)
    key_exchanges: Annotated[tuple[KeyExchange, ...], MinLen(1)] = get_args(KeyExchange)


async def probe_ssh(probe: Probe, settings: SshSettings) -> None:
    """Verifies that an SSH server owns its host key, and checks the key's fingerprint."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        with probe.phase("banner", DURATION):
            identification = await _identification(probe, connection)
        with probe.phase("key_exchange", DURATION):
            blob = await _exchange_keys(probe, settings, connection, identification)
            fingerprint = _report(probe, blob)
            connection.send(_packet(_DISCONNECT, _BY_APPLICATION + _string(b"probed") + _string(b"")))
            if settings.host_keys and fingerprint not in settings.host_keys:
                raise ProbeFailed(MISMATCH, f"the server's host key {fingerprint} is none of `host_keys`")


async def _identification(probe: Probe, connection: Connection) -> bytes:
    """Return the server's identification string (RFC 4253, 4.2); other lines may come before it.

    Raises:
        ProbeFailed: the server refuses the connection, or does not speak SSH 2.0.
    """
    connection.send(_OURS + b"\r\n")
    for _ in range(MAX_LINES):
        line = (await connection.until(b"\n", limit=MAX_LINE_BYTES)).removesuffix(b"\r")
        if line.startswith(b"SSH-"):
            break
        if refusal := _REFUSALS.get(line):
            raise ProbeFailed(refusal, f"the server refuses the connection: {line.decode()}")
        probe.log("A line before the server's version", line=line[:200].decode("utf-8", "replace"))
    else:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, f"{MAX_LINES} lines came, none of them an SSH version")
    said = line[:255].decode("utf-8", "replace")
    protocol, _, software = said.removeprefix("SSH-").partition("-")
    if protocol not in ("2.0", "1.99"):  # the latter speaks both (RFC 4253, 5.1)
        raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the server speaks SSH {protocol}, not SSH 2.0", identification=said)
    software, _, comments = software.partition(" ")
    probe.set(SERVER, 1, protocol, software, comments)
    return line


async def _exchange_keys(probe: Probe, settings: SshSettings, connection: Connection, identification: bytes) -> bytes:
    """Return the server's host key, after its signature has been verified.

    Raises:
        ProbeFailed: the signature is invalid, or there is no common algorithm.
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
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's half of the key exchange is invalid") from None

    kexinit = bytes([_KEXINIT])
    said = (_OURS, identification, kexinit + ours, kexinit + theirs, blob, public, point, _integer(secret))
    _verify(algorithm, blob, signature, digest(b"".join(map(_string, said))).digest())
    return blob


def _report(probe: Probe, blob: bytes) -> str:
    """Report a host key; return its fingerprint, as ``ssh-keygen -l`` prints it."""
    fingerprint = f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"
    kind, key = _key(blob)
    probe.set(HOST_KEY, 1, kind, fingerprint)
    probe.set(HOST_KEY_BITS, 256 if isinstance(key, Ed25519PublicKey) else key.key_size)
    return fingerprint


# --- algorithms --------------------------------------------------------------------------------------------


def _offer(settings: SshSettings) -> bytes:
    """Return the body of the client's KEXINIT (RFC 4253, 7.1)."""
    algorithms = (",".join(settings.key_exchanges), ",".join(settings.host_key_algorithms))
    lists = (*algorithms, _CIPHERS, _CIPHERS, _MACS, _MACS, _COMPRESSIONS, _COMPRESSIONS, "", "")
    return secrets.token_bytes(16) + b"".join([_string(one.encode()) for one in lists]) + bytes(5)


def _agree(ours: bytes, theirs: bytes) -> tuple[str, str]:
    """Return the algorithms of the key exchange and of the host key.

    Raises:
        ProbeFailed: there is a kind of algorithm without one that both sides support; languages don't matter.
    """
    kinds = ("key exchange", "host key", "cipher", "cipher", "MAC", "MAC", "compression", "compression")
    chosen = []
    for kind, we, they in zip(kinds, _strings(ours[16:], 8), _strings(theirs[16:], 8), strict=True):
        known = they.decode("ascii", "replace").split(",")
        common = next((one for one in we.decode().split(",") if one in known), None)
        if common is None:
            raise ProbeFailed(NO_COMMON_ALGORITHM, f"no common {kind}: the server offers {', '.join(known)[:500]}")
        chosen.append(common)
    return chosen[0], chosen[1]


# --- key exchanges -----------------------------------------------------------------------------------------

# The prime of group 14 (RFC 3526, 3); its generator is 2.
_PRIME = int(
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef9519b3cd3a431b"
    "302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe6"
    "49286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb9ed529077096966d"
    "670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf695581718"
    "3995497cea956ae515d2261898fa051015728e5a8aacaa68ffffffffffffffff",
    16,
)

Half = tuple[bytes, Callable[[bytes], int]]
"""The client's half: what to send, and a function from the server's half to the secret (or ValueError)."""


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
    exponent = (
        secrets.randbits(256) | 1 << 255
    )  # twice the 112 bits of security that the group has, and more (RFC 4419, 6.2)

    def shared(theirs: bytes) -> int:
        number = int.from_bytes(theirs, "big")
        if not 1 < number < _PRIME - 1:
            raise ValueError("not a valid element of the group")
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
    "rsa-sha2-512": ("ssh-rsa", hashes.SHA512()),  # RFC 8332: an RSA key, another digest
    "rsa-sha2-256": ("ssh-rsa", hashes.SHA256()),
}
"""Algorithm to the type of its key and the digest that is signed."""


def _key(blob: bytes) -> tuple[str, _Key]:
    """Parse a host key; return its type and the key.

    Raises:
        ProbeFailed: the key is invalid or of another type.
    """
    (kind,) = _strings(blob, 1)
    try:
        key = load_ssh_public_key(kind + b" " + base64.b64encode(blob))
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):  # NotImplementedError: compressed points
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's host key is invalid") from None
    if not isinstance(key, _Key):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's host key is of a type that the module does not allow")
    return kind.decode(), key


def _verify(algorithm: str, blob: bytes, signature: bytes, message: bytes) -> None:
    """Verify the signature of `message` by the host key.

    Raises:
        ProbeFailed: the signature is invalid, or made by another algorithm.
    """
    wanted, digest = _SIGNATURES[algorithm]
    kind, key = _key(blob)
    made_by, data = _strings(signature, 2)
    if kind != wanted or made_by != algorithm.encode():
        raise ProbeFailed(BAD_SIGNATURE, f"the server signed with another algorithm than {algorithm}")
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
        raise ProbeFailed(BAD_SIGNATURE, "the signature does not verify with the host key") from None


# --- packets -----------------------------------------------------------------------------------------------


def _packet(kind: int, body: bytes) -> bytes:
    """Return an unencrypted packet (RFC 4253, 6); the padding makes its length a multiple of 8."""
    padding = 4 + -(len(body) + 10) % 8
    return struct.pack("!IBB", len(body) + padding + 2, padding, kind) + body + bytes(padding)


async def _receive(connection: Connection, wanted: int) -> bytes:
    """Return the body of the next message of the wanted type; skip IGNORE and DEBUG.

    Raises:
        ProbeFailed: the server disconnects, or sends another type of message.
    """
    for _ in range(MAX_PACKETS):
        size, padding = struct.unpack("!IB", await connection.exactly(5))
        if not padding + 2 <= size <= MAX_PACKET_BYTES:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server sent an invalid SSH packet")
        packet = await connection.exactly(size - 1)
        kind, body = packet[0], packet[1 : len(packet) - padding]
        if kind == wanted:
            return body
        if kind == _DISCONNECT:
            (why,) = _strings(body[4:], 1)
            reason = Reason.TARGET_FULL if body[:4] == _TOO_MANY_CONNECTIONS else Reason.TARGET_ERROR
            raise ProbeFailed(reason, f"the server disconnected: {why[:200].decode('utf-8', 'replace')}")
        if kind not in (_IGNORE, _DEBUG):
            raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the server sent message {kind}, expected {wanted}")
    raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the server sent {MAX_PACKETS} packets without the expected message")


def _string(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def _strings(data: bytes, count: int) -> list[bytes]:
    """Return the first `count` strings of a message (RFC 4251, 5).

    Raises:
        ProbeFailed: there are fewer.
    """
    found = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 + size:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "a message of the server is truncated")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def _integer(number: int) -> bytes:
    """Return the content of a positive mpint (RFC 4251, 5)."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


prober = Prober("ssh", SshSettings, probe_ssh, reasons=(MISMATCH, NO_COMMON_ALGORITHM, BAD_SIGNATURE))
