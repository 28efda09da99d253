"""Record the commit a build was made from, in a REVISION file that `probe_exporter.version` reads.

The file goes into what is built and never into the tree. A build without git has none, and neither has an editable
install, which runs the tree itself.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RECORD = "probe_exporter/REVISION"


class RevisionHook(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]  # hatchling is there only while building
    """Adds REVISION to wheels and sdists made from a git checkout."""

    PLUGIN_NAME = "custom"
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before anything is packed. An sdist already holds the file: it is packed as it is."""
        if version == "editable" or (Path(self.root) / RECORD).exists():
            return
        revision = _revision(Path(self.root))
        if revision:
            self._scratch = tempfile.TemporaryDirectory()
            record = Path(self._scratch.name) / "REVISION"
            record.write_text(revision + "\n", encoding="ascii")
            build_data["force_include"][str(record)] = RECORD

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the artifact is complete."""
        if self._scratch is not None:
            self._scratch.cleanup()


def _revision(root: Path) -> str:
    """The checked-out commit of `root`; empty if `root` is not itself the top of a checkout."""
    try:
        command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
        top, revision = answer.stdout.split("\n")[:2]
        return revision if Path(top).resolve() == root.resolve() else ""
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
