"""Reserve ports that modules name, because the configuration is written before the targets listen."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from typing import TypeVar

from tests.targets.site import both_loopbacks

T = TypeVar("T")

_PLACEHOLDER = re.compile(r"\{(port|tls_port|dead|proxy|tls_proxy)\}")


class Ports:
    """A bound port for each placeholder in the settings of each module; `Site` listens on it later."""

    def __init__(self, modules: Mapping[str, object]) -> None:
        """
        Args:
            modules: settings by module name.
        """
        self._held: list[socket.socket] = []
        self._ports = {name: {word: self._hold() for word in _words(settings)} for name, settings in modules.items()}

    def of(self, module: str) -> Mapping[str, int]:
        """Return the ports of one module by placeholder."""
        return self._ports.get(module, {})

    def fill(self, module: str, settings: T) -> T:
        """Return a module's settings with port numbers in place of placeholders."""
        return _replaced(settings, self.of(module))

    def close(self) -> None:
        """Release all ports."""
        for one in self._held:
            one.close()

    def _hold(self) -> int:
        sockets = both_loopbacks()
        self._held += sockets
        return int(sockets[0].getsockname()[1])


def _words(value: object) -> Iterable[str]:
    if isinstance(value, str):
        return set(_PLACEHOLDER.findall(value))
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return {word for part in parts for word in _words(part)}


def _replaced(value: T, ports: Mapping[str, int]) -> T:
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda found: str(ports[found[1]]), value)  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {name: _replaced(one, ports) for name, one in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [_replaced(one, ports) for one in value]  # type: ignore[return-value]
    return value
