"""Add two things to what is built, and never to the tree: the commit, and the scripts for completion in shells.

The commit goes into a REVISION file that `probe_exporter.version` reads. A build without git has none, and neither has
an editable install, which runs the tree itself. The scripts go into wheels; installers put them below the prefix of the
environment, where the shells look (`probe_exporter.tools.completion` has the places).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RECORD = "probe_exporter/REVISION"


class BuildHook(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]  # hatchling is there only while building
    """Adds REVISION to wheels and sdists made from a git checkout, and scripts for completion to wheels."""

    PLUGIN_NAME = "custom"
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files into a scratch directory, before anything is packed."""
        if version == "editable":
            return
        self._scratch = tempfile.TemporaryDirectory()
        scratch, root = Path(self._scratch.name), Path(self.root)
        if self.target_name == "wheel":
            build_data["shared_data"].update(_completion(root, scratch))
        # An sdist already holds the file: it is packed as it is.
        revision = "" if (root / RECORD).exists() else _revision(root)
        if revision:
            record = scratch / "REVISION"
            record.write_text(revision + "\n", encoding="ascii")
            build_data["force_include"][str(record)] = RECORD

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the scratch directory when the artifact is complete."""
        if self._scratch is not None:
            self._scratch.cleanup()


def _completion(root: Path, scratch: Path) -> dict[str, str]:
    """Write the script of each shell; return its place in the installation by the path of the file."""
    sys.path.insert(0, str(root))
    from probe_exporter.tools import completion  # noqa: PLC0415  # the tree that is built

    placed = {}
    for shell, place in completion.PLACES.items():
        file = scratch / shell
        file.write_text(completion.script(shell), encoding="utf-8")
        placed[str(file)] = place
    return placed


def _revision(root: Path) -> str:
    """The checked-out commit of `root`; empty if `root` is not itself the top of a checkout."""
    try:
        command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
        top, revision = answer.stdout.split("\n")[:2]
        return revision if Path(top).resolve() == root.resolve() else ""
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
