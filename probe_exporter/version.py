"""The version and the git commit of this build, for `--version`, logs and metrics."""

from pathlib import Path

VERSION = "0.2.0"


def revision() -> str:
    """Return the commit that this was built from.

    ``checkout`` where the code runs from a source tree, which may have changed since its last commit, and ``unknown``
    where the build had no git.
    """
    return _revision_of(Path(__file__).parent)


def _revision_of(package: Path) -> str:
    """Read what `hatch_build.py` recorded in the package; an editable install has no record."""
    record = package / "REVISION"
    if record.is_file():
        return record.read_text(encoding="ascii").strip()
    return "checkout" if (package.parent / "hatch_build.py").is_file() else "unknown"
