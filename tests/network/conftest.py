"""Event loops for these tests: as those of the probers'."""

from __future__ import annotations

from tests.probers.conftest import clock, new_loop

__all__ = ["clock", "new_loop"]
