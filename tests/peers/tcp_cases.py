"""The tcp and unix cases: each form of a target, each setting, each step of a dialogue and each way it can fail.

Cases state no expectation: the comparison and the golden files do.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from tests.peers.cases import AMPLE, SHORT, Case
from tests.targets import Pause, Repeat
from tests.targets.answers import End
from tests.targets.scripted_server import Finish, Hear, Script, Secure, talk, then_silence

TRUST = {"ca_file": "pki/root.pem"}
ANY = {"insecure_skip_verify": True}

Step = Mapping[str, object]

SILENT = then_silence()
GREETS = then_silence(b"220 host ESMTP x\r\n")


def tcp(
    name: str, script: Script = SILENT, target: str = "127.0.0.1:{port}", timeout: str = AMPLE, **settings: object
) -> Case:
    """Return a case of a probe of a port."""
    return Case(f"tcp {name}", settings, target, talk=script, timeout=timeout, prober="tcp")


def says(name: str, script: Script, *steps: Step, timeout: str = AMPLE, **settings: object) -> Case:
    """Return a case of a dialogue with a port."""
    return Case(
        f"tcp {name}",
        {"query_response": list(steps), **settings},
        "127.0.0.1:{port}",
        talk=script,
        timeout=timeout,
        prober="tcp",
    )


def unix(
    name: str,
    script: Script,
    *steps: Step,
    target: str = "{socket}",
    over: str = "unix",
    timeout: str = AMPLE,
    **settings: object,
) -> Case:
    """Return the same with a Unix socket."""
    asked = {"query_response": list(steps), **settings} if steps else settings
    return Case(f"unix {name}", asked, target, talk=script, over=over, timeout=timeout, prober="unix")


def label(name: str, value: str) -> dict[str, str]:
    """Return one entry of `labels`."""
    return {"name": name, "value": value}


TARGETS = (
    tcp("of a port"),
    Case("tcp without a block", target="127.0.0.1:{port}", talk=SILENT, prober="tcp", block=False),
    tcp("of IPv6", target="[::1]:{port}"),
    tcp("of IPv6 unwanted", target="[::1]:{port}", preferred_ip_protocol="ip4", ip_protocol_fallback=False),
    tcp("of IPv4 unwanted", preferred_ip_protocol="ip6", ip_protocol_fallback=False),
    tcp("of IPv6 without brackets", target="::1:{port}"),
    tcp("of IPv4 in brackets", target="[127.0.0.1]:{port}"),
    tcp("of a mapped address", target="[::ffff:127.0.0.1]:{port}"),
    tcp("of a name", target="localhost:{port}", preferred_ip_protocol="ip4"),
    tcp("of an unknown name", target="nobody.invalid:{port}"),
    tcp("without a port", target="127.0.0.1"),
    tcp("with an empty port", target="127.0.0.1:"),
    tcp("without a host", target=":{port}"),
    tcp("with a port of zero", target="127.0.0.1:0"),
    tcp("with a port too large", target="127.0.0.1:65536"),
    tcp("with a negative port", target="127.0.0.1:-1"),
    tcp("with a signed port", target="127.0.0.1:+{port}"),
    tcp("with a port after a blank", target="127.0.0.1: {port}"),
    tcp("with a named port", target="127.0.0.1:TELNET"),
    tcp("with an unknown named port", target="127.0.0.1:nosuchservice"),
    tcp("with a port that is named for udp alone", target="127.0.0.1:tftp"),
    tcp("with a port in hexadecimal", target="127.0.0.1:0x50"),
    tcp("with a port of many digits", target="127.0.0.1:99999999999999999999"),
    tcp("of IPv6 with a zone", target="[::1%lo]:{port}"),
    tcp("of IPv6 with a zone that is not there", target="[fe80::1%nowhere0]:{port}", timeout=SHORT),
    tcp("of loopback with a zone that is not there", target="[::1%nowhere0]:{port}"),
    tcp("of brackets with nothing in them", target="[]:{port}"),
    tcp("of half a bracket", target="[::1:{port}"),
    tcp("of a name that is none", target="a..b:{port}"),
    tcp("preferring what is none", target="127.0.0.1:{port}", preferred_ip_protocol="ipv4", ip_protocol_fallback=False),
    tcp(
        "preferring what is none of IPv6",
        target="[::1]:{port}",
        preferred_ip_protocol="ipv6",
        ip_protocol_fallback=False,
    ),
    tcp("preferring IPv6", target="[::1]:{port}", preferred_ip_protocol="ip6", ip_protocol_fallback=False),
    tcp(
        "of a mapped address and IPv6 alone",
        target="[::ffff:127.0.0.1]:{port}",
        preferred_ip_protocol="ip6",
        ip_protocol_fallback=False,
    ),
    tcp("of a URL", target="tcp://127.0.0.1:{port}"),
    tcp("of a blank", target=" "),
    tcp("of a dead port", target="127.0.0.1:{dead}"),
    tcp("from an address", source_ip_address="127.0.0.9"),
    tcp("from the same address of IPv6", target="[::1]:{port}", source_ip_address="::1"),
    tcp("from an address of the other family", source_ip_address="::1"),
    tcp("from a mapped address", source_ip_address="::ffff:127.0.0.9"),
    tcp("from nonsense", source_ip_address="nonsense"),
    tcp("from somebody else's address", source_ip_address="192.0.2.1"),
)

EXPECTING = (
    says("expect the first line", GREETS, {"expect": "^220 "}),
    says("expect nothing in particular", GREETS, {"expect": ""}),
    says("expect a later line", then_silence(b"a\nb\n", b"c\nd\n"), {"expect": "^c$"}, {"expect": "^d$"}),
    says(
        "expect a line that is cut",
        then_silence(b"22", Pause(0.05), b"0 ok\r", Pause(0.05), b"\n"),
        {"expect": "^220 ok$"},
    ),
    says("expect a carriage return within", then_silence(b"a\rb\r\r\n"), {"expect": "^a\rb\r$"}),
    says("expect an empty line", then_silence(b"a\n\r\n"), {"expect": "^$"}),
    says("expect a line that is no text", then_silence(b"\xff\xfe x\n"), {"expect": "^.. x$"}),
    says("expect ignores the case", GREETS, {"expect": "(?i)esmtp"}),
    says("expect a plus that follows nothing", talk(b"+OK ready\r\nOK ready\r\n"), {"expect": "^+OK"}),
    says("expect a plus that follows nothing and no line without it", talk(b"+OK ready\r\n"), {"expect": "^+OK"}),
    says("expect a class of Unicode", then_silence("naïve\n".encode()), {"expect": r"^\pL+$"}),
    says("expect bytes by their numbers", then_silence(b"\x00\x01\n"), {"expect": r"^\x00\x01$"}),
    says("expect over the end of a line", talk(b"a\nb\n"), {"expect": r"a\nb"}),
    says("expect the end of any line", then_silence(b"a\n"), {"expect": r"(?m)^a$"}),
    says("expect what is long", then_silence(b"x" * 1000 + b"\n"), {"expect": "^x{1000}$"}),
    says("expect and the end", talk(b"a\nb\n"), {"expect": "c"}),
    says("expect and the end at once", talk(), {"expect": "c"}),
    says("expect and a line without an end", talk(b"a\nlast"), {"expect": "^last$"}),
    says("expect and a line without an end and a return", talk(b"last\r"), {"expect": "^last$"}),
    says("expect twice and a line without an end", talk(b"last"), {"expect": "last"}, {"expect": "last"}),
    says("expect after a line without an end", talk(b"other"), {"expect": "^last$"}),
    says("expect and silence", SILENT, {"expect": "c"}, timeout=SHORT),
    says("expect and silence after a line", then_silence(b"a\n"), {"expect": "c"}, timeout=SHORT),
    says("expect and silence after half a line", then_silence(b"a"), {"expect": "c"}, timeout=SHORT),
    says("expect and a reset", talk(b"a\n", Pause(0.1), end=End.RESET), {"expect": "c"}),
    says("expect and a reset in a line", talk(b"c", Pause(0.1), end=End.RESET), {"expect": "c"}),
    says(
        "expect a prompt",
        then_silence(b"login: ", Hear(), b"Password: ", Hear(), b"\r\nwelcome\r\n"),
        {"expect": "login: ", "send": "me"},
        {"expect": "Password", "send": "x"},
        {"expect": "^welcome$"},
        timeout=SHORT,  # the original waits for the end of a line
    ),
    says(
        "expect a prompt that goes on",
        then_silence(b"a", Pause(0.2), b"b\n"),
        {"expect": "^a(.*)$", "labels": [label("rest", "$1")]},
    ),
    says("expect a drip", then_silence(Repeat(b".", 20, 0.01), b"ok\n"), {"expect": r"\.ok"}),
    says("expect a line of 65535", then_silence(b"x" * 65535 + b"\n"), {"expect": "x$"}),
    says("expect a line of 65536", then_silence(b"x" * 65536 + b"\n"), {"expect": "x$"}),
    says("expect a line of 65534 and a return", then_silence(b"x" * 65534 + b"\r\n"), {"expect": "x$"}),
    says("expect a line of 65535 and a return", then_silence(b"x" * 65535 + b"\r\n"), {"expect": "x$"}),
    says("expect a line of 65535 and the end", talk(b"x" * 65535), {"expect": "x$"}),
    says("expect a line of 65536 and the end", talk(b"x" * 65536), {"expect": "x$"}),
    says(
        "expect after a line of 65536", then_silence(b"ok\n" + b"x" * 65536 + b"\n"), {"expect": "ok"}, {"expect": "x"}
    ),
    says("expect after many lines", then_silence(b"no\n" * 30000, b"yes\n"), {"expect": "yes"}),
)

BYTES = (
    says("expect_bytes", then_silence(b"abc"), {"expect_bytes": "abc"}),
    says("expect_bytes of fewer", then_silence(b"abcdef"), {"expect_bytes": "abc"}, {"expect_bytes": "def"}),
    says("expect_bytes of others", then_silence(b"abd"), {"expect_bytes": "abc"}),
    says("expect_bytes of others and more", then_silence(b"xyzxyz"), {"expect_bytes": "abc"}),
    says("expect_bytes and the end", talk(), {"expect_bytes": "abc"}),
    says("expect_bytes and the end too soon", talk(b"ab"), {"expect_bytes": "abc"}),
    says("expect_bytes that start otherwise", then_silence(b"xy"), {"expect_bytes": "abc"}),
    says("expect_bytes and silence", SILENT, {"expect_bytes": "abc"}, timeout=SHORT),
    says("expect_bytes and a reset", talk(Pause(0.1), end=End.RESET), {"expect_bytes": "abc"}),
    says("expect_bytes in pieces", then_silence(b"a", Pause(0.1), b"bc"), {"expect_bytes": "abc"}),
    says(
        "expect_bytes that a line came with",
        then_silence(b"ok\nabc"),
        {"expect": "ok"},
        {"expect_bytes": "abc"},
        timeout=SHORT,
    ),
    says(
        "expect_bytes and then a line",
        then_silence(b"abc", Pause(0.1), b"ok\n"),
        {"expect_bytes": "abc"},
        {"expect": "^ok$"},
    ),
    says("expect_bytes of none", then_silence(b"abc"), {"expect_bytes": ""}, {"expect_bytes": "abc"}),
    says("expect_bytes of many", then_silence(b"x" * 4000), {"expect_bytes": "x" * 4000}),
    says("expect_bytes beyond ASCII", then_silence("é".encode()), {"expect_bytes": "é"}),
    says("expect_bytes with a newline", then_silence(b"a\r\nb"), {"expect_bytes": "a\r\nb"}),
    says("expect_bytes that are no text", then_silence(b"\x00\xff"), {"expect_bytes": b"\x00\xff"}),
    says("expect_bytes and an answer", then_silence(b"S", Hear()), {"expect_bytes": "S", "send": "$0 ${1}"}),
    says("expect_bytes in TLS", then_silence(Secure(), b"abc"), {"expect_bytes": "abc"}, tls=True, tls_config=TRUST),
)

SENDING = (
    says("send", talk(Hear(), b"bye\n"), {"send": "hello"}, {"expect": "bye"}),
    says("send a dollar", talk(Hear(), b"bye\n"), {"send": "$0 ${1} $$"}, {"expect": "bye"}),
    says("send nothing", talk(b"bye\n"), {"send": ""}, {"expect": "bye"}),
    says("send bytes", talk(Hear(9), b"bye\n"), {"send": b"\x00\x00\x00\x08\x04\xd2\x16\x2f"}, {"expect": "bye"}),
    says("send several lines", talk(Hear(lines=3), b"bye\n"), {"send": "a\r\nb\r\nc\r"}, {"expect": "bye"}),
    says("send to nobody who listens", talk(b"ok\n"), {"expect": "ok", "send": "hello"}, {"expect": "more"}),
    says("send after the end", talk(b"ok\n", Finish(), Hear()), {"expect": "ok", "send": "hello"}),
    says("send at last", then_silence(b"ok\n", Hear()), {"expect": "ok", "send": "QUIT"}),
    says("send a long line", talk(Hear(), b"bye\n"), {"send": "x" * 20000}, {"expect": "bye"}),
    says("send beyond ASCII", talk(Hear(), b"bye\n"), {"send": "grün"}, {"expect": "bye"}),
    says(
        "send in TLS",
        talk(Secure(), Hear(), b"bye\n"),
        {"send": "hello"},
        {"expect": "bye"},
        tls=True,
        tls_config=TRUST,
    ),
    says(
        "everything in one entry",
        then_silence(b"go\n", Hear(), Secure(), b"ok\n"),
        {"expect": "(g)o", "send": "$1", "labels": [label("said", "$1")], "starttls": True},
        {"expect": "ok"},
        tls_config=TRUST,
    ),
    says(
        "bytes and TLS in one entry",
        then_silence(b"go", Hear(), Secure(), b"ok\n"),
        {"expect_bytes": "go", "send": "$1", "starttls": True},
        {"expect": "ok"},
        tls_config=TRUST,
    ),
    says("null entry", then_silence(b"ok\n"), {}, {"expect": "ok"}),
    says(
        "template of the worked example",
        then_silence(b"220 host ESMTP x\n", Hear()),
        {"expect": "^220 ([^ ]+) ESMTP (.+)$", "send": "EHLO ${1} $2x $3 ${2} $$ $0"},
    ),
    *(
        says(
            f"template {name}",
            then_silence(b"220 host\n", Hear()),
            {"expect": r"^(?P<code>\d+) (h(x)?\w+)$", "send": f"<{text}>"},
        )
        for name, text in (
            ("of a name", "$code ${code}"),
            ("of an unknown name", "$nobody ${nobody}."),
            ("of a group unused", "$3"),
            ("of the whole", "$0"),
            ("of a number too large", "$9 $123456789 $99999999999"),
            ("of leading zeros", "$01 $00 ${02}"),
            ("of a name too long", "$codes $1x $code_"),
            ("unclosed", "${1 ${code"),
            ("of odd braces", "${} ${1x} ${ 1} ${1-2} {$1}"),
            ("of dollars", "$$1 $$$1 $ $- $"),
            ("beyond ASCII", "$1é ${é} $é. $1²"),
            ("of a negative", "$-1 ${-1}"),
        )
    ),
    says(
        "template of bytes that are no text",
        then_silence(b"\xff\xfe\n", Hear()),
        {"expect": "^(.)(.)$", "send": b"\xfd $2 $1 \xfc"},
    ),
    says("template that is empty", then_silence(b"ok\n", Pause(0.05)), {"expect": "ok()", "send": "$1"}),
    says("template of a prompt at the end", talk(b"go", Finish(), Hear()), {"expect": "g(o)", "send": "$1"}),
)

LABELS = (
    says("labels", GREETS, {"expect": "^220 ([^ ]+) (.*)$", "labels": [label("host", "$1"), label("what", "<${2}>")]}),
    says("labels that say nothing", GREETS, {"expect": "220", "labels": []}),
    says(
        "labels of nothing",
        GREETS,
        {"expect": "(9)?220", "labels": [label("a", "$1"), label("b", "$7"), label("c", "")]},
    ),
    says("labels without expect", SILENT, {"labels": [label("a", "b")]}),
    says("labels and no match", talk(b"no\n"), {"expect": "yes", "labels": [label("a", "b")]}),
    says(
        "labels and a failure later",
        talk(b"yes\n"),
        {"expect": "(y)es", "labels": [label("a", "$1")]},
        {"expect": "no"},
    ),
    says("labels with a name of other signs", GREETS, {"expect": "220", "labels": [label("a-b.c", "x")]}),
    says("labels with a name that begins with a digit", GREETS, {"expect": "220", "labels": [label("1st", "x")]}),
    says(
        "labels beyond ASCII",
        then_silence("é ü\n".encode()),
        {"expect": "^(.) (.)$", "labels": [label("a", "$1"), label("b", "ö")]},
    ),
    says("labels with quotes", then_silence(b'a"b\\c\td\n'), {"expect": "(.*)", "labels": [label("a", "$1")]}),
)

SECURE = (
    tcp("of TLS", then_silence(Secure()), tls=True, tls_config=TRUST),
    tcp("of TLS 1.2", then_silence(Secure(maximum=ssl.TLSVersion.TLSv1_2)), tls=True, tls_config=TRUST),
    tcp("of TLS by IPv6", then_silence(Secure()), "[::1]:{port}", tls=True, tls_config=TRUST),
    tcp(
        "of TLS by a name",
        then_silence(Secure("localhost_only")),
        "localhost:{port}",
        tls=True,
        tls_config=TRUST,
        preferred_ip_protocol="ip4",
    ),
    tcp("of TLS by another name", then_silence(Secure("localhost_only")), tls=True, tls_config=TRUST),
    tcp(
        "of TLS with server_name",
        then_silence(Secure("localhost_only")),
        tls=True,
        tls_config={**TRUST, "server_name": "localhost"},
    ),
    tcp("of TLS unverified", then_silence(Secure("self_signed")), tls=True, tls_config=ANY),
    tcp("of TLS self-signed", then_silence(Secure("self_signed")), tls=True, tls_config=TRUST),
    tcp("of TLS expired", then_silence(Secure("expired")), tls=True, tls_config=TRUST),
    tcp("of TLS not yet valid", then_silence(Secure("not_yet_valid")), tls=True, tls_config=TRUST),
    tcp("of TLS wrong name", then_silence(Secure("wrong_name")), tls=True, tls_config=TRUST),
    tcp(
        "of TLS with a name in the subject alone", then_silence(Secure("common_name_only")), tls=True, tls_config=TRUST
    ),
    tcp("of TLS for clients", then_silence(Secure("for_clients")), tls=True, tls_config=TRUST),
    tcp(
        "of TLS with a wildcard",
        then_silence(Secure("wildcard")),
        tls=True,
        tls_config={**TRUST, "server_name": "a.example.test"},
    ),
    tcp("of TLS without the intermediate", then_silence(Secure("no_intermediate")), tls=True, tls_config=TRUST),
    tcp(
        "of TLS with the intermediate as CA",
        then_silence(Secure("no_intermediate")),
        tls=True,
        tls_config={"ca_file": "pki/intermediate.pem"},
    ),
    tcp(
        "of TLS with the leaf as CA",
        then_silence(Secure("self_signed")),
        tls=True,
        tls_config={"ca_file": "pki/self_signed.pem"},
    ),
    tcp("of TLS with the CA inline", then_silence(Secure()), tls=True, tls_config={"ca": "{pki/root.pem}"}),
    tcp("of TLS with a rich subject", then_silence(Secure("rich")), tls=True, tls_config=TRUST),
    tcp(
        "of TLS 1.2 alone and 1.3 wanted",
        then_silence(Secure(maximum=ssl.TLSVersion.TLSv1_2)),
        tls=True,
        tls_config={**TRUST, "min_version": "TLS13"},
    ),
    tcp(
        "of TLS 1.3 alone and 1.2 wanted",
        then_silence(Secure(minimum=ssl.TLSVersion.TLSv1_3)),
        tls=True,
        tls_config={**TRUST, "max_version": "TLS12"},
    ),
    tcp(
        "of TLS with minimum above maximum",
        then_silence(Secure()),
        tls=True,
        tls_config={**TRUST, "min_version": "TLS13", "max_version": "TLS12"},
    ),
    tcp("of TLS unverified and expired", then_silence(Secure("expired")), tls=True, tls_config=ANY),
    tcp("of TLS from an address", then_silence(Secure()), tls=True, tls_config=TRUST, source_ip_address="127.0.0.9"),
    tcp(
        "of TLS without the client certificate",
        then_silence(Secure(client_ca="root", maximum=ssl.TLSVersion.TLSv1_2)),
        tls=True,
        tls_config=TRUST,
    ),
    tcp(
        "of TLS with a stranger's client certificate",
        then_silence(Secure(client_ca="root", maximum=ssl.TLSVersion.TLSv1_2)),
        tls=True,
        tls_config={**TRUST, "cert_file": "pki/foreign_client.pem", "key_file": "pki/foreign_client.key"},
    ),
    tcp(
        "of TLS with a client certificate that is not there",
        then_silence(Secure()),
        tls=True,
        tls_config={**TRUST, "cert_file": "pki/none.pem", "key_file": "pki/client.key"},
    ),
    tcp(
        "of TLS with a key of another certificate",
        then_silence(Secure()),
        tls=True,
        tls_config={**TRUST, "cert_file": "pki/client.pem", "key_file": "pki/leaf.key"},
    ),
    tcp("of TLS config without TLS", tls_config={"ca_file": "pki/none.pem"}),
    tcp("of TLS with a CA that is not there", then_silence(Secure()), tls=True, tls_config={"ca_file": "pki/none.pem"}),
    tcp(
        "of TLS with a client certificate",
        then_silence(Secure(client_ca="root")),
        tls=True,
        tls_config={**TRUST, "cert_file": "pki/client.pem", "key_file": "pki/client.key"},
    ),
    tcp("of TLS where there is none", then_silence(b"220 hello\n"), tls=True, tls_config=TRUST),
    tcp("of TLS and the end", talk(), tls=True, tls_config=TRUST),
    tcp("of TLS and silence", SILENT, tls=True, tls_config=TRUST, timeout=SHORT),
    tcp("of TLS on a dead port", target="127.0.0.1:{dead}", tls=True, tls_config=TRUST),
    says(
        "in TLS",
        then_silence(Secure(), b"220 ok\r\n", Hear()),
        {"expect": "^220 (ok)$", "send": "$1"},
        tls=True,
        tls_config=TRUST,
    ),
    says("in TLS and the end", talk(Secure(), b"220 ok"), {"expect": "^250 "}, tls=True, tls_config=TRUST),
    says(
        "starttls",
        then_silence(b"220 a\r\n", Hear(), b"250 b\r\n", Hear(), b"220 go\r\n", Secure(), Hear(), b"250 c\r\n", Hear()),
        {"expect": "^220 ", "send": "EHLO x\r"},
        {"expect": "^250 ", "send": "STARTTLS\r"},
        {"expect": "^220 go", "starttls": True},
        {"send": "EHLO y\r"},
        {"expect": "^250 c", "send": "QUIT\r"},
        tls_config=TRUST,
    ),
    says(
        "starttls after bytes",
        then_silence(Hear(9), b"S", Secure()),
        {"send": b"\x00\x00\x00\x08\x04\xd2\x16\x2f"},
        {"expect_bytes": "S"},
        {"starttls": True},
        tls_config=TRUST,
    ),
    says("starttls at once", then_silence(Secure(), b"ok\n"), {"starttls": True}, {"expect": "ok"}, tls_config=TRUST),
    says(
        "starttls with more than was asked for",
        then_silence(b"220 go\r\nRSET\r\n", Secure(), b"250 ok\r\n"),
        {"expect": "^220 go", "starttls": True},
        {"expect": "."},
        tls_config=TRUST,
    ),
    says(
        "starttls after bytes and more",
        then_silence(b"SX", Secure()),
        {"expect_bytes": "S"},
        {"starttls": True},
        tls_config=TRUST,
    ),
    says(
        "starttls of a stranger",
        then_silence(b"go\n", Secure("unknown_root")),
        {"expect": "go", "starttls": True},
        tls_config=TRUST,
    ),
    says(
        "starttls unverified",
        then_silence(b"go\n", Secure("unknown_root")),
        {"expect": "go", "starttls": True},
        tls_config=ANY,
    ),
    says(
        "starttls refused",
        then_silence(b"go\n", Pause(0.1), b"454 no\r\n"),
        {"expect": "go", "starttls": True},
        tls_config=TRUST,
    ),
    says(
        "starttls and silence",
        then_silence(b"go\n"),
        {"expect": "go", "starttls": True},
        tls_config=TRUST,
        timeout=SHORT,
    ),
    says(
        "starttls and a failure",
        talk(b"go\n", Secure(), b"no\n"),
        {"expect": "go", "starttls": True},
        {"expect": "yes"},
        tls_config=TRUST,
    ),
    Case(
        "tcp with hostname",
        {"tls": True, "tls_config": TRUST},
        "127.0.0.1:{port}",
        talk=then_silence(Secure("localhost_only")),
        parameters={"hostname": "localhost"},
        prober="tcp",
    ),
    Case(
        "tcp with hostname and server_name",
        {"tls": True, "tls_config": {**TRUST, "server_name": "localhost"}},
        "127.0.0.1:{port}",
        talk=then_silence(Secure("localhost_only")),
        parameters={"hostname": "other.test"},
        prober="tcp",
    ),
    Case(
        "tcp with hostname and starttls",
        {"tls_config": TRUST, "query_response": [{"starttls": True}]},
        "127.0.0.1:{port}",
        talk=then_silence(Secure("localhost_only")),
        parameters={"hostname": "localhost"},
        prober="tcp",
    ),
)

UNIX = (
    unix("of a socket", SILENT),
    Case("unix without a block", target="{socket}", talk=SILENT, over="unix", prober="unix", block=False),
    unix("of an abstract socket", SILENT, over="abstract"),
    unix("of no socket", SILENT, target="pki/none.sock"),
    unix("of a file", SILENT, target="pki/root.pem"),
    unix("of a directory", SILENT, target="pki"),
    unix("of an abstract socket that is not there", SILENT, target="@none"),
    unix("of a URL", SILENT, target="unix:///{socket}"),
    unix("of a path too long", SILENT, target="pki/" + "x" * 200),
    unix("says a line", GREETS, {"expect": "^220 ([^ ]+)", "labels": [label("host", "$1")]}),
    unix("says nothing", SILENT, {"expect": "^220"}, timeout=SHORT),
    unix(
        "says bytes",
        then_silence(b"ok\n", Hear(), b"+PONG\r\n"),
        {"expect": "ok", "send": "PING"},
        {"expect_bytes": "+PONG"},
    ),
    unix("says something else", talk(b"no\n"), {"expect": "yes"}),
    unix("says a line without an end", talk(b"last"), {"expect": "^last$"}),
    unix("resets", talk(Pause(0.05), end=End.RESET), {"expect": "yes"}),
    unix("of a blank", SILENT, target=" "),
    unix("of the name of a directory that is not there", SILENT, target="none/none.sock"),
    unix("hears a line", then_silence(b"ok\n", Hear()), {"expect": "(ok)", "send": "$1"}),
    unix("of TLS expired", then_silence(Secure("expired")), tls=True, tls_config={**TRUST, "server_name": "localhost"}),
    unix(
        "of TLS of a stranger",
        then_silence(Secure("unknown_root")),
        tls=True,
        tls_config={**TRUST, "server_name": "localhost"},
    ),
    unix(
        "of TLS where there is none",
        then_silence(b"hello\n"),
        tls=True,
        tls_config={**TRUST, "server_name": "localhost"},
    ),
    unix(
        "of TLS over an abstract socket",
        then_silence(Secure()),
        over="abstract",
        tls=True,
        tls_config={**TRUST, "server_name": "localhost"},
    ),
    unix("of TLS config without TLS", SILENT, tls_config={"ca_file": "pki/none.pem"}),
    unix("says other bytes", talk(b"no\n"), {"expect_bytes": "ye"}),
    unix("of TLS with server_name", then_silence(Secure()), tls=True, tls_config={**TRUST, "server_name": "localhost"}),
    unix("of TLS unverified", then_silence(Secure()), tls=True, tls_config=ANY),
    unix("of TLS without a name", then_silence(Secure()), tls=True, tls_config=TRUST),
    unix(
        "starttls with server_name",
        then_silence(b"go\n", Secure(), b"ok\n"),
        {"expect": "go", "starttls": True},
        {"expect": "ok"},
        tls_config={**TRUST, "server_name": "localhost"},
    ),
    unix("starttls unverified", then_silence(b"go\n", Secure()), {"expect": "go", "starttls": True}, tls_config=ANY),
    unix(
        "starttls without a name", then_silence(b"go\n", Secure()), {"expect": "go", "starttls": True}, tls_config=TRUST
    ),
)

GROUPS: dict[str, tuple[Case, ...]] = {
    "tcp_targets": TARGETS,
    "tcp_expect": EXPECTING,
    "tcp_bytes": BYTES,
    "tcp_send": SENDING,
    "tcp_labels": LABELS,
    "tcp_tls": SECURE,
}
"""Every case of tcp, by its golden file."""

UNIX_GROUPS: dict[str, tuple[Case, ...]] = {"unix": UNIX}
"""The same for unix."""
