"""The revision says what runs: a commit, a source tree, or nothing that is known."""

from __future__ import annotations

from pathlib import Path

from probe_exporter.version import _revision_of, revision


def test_revision_of_a_source_tree_is_checkout() -> None:
    """An editable install runs the current files, which may belong to no commit."""
    assert revision() == "checkout"


def test_revision_of_a_build_is_the_recorded_commit(tmp_path: Path) -> None:
    """Also in an unpacked sdist, which has the build hook beside the package."""
    package = tmp_path / "probe_exporter"
    package.mkdir()
    (package / "REVISION").write_text("bdba332\n", encoding="ascii")
    assert _revision_of(package) == "bdba332"
    (tmp_path / "hatch_build.py").touch()
    assert _revision_of(package) == "bdba332"


def test_revision_of_a_build_without_git_is_unknown(tmp_path: Path) -> None:
    assert _revision_of(tmp_path / "probe_exporter") == "unknown"
