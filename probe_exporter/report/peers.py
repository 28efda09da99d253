"""The certificates of a probe's TLS handshakes for people: whose, until when, and what is wrong with each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

DAY_SECONDS = 86400

SOON_DAYS = 21
"""A certificate that expires within so many days gets a warning. Automatic renewal happens about 30 days before."""

MAX_SHOWN_NAMES = 5
"""Host names in one sentence."""

MAX_SHOWN_SENDERS = 16
"""Addresses that sent the same certificates."""

_ERRORS = {
    "bad_signature": "Its signature does not verify: it was altered, or another key signed it.",
    "chain_too_long": "The chain is longer than a verifier follows.",
    "revoked": "It was revoked.",
    "revoked_by_crl": "Its authority has revoked it: it is in the revocation list (CRL).",
    "revoked_by_ocsp": "Its authority has revoked it: the OCSP response says so.",
    "not_an_authority": "It signed another certificate, but it is not that of an authority.",
    "path_too_long": "It signed an authority below it, which its own limit forbids.",
    "wrong_purpose": "It is not for TLS servers.",
    "name_constraint": "An authority above it may not sign for these names.",
    "weak_key": "Its key is too weak.",
    "slow_key": "Its key takes so long to verify signatures that the handshake was refused.",
    "weak_signature": "It is signed with a weak hash.",
}

_WARNINGS = {
    "stale_crl": "Its revocation list (CRL) is out of date: the next one is overdue, so newer revocations are unknown.",
}


class Certificate(NamedTuple):
    """One certificate of a chain.

    Attributes:
        role: ``server``, ``intermediate``, or ``trusted authority``, which the peer need not send.
        title: the common name of its subject, or else its first name.
        names: the host names that it is for, the first of them; `name_count` is the number of all.
        not_before, not_after: in Unix seconds; `days` until the latter from the probe on, negative once it has expired.
        key: such as ``RSA 2048``.
        wrong: sentences about what is wrong with it.
        warnings: sentences about what will be wrong, or can't be known.
        revoked: whether its authority has revoked it, as far as the module looks for it.
    """

    role: str
    title: str
    subject: str
    issuer: str
    names: tuple[str, ...]
    name_count: int
    not_before: float
    not_after: float
    days: float
    key: str
    signature: str
    fingerprint_sha256: str
    wrong: tuple[str, ...]
    warnings: tuple[str, ...]
    revoked: bool

    @property
    def expiry(self) -> str:
        """When it expires, as a date and a time in UTC."""
        return date(self.not_after)

    @property
    def left(self) -> str:
        """How long it is still valid, as text: ``12 days left``, ``expired 3 days ago``, ``revoked, 12 days left``."""
        text = f"expired {_days(-self.days)} ago" if self.days < 0 else f"{_days(self.days)} left"
        return f"revoked, {text}" if self.revoked else text


class Peer(NamedTuple):
    """One TLS handshake, or several with the same result.

    Attributes:
        senders: what sent the certificates: ``127.0.0.1``, ``127.0.0.1 (attempt 2)``; empty if nothing is known.
        senders_left_out: number of those beyond the limit.
        server_name: the name that the certificate must have.
        verified: False if verification found errors; None if the module does not verify.
        left_out: number of certificates that the peer sent beyond those kept.
    """

    senders: tuple[str, ...]
    senders_left_out: int
    server_name: str
    version: str
    cipher: str
    protocol: str
    verified: bool | None
    certificates: tuple[Certificate, ...]
    left_out: int

    @property
    def verdict(self) -> str:
        """One sentence about the verification."""
        if self.verified is None:
            why = "the module sets insecure_skip_verify"
            return f"Revoked, and not verified: {why}." if self.revoked else f"Not verified: {why}."
        if self.verified and self.revoked:
            return "Verified, but revoked."
        return "Verified." if self.verified else "The verification failed."

    @property
    def revoked(self) -> bool:
        """Whether one of the certificates is revoked."""
        return any(one.revoked for one in self.certificates)

    @property
    def sent_by(self) -> str:
        """What sent the certificates, to be appended to a text: `` sent by 127.0.0.1, 127.0.0.2``; may be empty."""
        more = f" and {self.senders_left_out} more" if self.senders_left_out else ""
        return f" sent by {', '.join(self.senders)}{more}" if self.senders else ""


def peers(details: Mapping[str, Any], started: float) -> list[Peer]:
    """Return the TLS handshakes of a probe that showed certificates, in their order; equal ones are one.

    Args:
        details: the details of a probe, as `history.details` writes them.
        started: when the probe began, in Unix seconds.
    """
    senders: dict[Peer, list[str]] = {}
    for handshake in details["tls"]:
        senders.setdefault(_peer(handshake, started), []).append(_sender(handshake, numbered=is_numbered(details)))
    return [_sent(peer, by) for peer, by in senders.items()]


def _sent(peer: Peer, by: Sequence[str]) -> Peer:
    """Return a peer with its senders, each once."""
    known = [*dict.fromkeys(filter(None, by))]
    return peer._replace(
        senders=tuple(known[:MAX_SHOWN_SENDERS]), senders_left_out=max(0, len(known) - MAX_SHOWN_SENDERS)
    )


def is_numbered(details: Mapping[str, Any]) -> bool:
    """Whether a probe made several attempts, so that names of its runs have the number of the attempt."""
    return any(run["attempt"] > 1 for run in details["runs"])


def _sender(handshake: Mapping[str, Any], *, numbered: bool) -> str:
    """Return what sent the certificates; behind a proxy, the address of the run. Earlier builds did not keep it."""
    run, attempt = handshake.get("run", ""), handshake.get("attempt", 0) if numbered else 0
    address = handshake.get("address", "") or (f"the run of {run}" if run else "")
    if not attempt:
        return str(address)
    return f"{address} (attempt {attempt})" if address else f"attempt {attempt}"


def date(seconds: float) -> str:
    """Return a date and a time in UTC; years beyond 9999, which some certificates have, become 9999."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, OSError, ValueError):
        return "9999-12-31 23:59 UTC" if seconds > 0 else "0001-01-01 00:00 UTC"


