"""Both kinds of event loop: uvloop, which serves in production, and asyncio's, on which authors may run a prober.

A file of tests that run on each of them says ``pytestmark = ON_BOTH_LOOPS``.
"""

from __future__ import annotations

import asyncio

import pytest
import uvloop

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])

ON_BOTH_LOOPS = [pytest.mark.usefixtures("new_loop"), LOOPS]
