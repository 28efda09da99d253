"""Cookies between the hops of one probe (RFC 6265): aiohttp's jar, and the public suffix rule that it leaves out."""

from __future__ import annotations

from functools import cache
from http.cookies import CookieError, SimpleCookie

import yarl
from aiohttp import CookieJar
from publicsuffixlist import PublicSuffixList

from probe_exporter.http.url import URL


@cache
def _suffixes() -> PublicSuffixList:
    """The list that ships with its package; loaded when a cookie first names a domain."""
    return PublicSuffixList(accept_unknown=True)


class Cookies:
    """A jar that lives as long as one probe. Keyed by the host as typed, not by its address."""

    def __init__(self) -> None:
        self._jar = CookieJar(unsafe=True)  # hosts that are addresses have cookies too

    def store(self, url: URL, values: list[str]) -> None:
        """Take the ``Set-Cookie`` values of a response from `url`; what can't be read is passed over."""
        for value in values:
            try:
                parsed = SimpleCookie(value)
            except CookieError:
                continue
            for morsel in parsed.values():
                domain = morsel["domain"].lstrip(".").lower()
                if domain and domain != url.host.lower() and _suffixes().is_public(domain):
                    continue  # section 5.3, step 5: a cookie for all of co.uk
                self._jar.update_cookies({morsel.key: morsel}, yarl.URL(str(url)))

    def header(self, url: URL) -> str:
        """The value of the ``Cookie`` header for a request to `url`; empty if there is none to send."""
        found = self._jar.filter_cookies(yarl.URL(str(url)))
        return "; ".join(f"{cookie.key}={cookie.coded_value}" for cookie in found.values())
