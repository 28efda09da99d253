"""What stands in front of all endpoints where a web config file says so: rate limit, headers, users. In that order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping

from aiohttp.web import BaseRequest

from probe_exporter.web.answers import Answer, Refused, refusal
from probe_exporter.web.authentication import Passwords, credentials
from probe_exporter.web.config_file import LiveWebConfig, RateLimit


class Bucket:
    """Tokens that come back at a steady pace, up to a number; each worker has its share, and at least one."""

    def __init__(self, limit: RateLimit, workers: int, now: float) -> None:
        self.limit = limit
        self._interval = limit.interval * workers
        self._most = math.ceil(limit.burst / workers)
        self._tokens = float(self._most)
        self._since = now

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        if self._interval <= 0:
            return True
        self._tokens = min(self._most, self._tokens + (now - self._since) / self._interval)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Door:
    """Lets requests through to what answers them, or not."""

    def __init__(
        self,
        answer: Callable[[BaseRequest], Awaitable[Answer]],
        count: Callable[[BaseRequest, int], None],
        live: LiveWebConfig,
        workers: int = 1,
    ) -> None:
        """
        Args:
            answer: the endpoints.
            count: told of each request that does not come to them, and its status.
            live: the web config file.
            workers: how many doors there are like this one.
        """
        self._answer = answer
        self._count = count
        self._live = live
        self._passwords = Passwords()
        self._workers = workers
        self._bucket = Bucket(live.current.settings.rate_limit, workers, 0.0)

    async def __call__(self, request: BaseRequest) -> Answer:
        """Answer one request."""
        settings = self._live.current.settings
        now = asyncio.get_running_loop().time()
        if settings.rate_limit != self._bucket.limit:
            self._bucket = Bucket(settings.rate_limit, self._workers, now)
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

    def _refuse(self, request: BaseRequest, refused: Refused) -> Answer:
        self._count(request, refused.status)
        return refusal(refused)

    async def _authenticate(self, request: BaseRequest, users: Mapping[str, str]) -> None:
        """Raises: Refused: it is nobody that the file knows."""
        if not users:
            return
        given = credentials(request.headers.get("Authorization", ""))
        if given is None or not await self._passwords.match(users, *given):
            raise Refused(401, "Unauthorized", **{"WWW-Authenticate": "Basic"})

    def close(self) -> None:
        """Let go of what answers questions about passwords."""
        self._passwords.close()
