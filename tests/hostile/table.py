"""All cases, from the files of all families."""

from __future__ import annotations

from tests.hostile import bodies, datagrams, dns, http1, http2, http3, library, lines, pages, slow, tls, websocket

FAMILIES = (http1, bodies, pages, http2, http3, websocket, dns, tls, lines, datagrams, library, slow)

CASES = tuple(case.of(family.__name__.rpartition(".")[2]) for family in FAMILIES for case in family.cases())
