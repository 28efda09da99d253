"""Send one HTTP request to an exporter, exactly as the test spells it, and return the response."""

from __future__ import annotations

import gzip
import http.client
from collections.abc import Mapping

from tests.exporters import Response


class _AsTyped(http.client.HTTPConnection):
    def _encode_request(self, request: str) -> bytes:
        """Encode a request line as ``curl`` does; the library's own method refuses characters beyond ASCII."""
        return request.encode()


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 300.0,
) -> Response:
    """Send one request on a new connection. A gzip body is decompressed; the header that says so is kept.

    Args:
        timeout: seconds of silence after which a test that hangs fails; not a limit that a test relies on.
    """
    connection = _AsTyped("127.0.0.1", port, timeout=timeout)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    shown = {name.lower(): value for name, value in answer.getheaders()}
    if shown.get("content-encoding") == "gzip":
        content = gzip.decompress(content)
    return Response(answer.status, shown, content)
