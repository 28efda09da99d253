"""Every cache that counts entries is listed with the reason why no stranger can fill it; others are bounded in bytes.

A cache of 4,096 query strings of 64 KiB once took hundreds of megabytes. `cache.remembered` is bounded in
bytes, and for everything that a client or a target chooses.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

ONE = "has one entry, or one for each file of this machine"
OURS = "the argument comes from the configuration or from a prober's author"
SHORT = "the length of the argument is checked before"

CACHES = {
    "probe_exporter/config/loading.py": {"_with_network": "the length of a parameter's value is limited by the module"},
    "probe_exporter/config/series.py": {"_measured": OURS},
    "probe_exporter/exposition/encoding.py": {"_warn_of_duplicate": OURS},
    "probe_exporter/exposition/merging.py": {"_warn_of_another_type": OURS},
    "probe_exporter/network/lookup.py": {"_parse_hosts": ONE},
    "probe_exporter/network/quic_connection.py": {"_replace_functions": "the argument is one of five words of aioquic"},
    "probe_exporter/network/resolv_conf.py": {"_read_resolv_conf": ONE, "_read_sources": ONE},
    "probe_exporter/plugins/inventory.py": {"_AROUND": "no cache: the type of one"},
    "probe_exporter/probers/grpc.py": {"_proxies": ONE},
    "probe_exporter/probers/websocket.py": {"_conversation": ONE},
    "probe_exporter/protocols/grpc/call.py": {"_exchange": ONE},
    "probe_exporter/protocols/http/checks.py": {"_parse_date": SHORT},
    "probe_exporter/protocols/http/cookies.py": {"_suffixes": ONE},
    "probe_exporter/protocols/http/header_block.py": {"_decode_short": SHORT},
    "probe_exporter/protocols/http/http1.py": {"check_method": OURS},
    "probe_exporter/protocols/icmp/pings.py": {"_hops": OURS},
    "probe_exporter/settings/cel.py": {"_cel_compiler": ONE},
    "probe_exporter/values/jsonpath_library.py": {"_regexp": OURS, "_environment": ONE},
    "probe_exporter/web/html/assets.py": {"asset": "the argument is a constant"},
    "modules/ldap.py": {"compile_filter": OURS},
    "modules/postgres.py": {"_salted": "the password is the module's, and a salt is part of a message of bounded size"},
}


def caches(node: ast.AST, name: str = "") -> Iterator[str]:
    """Yield the function or the constant of each use of `functools.lru_cache` or `functools.cache`."""
    match node:
        case ast.FunctionDef(name=function) | ast.AsyncFunctionDef(name=function):
            name = function
        case ast.Assign(targets=[ast.Name(id=constant)]) | ast.AnnAssign(target=ast.Name(id=constant)) if not name:
            name = constant
        case (
            ast.Name(id="lru_cache" | "cache")
            | ast.Attribute(value=ast.Name(id="functools"), attr="lru_cache" | "cache")
        ):
            yield name
    for child in ast.iter_child_nodes(node):
        yield from caches(child, name)


def test_every_cache_that_counts_entries_is_listed_with_its_reason() -> None:
    found: dict[str, set[str]] = {}
    for folder in ("probe_exporter", "modules"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if "functools" in source and (names := set(caches(ast.parse(source)))):
                found[str(path.relative_to(ROOT))] = names
    assert found == {file: set(names) for file, names in CACHES.items()}
