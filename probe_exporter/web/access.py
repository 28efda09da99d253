"""Access control by the web config file, for every request: rate limit, then users, then extra response headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from probe_exporter.web.answers import Answer, Refused, refusal
from probe_exporter.web.authentication import Passwords, credentials
from probe_exporter.web.rate_limit import TokenBucket
from probe_exporter.web.request import WebRequest

if TYPE_CHECKING:
    from probe_exporter.web.config_file import LiveWebConfig


class AccessControl:
    """Passes requests on to the endpoints, or refuses them."""

    def __init__(
        self,
        answer: Callable[[WebRequest], Awaitable[Answer]],
        count: Callable[[WebRequest, int], None],
        live: LiveWebConfig,
        workers: int = 1,
    ) -> None:
        """
        Args:
            answer: the endpoints.
            count: called with each refused request and its status.
            live: the web config file.
            workers: the number of worker processes, which share the rate limit.
        """
        self._answer = answer
        self._count = count
        self._live = live
        self._passwords = Passwords()
        self._workers = workers
        self._bucket = TokenBucket(live.current.settings.rate_limit, workers, 0.0)

    async def __call__(self, request: WebRequest) -> Answer:
        """Answer one request."""
        settings = self._live.current.settings
        now = asyncio.get_running_loop().time()
        if settings.rate_limit != self._bucket.limit:
            self._bucket = TokenBucket(settings.rate_limit, self._workers, now)
        if not self._bucket.take(now):
            return self._refuse(request, Refused(429, "Too many requests"))
        try:
            await self._authenticate(request, settings.basic_auth_users)
        except Refused as refused:
            response = self._refuse(request, refused)
        else:
            response = await self._answer(request)
        response.add_fields(settings.http_server_config.headers)
        return response

    def _refuse(self, request: WebRequest, refused: Refused) -> Answer:
        self._count(request, refused.status)
        return refusal(refused)

    async def _authenticate(self, request: WebRequest, users: Mapping[str, str]) -> None:
        """Check the credentials of a request.

        Raises:
            Refused: the file has users, and the request has the name and password of none of them.
        """
        if not users:
            return
        given = credentials(request.headers.get("Authorization", ""))
        if given is None or not await self._passwords.match(users, *given):
            raise Refused(401, "Unauthorized", **{"WWW-Authenticate": "Basic"})

    def close(self) -> None:
        """End the thread that checks passwords."""
        self._passwords.close()
