"""What to check or to try for each reason for failure, in a few plain sentences for the person on call.

The closed list of reasons has its advice here. A prober's own reasons bring theirs (`OwnReason.advice`); a reason
without any falls back on its meaning. Text between backticks is a command, a setting or a name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import NamedTuple

from probe_exporter.addresses import literals
from probe_exporter.addresses.endpoints import join_host_port, split_host_port
from probe_exporter.prober.failure import OwnReason, ProbeFailed, Reason

_CHECK_NAME = "`getent hosts NAME` on the exporter's machine shows what its resolver says."
_SHOW_CERTIFICATE = (
    "`openssl s_client -connect HOST:PORT -servername NAME -showcerts` shows what the server sends; some servers send "
    "another certificate for another name."
)
_RULES_OF_DNS = (
    "Compare `dig @SERVER NAME TYPE` with the `validate_…_rrs` of the module; the log of the probe has each record."
)
_DIALOGUE_LOG = "The log of the probe has each step of `query_response` and what the peer sent."
_REFUSED_UPGRADE = "Check the path of the URL, the `Origin` and `Authorization` headers, and proxies in between."

ADVICE: dict[Reason, str] = {
    Reason.TARGET_INVALID: (
        "Correct the target: the message says what is wrong with it. In a URL to /probe, encode `&` as %26 and `#` as "
        "%23. In Prometheus, check the relabeling that sets `__param_target`."
    ),
    Reason.TARGET_DENIED: (
        "If this target should be probed, allow it in `targets`, in the configuration or in the module. If not, find "
        "out who asks for it."
    ),
    Reason.SETTINGS_UNUSABLE: (
        "The message names the setting or the file. Check that the file exists and that the exporter's user may read "
        "it. Try the module with `probe-exporter run`."
    ),
    Reason.DNS_RESOLUTION: (
        f"Check the name servers of the exporter's machine (`/etc/resolv.conf`), or the module's `resolver`. "
        f"{_CHECK_NAME} If other names resolve, the zone of this name is broken: `dig +trace NAME`."
    ),
    Reason.DNS_NAME_NOT_FOUND: (
        f"Check the spelling of the target. {_CHECK_NAME} A name that ends in a search domain elsewhere needs its full "
        f"form here. If the name is new, wait for the negative cache to expire."
    ),
    Reason.DNS_NO_ADDRESS: (
        "The name exists, but not with the wanted IP version. `dig NAME A` and `dig NAME AAAA` show what there is. Set "
        "`ip_protocol_fallback: true`, or another `preferred_ip_protocol`."
    ),
    Reason.DNS_TIMEOUT: (
        "A name server is down or unreachable. Try each one of `/etc/resolv.conf` (or the module's `resolver`) with "
        "`dig @SERVER NAME`. UDP and TCP port 53 must be open."
    ),
    Reason.DNS_QUERY_TIMEOUT: (
        "Try `dig @SERVER NAME` from the exporter's machine. If it hangs too, the server is down, or a firewall drops "
        "port 53. With `transport_protocol: tcp` check TCP as well."
    ),
    Reason.DNS_RESPONSE_MALFORMED: (
        "Something else than a DNS server answers, or a middlebox changes packets. Try `dig @SERVER NAME`, and once "
        "more with `+tcp`."
    ),
    Reason.DNS_RESPONSE_WRONG_ID: (
        "Responses to other queries arrive: look for a broken forwarder, a NAT that mixes up clients, or forged "
        "responses."
    ),
    Reason.DNS_RESPONSE_WRONG_QUESTION: "The server or a forwarder mixes up queries. Ask the server without forwarder.",
    Reason.DNS_RESPONSE_NO_FLAG: "What listens there returns the query itself: an echo service, or a broken forwarder.",
    Reason.DNS_RCODE: (
        "The message has the code. NXDOMAIN: the name is gone. SERVFAIL: the server can't reach or validate the zone. "
        "REFUSED: it does not serve this zone, or not to this client. `valid_rcodes` sets which codes are good."
    ),
    Reason.DNS_ANSWER_MISMATCH: f"The record has changed, or the rules are out of date. {_RULES_OF_DNS}",
    Reason.DNS_AUTHORITY_MISMATCH: f"The delegation has changed, or the rules are out of date. {_RULES_OF_DNS}",
    Reason.DNS_ADDITIONAL_MISMATCH: f"The additional records differ, or the rules are out of date. {_RULES_OF_DNS}",
    Reason.CONNECT_REFUSED: (
        "On the target, check that the service runs and that `ss -ltun` shows the port, on an address other than "
        "127.0.0.1. If it does, a firewall rejects the connection. Check the port in the target, too."
    ),
    Reason.CONNECT_TIMEOUT: (
        "The host is down, or a firewall drops the packets. `ping HOST` and `nc -vz HOST PORT` from the exporter's "
        "machine tell which. If it works from elsewhere, check firewalls and routes in between."
    ),
    Reason.CONNECT_UNREACHABLE: (
        "Check the route: `ip route get ADDRESS` on the exporter's machine. An IPv6 address on a machine without IPv6 "
        "fails like this: set `preferred_ip_protocol: ip4`."
    ),
    Reason.CONNECT_RESET: (
        "The service or something before it closes connections hard: look at its log, its connection limit, and at "
        "firewalls or load balancers on the way. A plain-text probe of a TLS port also ends like this."
    ),
    Reason.CONNECT_CLOSED: (
        "The service accepts and hangs up at once: look at its log, its allow list and its connection limit. A load "
        "balancer without healthy backends does this too."
    ),
    Reason.CONNECT_FAILED: (
        'The message has the system\'s error. "Too many open files": raise the limit of the exporter (`ulimit -n`). '
        '"Cannot assign requested address": the source ports are used up, or the source address is gone.'
    ),
    Reason.PROXY_CONNECT: (
        "The proxy is the problem, not the target. Check its name and port in `proxy_url` or in the environment, and "
        "that `nc -vz PROXY PORT` works from here."
    ),
    Reason.PROXY_REFUSED: (
        "Look at the proxy's log. 407: wrong or missing credentials in `proxy_url`. 403: a rule of the proxy forbids "
        "the target. 502 to 504: the proxy can't reach the target."
    ),
    Reason.PROXY_PROTOCOL_ERROR: (
        "The scheme of `proxy_url` (http, https, socks5) does not fit what listens on that port. Check scheme and port."
    ),
    Reason.PROXY_TIMEOUT: (
        "The proxy accepts connections but does not open the tunnel: it is overloaded, or can't reach the target. Try "
        "`curl -x PROXY TARGET`."
    ),
    Reason.OAUTH2_CONNECT: "Check `oauth2.token_url`, and that the exporter's machine reaches it: `curl -v TOKEN_URL`.",
    Reason.OAUTH2_TOKEN: (
        "Check `client_id`, the secret and the scopes at the authorization server; its log says why it refuses. "
        "The secret may have expired."
    ),
    Reason.OAUTH2_TIMEOUT: "The authorization server is slow or down: `curl -v TOKEN_URL`. The target was not probed.",
    Reason.TLS_HANDSHAKE: (
        '"wrong version number": the port does not speak TLS. An alert: the server refuses the version, the ciphers, '
        "the name or the missing client certificate. `openssl s_client -connect HOST:PORT -servername NAME` shows "
        "more. For old servers lower `min_version`."
    ),
    Reason.TLS_TIMEOUT: (
        "TCP connects, but the handshake hangs: the port expects the client to speak another protocol, the server is "
        "overloaded, or a link drops large packets (MTU)."
    ),
    Reason.TLS_REQUIRED: "The target answered without TLS: probe it by https://, or find the redirect that leads away.",
    Reason.TLS_FORBIDDEN: "The target answered over TLS, and the module forbids that: `fail_if_ssl`.",
    Reason.CERTIFICATE_EXPIRED: (
        "Renew the certificate and reload the server: many keep the old one in memory. If it was renewed, see which "
        f"one the server sends, and whether an intermediate has expired. {_SHOW_CERTIFICATE}"
    ),
    Reason.CERTIFICATE_NOT_YET_VALID: (
        "Check the clock of the exporter's machine (`timedatectl`). If it is right, the certificate was issued for "
        "later."
    ),
    Reason.CERTIFICATE_WRONG_NAME: (
        "Request a certificate with this name, or probe by a name that it has. If the target is an address, set "
        f"`tls_config.server_name`. {_SHOW_CERTIFICATE}"
    ),
    Reason.CERTIFICATE_UNKNOWN_AUTHORITY: (
        "Most often the server does not send its intermediate certificate: install the full chain there. For an "
        "authority of your own set `tls_config.ca_file`; else update the machine's bundle (ca-certificates)."
    ),
    Reason.CERTIFICATE_REVOKED: (
        "Ask the owner of the certificate why it was revoked, install a new one, and treat the old key as stolen until "
        "you know. The message has the serial number."
    ),
    Reason.CERTIFICATE_INVALID: (
        "The message names the error: a weak key or signature, a wrong purpose, a broken chain. Issue the certificate "
        f"anew. {_SHOW_CERTIFICATE}"
    ),
    Reason.HTTP_STATUS: (
        "The message has the status. 401 or 403: credentials or an allow list. 404: the path. 5xx: the server's log. "
        "If the status is right, add it to `valid_status_codes`."
    ),
    Reason.HTTP_VERSION: (
        "The server or a proxy before it speaks another version. Check its HTTP/2 setting, `enable_http2` and "
        "`valid_http_versions`."
    ),
    Reason.HTTP_REDIRECT: (
        "The log of the probe has each Location. Look for a loop between http and https or between two names, and for "
        "a redirect to a login page."
    ),
    Reason.HTTP_HEADER_MISMATCH: (
        "The log names the header. `curl -sSI TARGET` shows what the server sends; compare it with "
        "`fail_if_header_…` of the module."
    ),
    Reason.HTTP_BODY_MISMATCH: (
        "The page is not what the module expects: an error page with status 200, a login page, or new text. Look at it "
        "with `curl -sSL TARGET`, then correct the page or `fail_if_body_…`."
    ),
    Reason.HTTP_BODY_TOO_LARGE: "Raise `body_size_limit`, or probe a smaller page.",
    Reason.HTTP_BODY_TRUNCATED: (
        "The server or a proxy ended the response early: look for crashes, full disks and timeouts in their logs."
    ),
    Reason.HTTP_CONTENT_ENCODING: (
        "The module's `compression` and the server's Content-Encoding differ, or the compressed body is broken. Try "
        "`curl -sS --compressed TARGET`."
    ),
    Reason.HTTP_PROTOCOL_ERROR: (
        "Something else than HTTP listens on that port, or TLS does: try https://. `curl -v TARGET` shows what comes "
        "back."
    ),
    Reason.HTTP_HEADERS_TOO_LARGE: (
        "Look for cookies that grow or a loop that repeats a header: `curl -sSI TARGET | wc -c`."
    ),
    Reason.DIALOGUE_REJECTED: f"The peer reports an error, and the module knows it by `reject`. {_DIALOGUE_LOG}",
    Reason.DIALOGUE_NO_MATCH: f"The peer says something else than before, or the pattern is wrong. {_DIALOGUE_LOG}",
    Reason.DIALOGUE_BYTES_MISMATCH: f"Another protocol or version answers. {_DIALOGUE_LOG}",
    Reason.DIALOGUE_CLOSED: (
        "The peer closed the connection in the middle: look at its log; a rejected greeting or a limit may be the "
        f"cause. {_DIALOGUE_LOG}"
    ),
    Reason.DIALOGUE_LINE_TOO_LONG: "The peer sends no line ends, so it probably speaks a binary protocol or TLS.",
    Reason.DIALOGUE_LABEL_INVALID: "The peer sent bytes that are no UTF-8: match a part of them that is text.",
    Reason.TIMEOUT_DIALOGUE: (
        f"The peer waits for something, or is slow. Does it expect TLS, or a line that ends in CR LF? {_DIALOGUE_LOG}"
    ),
    Reason.WEBSOCKET_UPGRADE_REFUSED: f"The message has the status. {_REFUSED_UPGRADE}",
    Reason.WEBSOCKET_HANDSHAKE_INVALID: f"Something answers 101 without WebSocket. {_REFUSED_UPGRADE}",
    Reason.WEBSOCKET_CLOSED: "The log of the probe has the close code and its text; 4xxx are codes of the application.",
    Reason.WEBSOCKET_PROTOCOL_ERROR: "The server or a proxy breaks the protocol: probe the server without proxy.",
    Reason.WEBSOCKET_MESSAGE_TOO_LARGE: "The server sends larger messages than expected: probe a smaller channel.",
    Reason.UDP_NO_ANSWER: (
        "UDP does not tell a lost packet from a silent service: the host is down, a firewall drops it, or the service "
        "ignores what the module sends. On the target, `tcpdump -ni any udp port PORT` shows whether it arrives."
    ),
    Reason.UDP_PORT_UNREACHABLE: "The host is up, but nothing listens: check the service and `ss -lun` on the target.",
    Reason.ICMP_PERMISSION: (
        "Allow it with `sysctl net.ipv4.ping_group_range='0 2147483647'`, or give the exporter CAP_NET_RAW "
        "(`AmbientCapabilities=CAP_NET_RAW` in systemd, `cap_add` in a container)."
    ),
    Reason.ICMP_SEND_FAILED: "Check the route: `ip route get ADDRESS`, and the module's source address and interface.",
    Reason.ICMP_PACKET_TOO_BIG: "Lower `payload_size`, or find the link with the small MTU: `tracepath ADDRESS`.",
    Reason.ICMP_UNREACHABLE: (
        "The message says who reported it. Check routes and firewalls there: `traceroute -n ADDRESS` shows where "
        "packets stop."
    ),
    Reason.ICMP_TIME_EXCEEDED: "Raise `ttl`, or look for a routing loop: `traceroute -n ADDRESS`.",
    Reason.ICMP_TIMEOUT: (
        "The host is down, unreachable, or drops pings. Try a TCP port of it (`nc -vz HOST PORT`) before you call it "
        "down."
    ),
    Reason.GRPC_NOT_HTTP2: "Check the port, and whether it expects TLS: set `tls: true`, or false for a plain port.",
    Reason.GRPC_NOT_GRPC: "A proxy or a web server answers: check host, port and the proxy's route for gRPC.",
    Reason.GRPC_PROTOCOL_ERROR: "A proxy in between may drop trailers: probe the server without proxy.",
    Reason.GRPC_TRUNCATED: "The server or a proxy closed the connection: look for crashes and restarts in their logs.",
    Reason.GRPC_STREAM_RESET: "The message has the code of the reset: look at the server's log for that time.",
    Reason.GRPC_GOING_AWAY: "The server is shutting down or sheds connections. If it lasts, look at its log.",
    Reason.GRPC_UNIMPLEMENTED: (
        "Register `grpc.health.v1.Health` in the server. If it is registered, the probe reached another server."
    ),
    Reason.GRPC_PERMISSION: "The server wants credentials for its health service: exempt it, or give `metadata`.",
    Reason.GRPC_SERVICE_UNKNOWN: "Check the spelling of `service`: the full name, with its package, as registered.",
    Reason.GRPC_STATUS: "The message has the status and the server's text. UNAVAILABLE: look at the backend's log.",
    Reason.GRPC_NOT_SERVING: "The server runs and says that it is not ready: look at its log and what it depends on.",
    Reason.GRPC_TIMEOUT: "The server accepts but does not answer: look for a deadlock, overload or a full queue.",
    Reason.PROTOCOL_ERROR: (
        "Another service listens on that port, or it expects TLS (or none). The message has what came instead."
    ),
    Reason.AUTHENTICATION: "Check user and password of the module, their expiry, and from where this user may log in.",
    Reason.TARGET_ERROR: "The message has the target's own words: look in its log for that time.",
    Reason.TARGET_NOT_READY: "Wait, and if it lasts look in the target's log what it is waiting for.",
    Reason.TARGET_FULL: "Raise its connection limit, or find who holds the connections.",
    Reason.VALUE_MISSING: (
        "Compare the response with the path or pattern of the `metrics` entry that the message names. Set "
        "`required: false` if it may be absent."
    ),
    Reason.EXPECTATION: (
        "The message or the log of the probe says what was expected and what came. Decide which of the two is wrong."
    ),
    Reason.TIMEOUT_RESPONSE: (
        "The service accepts connections but does not answer in time: overload, a lock, or a slow backend. "
        "`curl -w '%{time_starttransfer}' -o /dev/null -sS TARGET` measures it. If slow is normal, raise the timeout."
    ),
    Reason.TIMEOUT_TRANSFER: (
        "The response began and then stalled: a large page, a slow link, or a backend that streams. Raise the timeout, "
        "or probe a smaller page."
    ),
    Reason.TIMEOUT_PROBE: (
        "See in the waterfall which phase took the time. Raise `timeout` of the module and `scrape_timeout` of "
        "Prometheus, or find out why the target is slow."
    ),
    Reason.INTERNAL_ERROR: (
        "This says nothing about the target. The exporter's own log has the traceback; `probe-exporter run` prints it. "
        "If the prober is your own, correct it; otherwise report it, with the module's settings."
    ),
}


class Explanation(NamedTuple):
    """A reason for failure: what it means, and what to check or to try."""

    reason: str
    meaning: str
    advice: str


def common() -> list[Explanation]:
    """Return the reasons that every prober may have, in the order of the list."""
    return [Explanation(reason.value, reason.meaning, ADVICE.get(reason, reason.meaning)) for reason in Reason]


def own(reasons: Iterable[OwnReason]) -> list[Explanation]:
    """Return the reasons of one prober."""
    return [Explanation(reason.value, reason.meaning, reason.advice or reason.meaning) for reason in reasons]


def explain(reason: str, reasons: Iterable[OwnReason]) -> Explanation:
    """Return the explanation of a reason by its name; an unknown one, from an older release, has empty texts.

    Args:
        reasons: the own reasons of the prober.
    """
    for known in Reason:
        if known.value == reason:
            return Explanation(reason, known.meaning, ADVICE.get(known, known.meaning))
    found = [one for one in own(reasons) if one.reason == reason]
    return found[0] if found else Explanation(reason, "", "")


# --- with the target's names -------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r"\b(?:HOST:PORT|HOST|PORT|NAME|TARGET)\b")

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}

_ABOUT_THE_HOST = ("dns_resolution", "dns_name_not_found", "dns_no_address", "dns_timeout", "tls_", "certificate_")
"""Beginnings of the reasons in whose advice NAME is the target's host; elsewhere it is what a DNS query asks for."""

