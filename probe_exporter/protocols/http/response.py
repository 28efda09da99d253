"""A response's head, whatever version of HTTP brought it."""

from __future__ import annotations

from probe_exporter.prober.failure import ProbeFailed

Headers = list[tuple[str, str]]


class Response:
    """What a server answered.

    Attributes:
        status: the code; 0 while there is none.
        version: ``1.0``, ``1.1``, ``2.0``, ``3.0``.
        headers: names as received, with their values, in order.
    """

    def __init__(self, method: str) -> None:
        """
        Args:
            method: of the request; a response to HEAD has no body whatever its headers say.
        """
        self.status = 0
        self.version = ""
        self.headers: Headers = []
        self._to_head = method == "HEAD"
        self._by_name: dict[str, list[str]] | None = None

    def get(self, name: str) -> str | None:
        """The first value of a header, by its lower-case name; once the head is complete."""
        values = self.get_all(name)
        return values[0] if values else None

    def get_all(self, name: str) -> list[str]:
        """All values of a header, by its lower-case name; once the head is complete."""
        if self._by_name is None:
            self._by_name = {}
            for key, value in self.headers:
                self._by_name.setdefault(key.lower(), []).append(value)
        return self._by_name.get(name, [])

    @property
    def has_body(self) -> bool:
        """Whether a body may follow the head (RFC 9110, section 6.4.1)."""
        return not (self._to_head or self.status in (204, 304) or 100 <= self.status < 200)

    @property
    def content_length(self) -> int:
        """The announced length of the body; -1 if unknown, 0 if there can be none. For HEAD what the header says."""
        if not (self.has_body or self._to_head):
            return 0
        value = (self.get("content-length") or "").strip()
        return int(value.lstrip("0") or "0") if value.isascii() and value.isdigit() else -1


class IncomingResponse(Response):
    """A response on its way: what the readers of all versions have in common.

    Attributes:
        head_complete, complete: how much of the response has arrived.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.head_complete = False
        self.complete = False
        self._pieces: list[bytes] = []
        self._failure: ProbeFailed | None = None  # of the body; told once what came before it has been taken

    def take_body(self) -> bytes:
        """What of the body has been read since the last call.

        Raises:
            ProbeFailed: the body broke off or breaks the protocol, and all that was good of it has been taken.
        """
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            return data
        if self._failure is not None:
            raise self._failure
        return b""
