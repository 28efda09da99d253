"""What this build calls itself; the only place that knows."""

from importlib import resources

VERSION = "0.1.0"


def revision() -> str:
    """The git commit this was built from, or ``unknown`` (a build outside a checkout)."""
    recorded = resources.files(__package__).joinpath("REVISION")
    return recorded.read_text(encoding="ascii").strip() if recorded.is_file() else "unknown"