MAX_FILLED_CHARACTERS = 300
"""Length of a target that is put into commands."""


def about(explanation: Explanation, target: str, *, redirected: bool = False) -> Explanation:
    """Return an explanation with the target's host, port and name in the commands of its advice, quoted for a shell.

    Args:
        target: without passwords.
        redirected: whether the probe failed at another host than the target's, so that only TARGET can be filled in.
    """
    values = _values(explanation.reason, target, redirected=redirected)
    parts = explanation.advice.split("`")
    for index in range(1, len(parts), 2):
        parts[index] = _PLACEHOLDER.sub(lambda found: values.get(found[0], found[0]), parts[index])
    return explanation._replace(advice="`".join(parts))


def _values(reason: str, target: str, *, redirected: bool) -> dict[str, str]:
    """Return what to put in the place of placeholders; those that the target does not have are absent."""
    if len(target) > MAX_FILLED_CHARACTERS or not target.isprintable() or "`" in target:
        return {}
    values = {} if target.startswith("-") else {"TARGET": shlex.quote(target)}
    scheme, separator, rest = target.partition("://")
    authority = (rest if separator else target).partition("/")[0].partition("?")[0].partition("#")[0].rpartition("@")[2]
    try:
        host, port = split_host_port(authority)
    except ProbeFailed:
        host, port = authority.strip("[]"), ""
    if redirected or not host or not _is_plain(host):
        return values
    port = port or _DEFAULT_PORTS.get(scheme.lower(), "")
    port = port if port and _is_plain(port) else "PORT"
    values |= {"HOST": host, "PORT": port, "HOST:PORT": join_host_port(host, port)}
    if reason.startswith(_ABOUT_THE_HOST) and literals.literal(host) is None:
        values["NAME"] = host
    return values


def _is_plain(text: str) -> bool:
    """Whether a host or a port needs no quotes in a shell, and is no option."""
    return shlex.quote(text) == text and not text.startswith("-")
