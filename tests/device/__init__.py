"""The check of an accelerator: right, fast, and resumable there. `pack` here, `run` there, then `table`."""

from __future__ import annotations

import os

from tests.device.bare import be_bare

if os.environ.get("BARE_MACHINE"):  # before anything else is imported: set by a rehearsal for its processes
    be_bare()
