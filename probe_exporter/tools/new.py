"""``probe-exporter new``: write a working prober, its module and its test.

The templates are in the folder beside this file; `template` in them is replaced with the prober's name.
"""

from __future__ import annotations

import keyword
import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from probe_exporter.flags import PROGRAM
from probe_exporter.plugins.loader import MODULE_KEYS, load_probers

TEMPLATES = Path(__file__).parent / "templates"

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class CannotWrite(Exception):
    """No file was written; the message has the reason."""


def write(name: str, directory: Path) -> tuple[Path, Path, Path]:
    """Write ``NAME.py``, ``NAME.yml`` and ``test_NAME.py``, and return their paths.

    Raises:
        CannotWrite: the name is illegal or taken, a file exists, or the directory can't be used.
    """
    if not _NAME.fullmatch(name) or name in MODULE_KEYS or keyword.iskeyword(name):
        raise CannotWrite(
            f"{name!r} can't be the name of a prober: use lower-case letters, digits and _, beginning with a letter"
        )
    if name in load_probers([]):
        raise CannotWrite(f"there is already a prober {name}: use another name")
    files = (directory / f"{name}.py", directory / f"{name}.yml", directory / f"test_{name}.py")
    for path in files:
        if path.exists():
            raise CannotWrite(f"{path} exists already")
    try:
        for path, template in zip(files, ("template.py", "template.yml", "test_template.py"), strict=True):
            text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
            path.write_text(_named(text, name), encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"{error.filename}: {error.strerror}") from None
    return files


def next_steps(prober: Path, _: Path, test: Path) -> str:
    """Return what to type next: run the prober, test it, and serve it.

    The tests need pytest in the environment of this Python.
    """
    python = shlex.quote(sys.executable)
    tests = [f"{python} -m pytest {test}"]
    if find_spec("pytest") is None:
        tests.insert(0, f"{python} -m pip install pytest")
    program = _program(python)
    steps = [f"{program} run {prober} localhost", *tests, f"{program} --modules.dir={prober.parent.resolve()}"]
    return "Next: " + "      ".join([f"{step}\n" for step in steps])


def _program(python: str) -> str:
    """Return what starts this program: its name, or its path if it is in an environment that is not on the PATH."""
    if shutil.which(PROGRAM):
        return PROGRAM
    started = Path(sys.argv[0])
    return shlex.quote(str(started.absolute())) if started.name == PROGRAM else f"{python} -m probe_exporter"


def _named(text: str, name: str) -> str:
    """Replace the name in a template, also in the name of the class."""
    words = "".join(word.capitalize() for word in name.split("_"))
    return text.replace("TemplateSettings", f"{words}Settings").replace("template", name)