def _peer(handshake: Mapping[str, Any], started: float) -> Peer:
    sent, anchor = handshake["certificates"], handshake["anchor"]
    roles = ["server", *["intermediate"] * (len(sent) - 1)]
    if anchor is not None:
        sent, roles = [*sent, anchor], [*roles, "trusted authority"]
    return Peer(
        senders=(),
        senders_left_out=0,
        server_name=handshake["server_name"],
        version=handshake["version"],
        cipher=handshake["cipher"],
        protocol=handshake["protocol"],
        verified=handshake["verified"],
        certificates=tuple(
            [_certificate(one, role, handshake, started) for one, role in zip(sent, roles, strict=True)]
        ),
        left_out=max(0, handshake["certificate_count"] - len(handshake["certificates"])),
    )


def _certificate(one: Mapping[str, Any], role: str, handshake: Mapping[str, Any], started: float) -> Certificate:
    names: Sequence[str] = one["names"]
    days = (one["not_after"] - started) / DAY_SECONDS
    wrong = [*_wrong(one, handshake, started)]
    return Certificate(
        role="self-signed authority" if role == "intermediate" and one["self_signed"] else role,
        title=one["common_name"] or (names[0] if names else "") or one["subject"] or "(no name)",
        subject=one["subject"],
        issuer=one["issuer"],
        names=tuple(names),
        name_count=one["name_count"],
        not_before=one["not_before"],
        not_after=one["not_after"],
        days=days,
        key=one["key"],
        signature=one["signature"],
        fingerprint_sha256=one["fingerprint_sha256"],
        wrong=tuple(wrong),
        warnings=tuple(_warnings(one, days)),
        revoked=any(error.startswith("revoked") for error in one["errors"]),
    )


def _wrong(one: Mapping[str, Any], handshake: Mapping[str, Any], started: float) -> Iterator[str]:
    """Yield what verification found; expiry is judged even if the module does not verify."""
    errors: Sequence[str] = one["errors"]
    if one["not_after"] < started or "expired" in errors:
        yield f"It expired on {date(one['not_after'])}."
    if one["not_before"] > started or "not_yet_valid" in errors:
        yield f"It is not valid before {date(one['not_before'])}."
    for error in errors:
        if error == "wrong_name":
            yield f"It is not for {handshake['server_name']}: it is for {_listed(one)}."
        elif error == "unknown_authority":
            yield _unknown_authority(one)
        elif error not in ("expired", "not_yet_valid", *_WARNINGS):
            yield _ERRORS.get(error, f"The verification says {error}.")


def _warnings(one: Mapping[str, Any], days: float) -> Iterator[str]:
    """Yield what will be wrong with a certificate, or can't be known of it."""
    if 0 <= days < SOON_DAYS:
        yield f"It expires in {_days(days)}: renew it."
    for error in one["errors"]:
        if error in _WARNINGS:
            yield _WARNINGS[error]


def _unknown_authority(one: Mapping[str, Any]) -> str:
    if one["self_signed"]:
        return "It is signed by itself, and is not among the trusted authorities."
    return f"Its issuer ({one['issuer'] or 'unnamed'}) was not sent, and is not among the trusted authorities."


def _listed(one: Mapping[str, Any]) -> str:
    names: Sequence[str] = one["names"][:MAX_SHOWN_NAMES]
    if not names:
        return "no name: it has no subjectAltName, and a common name does not count"
    more = one["name_count"] - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _days(days: float) -> str:
    if days < 1:
        return f"{days * 24:.0f} hours"
    return "1 day" if int(days) == 1 else f"{int(days)} days"
