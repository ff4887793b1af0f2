"""Properties, caps and events that nobody would think of. NEURALSTYLE_FUZZ: so many examples of
each (default: 25).
"""

import os
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("what", ["properties", "caps", "events"])
def test_fuzz(run, environment, what):
    pytest.importorskip("hypothesis")
    count = int(os.environ.get("NEURALSTYLE_FUZZ", 25))
    done = run(
        sys.executable,
        "-P",
        "-X",
        "faulthandler",
        Path(__file__).with_name("fuzz.py"),
        what,
        count,
        env=environment,
        timeout=120 + 5 * count,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
