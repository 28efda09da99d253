"""Change settings of one module while its file is read, for `probe-exporter run --set`.

The change is made in the tree of nodes, so that changed settings are checked together with those of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from probe_exporter.config.nodes import Node


class Change(NamedTuple):
    """New settings of a module.

    Args:
        module: its name.
        settings: the keys from the prober's block to the setting, and the new value.
    """

    module: str
    settings: Sequence[tuple[tuple[str, ...], Node]]

    def applied(self, root: Node) -> Node | None:
        """Return the tree of a file with the change; None if the file does not have the module."""
        modules = _get(root, "modules")
        module = None if modules is None else _get(modules, self.module)
        prober = None if module is None else _get(module, "prober")
        if prober is None:
            return None
        for keys, value in self.settings:
            root = _with(root, ("modules", self.module, prober.text, *keys), value)
        return root


def _get(mapping: Node, key: str) -> Node | None:
    """Return the value of a key, also from what a mapping merges (``<<``); None if there is none."""
    for own, value in mapping.pairs:
        if own.text == key and not own.is_merge:
            return value
    for own, value in mapping.pairs:
        for merged in (value.items or [value]) if own.is_merge else ():
            found = _get(merged, key)
            if found is not None:
                return found
    return None


def _with(node: Node | None, keys: Sequence[str], value: Node) -> Node:
    """Return a node with a new value below it; nodes on the way are copied, as aliases may share them."""
    if not keys:
        return value
    first, *rest = keys
    if node is None or node.kind != "mapping":
        node = replace(value, kind="mapping", tag="", text="", items=[], pairs=[])
    inner = _with(_get(node, first), rest, value)
    key = next((own for own, _ in node.pairs if own.text == first and not own.is_merge), None)
    if key is None:
        name = replace(value, kind="scalar", tag="!!str", text=first, items=[], pairs=[])
        return replace(node, pairs=[*node.pairs, (name, inner)])
    return replace(node, pairs=[(own, inner if own is key else old) for own, old in node.pairs])
