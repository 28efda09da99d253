"""``probe-exporter new``: a prober, its module and its test, all of which work as they are written.

They are files beside this one, in which `template` stands for the prober's name.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from probe_exporter.plugins.loader import MODULE_KEYS, load_probers

TEMPLATES = Path(__file__).parent / "templates"

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class NotWritten(Exception):
    """Nothing was written; the message says why."""


def write(name: str, directory: Path) -> tuple[Path, Path, Path]:
    """Write ``NAME.py``, ``NAME.yml`` and ``test_NAME.py``, and return where they are.

    Raises:
        NotWritten: the name is not legal or taken, a file is there already, or the directory can't be used.
    """
    if not _NAME.fullmatch(name) or name in MODULE_KEYS or keyword.iskeyword(name):
        raise NotWritten(f"{name!r} can't be a prober's name: small letters, digits and _, with a letter first")
    if name in load_probers([]):
        raise NotWritten(f"there is a prober {name} already: two of one name can't be loaded")
    files = (directory / f"{name}.py", directory / f"{name}.yml", directory / f"test_{name}.py")
    for path in files:
        if path.exists():
            raise NotWritten(f"{path} is there already")
    try:
        for path, template in zip(files, ("template.py", "template.yml", "test_template.py"), strict=True):
            text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
            path.write_text(_named(text, name), encoding="utf-8")
    except OSError as error:
        raise NotWritten(f"{error.filename}: {error.strerror}") from None
    return files


def _named(text: str, name: str) -> str:
    """The template with another name, as a class has it and as all else has it."""
    words = "".join(word.capitalize() for word in name.split("_"))
    return text.replace("TemplateSettings", f"{words}Settings").replace("template", name)
