"""Odd configurations, for a comparison with the original, and the tables of deliberate differences.

Most odd values are in `odd_values.txt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

DOCUMENTS: list[str | bytes] = [
    "",
    "# c\n",
    "---\n",
    "null\n",
    "{}\n",
    "[]\n",
    "x\n",
    "modules:\n",
    "modules: []\n",
    "modules: x\n",
    "modules: {a: }\n",
    "modules: {a: {}}\n",
    "modules: {a: []}\n",
    "modules: {a: ''}\n",
    "modules: {'': {prober: tcp}}\n",
    "modules: {~: {prober: tcp}}\n",
    "modules: {1: {prober: tcp}}\n",
    "modules: {[]: {prober: tcp}}\n",
    "modules: {a: {prober: tcp}}\n---\nx: [\n",
    "--- {modules: {}}\n",
    "%YAML 1.1\n---\nmodules: {}\n",
    "%YAML 1.2\n---\nmodules: {}\n",
    "%FOO\n---\nmodules: {}\n",
    "\ufeffmodules: {}\n",
    "modules:\r\n  a:\r\n    prober: tcp\r\n",
    "modules:\n\ta: {}\n",
    "\t\nmodules: {}\n",
    "modules:\n  m:\n    prober: tcp\n\t\n    timeout: 5s\n",
    "modules:\n  m:\n    prober:\ttcp\n",
    "modules:\n  m:\n    prober: tcp\t# c\n",
    "modules:\n  m:\n    prober: http\n    http:\n      valid_status_codes: [200,\n\t201]\n",
    "modules: {a: {prober: tcp\n",
    "modules:\n  a: {prober: tcp}\n b: {prober: tcp}\n",
    "modules: {}\nmodules: {}\n",
    "Modules: {}\n",
    '{"modules":{"a":{"prober":"tcp"}}}',
    '{"modules":\t{}}',
    "modules: {a: {prober: !!binary dGNw}}\n",
    "modules: {a: {prober: !!binary dGNé}}\n",
    "modules: !!map {a: {prober: tcp}}\n",
    "modules: !!set {a}\n",
    "modules: !!omap [a: {prober: tcp}]\n",
    "modules: !foo {a: {prober: tcp}}\n",
    "!!str modules: {}\n",
    b"modules: {} # \xff\n",
    b"modules: {\xff: {prober: tcp}}\n",
    "modules: {} # \x01\n",
    "modules: {}\x00",
    "modules: {}".encode("utf-16"),
    "modules: {}".encode("utf-16-le"),
    "a: &a [*a]\n",
    "modules: {}\n...\nx",
    "modules: {}\n... x",
    "? modules\n: {}\n",
    "- modules\n",
    "modules: {a: {prober: tcp},, }\n",
    # anchors and merges
    "modules: {a: &a {prober: tcp}, b: *a}\n",
    "modules: {a: *b}\n",
    "modules: {a: &a {prober: tcp, timeout: 5s}, b: {<<: *a, timeout: 1s}, c: {timeout: 2s, <<: *a}}\n",
    "modules: {a: &a {prober: tcp}, b: {<<: [*a, {timeout: 5s}]}}\n",
    "modules: {a: {<<: 5, prober: tcp}}\n",
    "modules: {a: {<<: [5], prober: tcp}}\n",
    "modules: {a: {<<: null, prober: tcp}}\n",
    "modules: {a: {<<: [], prober: tcp}}\n",
    "modules: {a: {<<: {prober: tcp}, <<: {timeout: 5s}}}\n",
    "modules: {a: {'<<': {prober: tcp}}}\n",
    "modules: {a: {!!merge <<: {prober: tcp}}}\n",
    "modules: {a: &a {<<: *a, prober: tcp}}\n",
    "modules: &a {a: *a}\n",
    "modules: {a: {<<: {<<: {prober: tcp}}}}\n",
    "modules: {<<: {a: {prober: tcp}}}\n",
    "<<: {modules: {}}\n",
    "x: &x {prober: tcp}\nmodules: {a: *x}\n",
    "modules: {a: {prober: tcp, <<: {bogus: 1}}}\n",
    "modules: {a: {<<: {prober: tcp, prober: icmp}}}\n",
    "modules: {a: {<<: {timeout: bogus, prober: tcp}, timeout: 5s}}\n",
    "modules: {a: {<<: [[{prober: tcp}]]}}\n",
    "modules: {&k a: {prober: tcp}, *k : {prober: icmp}}\n",
    "targets: {deny: [127.0.0.1]}\nmodules: {}\n",
]


def _odd_values() -> Iterator[str]:
    """Yield a configuration for each value of the file, with the value in the place that the file gives for it."""
    place = ""
    for line in (Path(__file__).parent / "odd_values.txt").read_text().splitlines():
        if line.startswith("== "):
            place = line.removeprefix("== ")
        elif line and not line.startswith("# "):
            value = line[1:-1] if line.startswith("|") and line.endswith("|") and len(line) > 1 else line
            yield f"{place.replace('!json …', json.dumps(value)).replace('…', value)}\n"


CASES: list[str | bytes] = [*_odd_values(), *DOCUMENTS]


def module(body: str) -> str:
    """Return a configuration with one module."""
    return f"modules: {{m: {{{body}}}}}\n"


def http(keys: str) -> str:
    """Return a configuration with these keys in the http block of its module."""
    return module(f"prober: http, http: {{{keys}}}")


def step(keys: str) -> str:
    """Return a configuration whose module has a dialogue of these steps."""
    return module(f"prober: tcp, tcp: {{query_response: [{keys}]}}")


def pattern(text: str) -> str:
    """… with a regular expression."""
    return step(f"{{expect: {json.dumps(text)}}}")


def expression(text: str) -> str:
    """… with a CEL expression."""
    return http(f"fail_if_body_json_matches_cel: {json.dumps(text)}")


PATTERNS = [
    # repeat counts
    *("x{99999999999}", "x{99999999999,}", "x{1,99999999999}", "{99999999999}", "x{100000000}", "x{99999999}"),
    *("x{099999999999}", "x{1,099999999999}", "x{99999999999", "x{99999999999,x}", "x\\{99999999999}"),
    *("[{99999999999}]", "[^]{99999999999}]", "[]{99999999999}]", "[\\]{99999999999}]", "[[:alpha:]{99999999999}]"),
    *("\\Q{99999999999}\\E", "\\Qx{99999999999}", "x{2}{3}", "x{0}{1000}", "(x{100}){10}", "(x{100}){11}"),
    # nesting: the highest tree has 1,000 levels
    *("(" * deep + "x" + ")" * deep for deep in (999, 1000, 5000)),
    *("(?:" * deep + "x" + ")" * deep for deep in (999, 5000)),
    *("(?:" * deep + "x" + ")*" * deep for deep in (999, 1000)),
    *("(a" * deep + ")" * deep for deep in (500, 501)),
    *("(?:ab|" * deep + "cd" + ")" * deep for deep in (999, 1001)),
    *("(?:ab(?:" * deep + "x" + ")?)?" * deep for deep in (250, 251, 400)),
    "(?i:" * 1001 + "x" + ")" * 1001,
    "(?P<a>" + "(?s)(" * 998 + "\\pL" + ")" * 999,
    "(?P<a>" + "(?s)(" * 999 + "\\pL" + ")" * 1000,
    # size
    "x{1000}" * 3000,
    "|".join(f"a{number}" for number in range(5000)),
]
"""Regular expressions at the limits of Go's package and of RE2's library."""

TOO_LARGE_FOR_GO = "x{1000}" * 3500

EXPRESSIONS = [
    *("has(body.a.b)", 'has(body["a"])', 'has({"a":1}.a)', "has(dyn(body).a)", "has(a)", "has(body.a[0])"),
    *("[1].all(i, v, v > 0)", "[1].exists(i, v, v > 0)", "[1].existsOne(i, v, v > 0)", "[1].exists_one(i, v, v > 0)"),
    *("[1].transformMap(i, v, v) == {0:1}", "[1].transformMapEntry(i, v, {v:i}) == {1:0}", "body.all(x.y, true)"),
    *("cel.block([1], cel.index(0) == 1)", "body.a.optMap(x, x)", "optional.of(1).optFlatMap(x, optional.of(x)) == 1"),
    *("proto.hasExt(body, a.b)", "proto.getExt(body, a.b)", "math.least(1, 2) == 1", "[2, 1].sortBy(x, x) == [1, 2]"),
    *(
        '{"a":1}.exists(k, true)',
        '{"a":1}.map(k, k) == ["a"]',
        "body.map(x, x.map(y, y)) == []",
        "body.filter(x) == []",
    ),
    *(
        "body.map(body, body) == []",
        "[1].map(x, x > 0 ? true : 1) == []",
        "!" * 300 + "true",
        "(" * 31 + "true" + ")" * 31,
    ),
    *(
        'body["a"].all(x, x > 0)',
        'body["a-b"]["c"].exists(x, x.d["e"].exists(y, y == 1))',
        'size(body["a"].map(x, x)) > 1',
    ),
    *('body["a"].all(x, y)', 'body["a"].all(x, x) == 1', 'body["a"].all(x, 1 + "a" == x)', 'nope(body["a"].map(x, x))'),
    *("1.7e308 == body", "body[1.5] == 1", "type(body) == type(1)", " && ".join(["true"] * 1000)),
]
"""CEL expressions: macros, and the limits of cel-go and cel-cpp."""

DEEP_EXPRESSIONS = [
    "(" * 50 + "true" + ")" * 50,
    " + ".join(["1"] * 34) + " == 1",
    "body" + ".a" * 50 + " == 1",
    "[" * 50 + "]" * 50 + " == []",
]

ODD_EXPRESSIONS = ["type(1) == google.protobuf.Any", "1.8e309 == body", "body[null] == 1"]


STRICTER = {
    "a module without a prober, or with one that is not loaded": [
        "modules: {a: }\n",
        "modules: {a: {}}\n",
        "modules: !!set {a}\n",
        module("prober: bogus"),
        module("prober: HTTP"),
        module("prober: ''"),
        module("prober: null"),
        module("prober: 5"),
        module("timeout: 5s"),
    ],
    "labels that can't be exposed; in the original the probe has no answer": [
        step("{labels: [{name: a}, {name: a}]}"),
        step("{labels: [{name: ''}]}"),
        step("{labels: [{value: b}]}"),
        step("{expect: a, labels: [{name: a}]}, {expect: b, labels: [{name: a}]}"),
        step("{labels: [{name: a, value: !!binary /wA=}]}"),
    ],
    "a negative `payload_size`; in the original the probe has no answer": [
        module("prober: icmp, icmp: {payload_size: -1}"),
    ],
    "a number that does not fit into 64 bits; Go silently takes the nearest one": [
        http("valid_status_codes: [-.inf]"),
        http("valid_status_codes: [-9223372036854775809]"),
    ],
    "a tab at the start of a line between comments": [
        "# a\n\t\n# b\nmodules: {}\n",
        "modules:\n  m:\n    prober: tcp\n# a\n\t# b\n    timeout: 5s\n",
    ],
    "an alias as a key that repeats another key": ["modules: {&k a: {prober: tcp}, *k : {prober: icmp}}\n"],
    "a `proxy_url` with a stray bracket": [http("proxy_url: 'http://]'")],
    "names of character classes that RE2 does not know; Go knows them since 1.25": [
        step(f"{{expect: {json.dumps(name)}}}")
        for name in (r"\p{greek}", r"\p{ASCII}", r"\p{Letter}", r"\p{LC}", r"\p{Garay}", r"\p{Cn}", r"\p{Assigned}")
    ],
    "a CEL expression that is nested, or chained with an operator other than `&&` and `||`, more than 32 deep": [
        *map(expression, DEEP_EXPRESSIONS)
    ],
    "`has()` of `has()` in a CEL expression": [expression("has(has(body.a))")],
}
"""Configurations that probe-exporter refuses and the original accepts, by what they have."""

KINDER = {
    "a `description` of a module": [module("prober: tcp, description: x")],
    "keys of a module for all of its connections (`resolver`, `source_ip_address`, `source_interface`, `targets`)": [
        module("prober: tcp, resolver: {servers: [127.0.0.1]}"),
        module("prober: http, source_ip_address: 127.0.0.1"),
        module("prober: icmp, source_interface: eth0"),
        module("prober: tcp, targets: {allow: [127.0.0.1], deny: []}"),
        "targets: {deny: [127.0.0.1]}\nmodules: {}\n",
    ],
    "the key `discovery` of a file, with sources of targets for Prometheus' HTTP service discovery": [
        "modules: {m: {prober: tcp}}\ndiscovery: {mail: {mx: example.org, module: m, port: 25}}\n",
    ],
    "lists of metrics of a module to expose, or not to (`keep`, `drop`)": [
        module("prober: tcp, keep: [probe_duration_seconds]"),
        module("prober: icmp, drop: ['probe_icmp_rtt_.*']"),
    ],
    "keys of a module for several runs in one probe (`addresses`, `attempts`)": [
        module("prober: tcp, addresses: all"),
        module("prober: http, attempts: {max: 2, delay: 200ms}"),
    ],
    "a file that declares YAML 1.2": ["%YAML 1.2\n---\nmodules: {}\n"],
    "a regular expression that compiles to more than 3,355,443 instructions": [pattern(TOO_LARGE_FOR_GO)],
    "a CEL expression with `null` as an index, a number beyond a 64-bit float, or a protobuf type unknown to "
    "the original": [*map(expression, ODD_EXPRESSIONS)],
}
"""Configurations that probe-exporter accepts and the original refuses, by what they have."""

CASES += [*map(pattern, PATTERNS), *map(expression, EXPRESSIONS)]
CASES += [text for table in (STRICTER, KINDER) for texts in table.values() for text in texts if text not in CASES]
