"""Build the documentation as a site: `make site`, or `python docs/site.py DIRECTORY` for another place than build/.

The pages link to each other, to examples and to sources by relative paths, so that they work in a checkout. The site
keeps the layout of the checkout: this script copies what the documentation links to into one folder, and zensical
renders it as mkdocs.yml says. `--strict` fails on links and anchors that lead nowhere. Any web server can serve the
result. Search needs one, because browsers let no page of a file read other files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

COPIED = ("docs", "examples", "modules", "deploy", "benchmarks", "*.md", "LICENSE")
"""What the documentation consists of and links to."""

TEXT_SUFFIXES = {".md", ".yml", ".yaml", ".py", ".json", ".png", ".svg", ".css", ".txt", ".lua", ""}

FENCE_WITH_FILE = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)
"""The first line of a code block that has the name of its file, such as ``python teapot.py``."""


def main(directory: Path = ROOT / "build") -> int:
    """Write the site to DIRECTORY/site. Return zensical's exit code, which is not 0 if a link leads nowhere."""
    assemble(directory / "site-source")
    settings = directory / "mkdocs.yml"
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    settings.write_text(text.replace("_dir: build/", "_dir: "), encoding="utf-8")  # paths are relative to this file
    zensical = Path(sys.executable).with_name("zensical")
    command = [str(zensical), "build", "--clean", "--strict", "--config-file", str(settings)]
    return subprocess.run(command, cwd=directory, check=False).returncode


def assemble(folder: Path) -> None:
    """Copy what belongs to the site to an empty folder; README.md becomes its first page."""
    shutil.rmtree(folder, ignore_errors=True)
    for pattern in COPIED:
        for found in ROOT.glob(pattern):
            for path in [found] if found.is_file() else found.rglob("*"):
                if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts:
                    copy = folder / path.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    if path.suffix == ".md":
                        copy.write_text(FENCE_WITH_FILE.sub(r'```{.\1 title="\2"}', path.read_text(encoding="utf-8")))
                    else:
                        shutil.copyfile(path, copy)
    (folder / "README.md").rename(folder / "index.md")


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
