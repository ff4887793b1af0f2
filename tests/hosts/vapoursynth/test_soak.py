"""Memory stays as it is, however long a clip is played."""

import os
import sys

import pytest

PLAY = """
import sys
from pathlib import Path

width, height, count, checkpoint_mb = map(int, sys.argv[1:5])

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

clip = core.std.Loop(source.resize.Bicubic(width, height), 0)[:count]
clip = core.vsneuralstyle.Stylize(clip, checkpoint_mb=checkpoint_mb, model_dir=sys.argv[5])
for n, frame in enumerate(clip.frames(close=True), 1):
    if n % (count // 50) == 0:
        print(n, resident(), flush=True)
"""


@pytest.mark.parametrize("width, height, share", [(64, 64, 1.0), (640, 360, 0.2)])
def test_memory_does_not_grow(scenes, model_dir, write_script, run, width, height, share):
    """NEURALSTYLE_SOAK: so many frames of 64x64, a fifth of them of 640x360. The checkpoints' room
    is full early.
    """
    soak = int(os.environ.get("NEURALSTYLE_SOAK", 0))
    if share < 1 and not soak:
        pytest.skip("takes minutes; NEURALSTYLE_SOAK=10000 runs it")
    count = int(share * (soak or 500))
    script = write_script(PLAY, scenes(40, 50), "play.py")
    played = run(
        sys.executable, script, width, height, count, 1, model_dir, timeout=300 + 5 * count
    )
    assert played.returncode == 0, played.stderr
    sizes = dict(tuple(map(int, line.split())) for line in played.stdout.splitlines())
    assert max(sizes) == count and len(sizes) >= 50
    early = max(size for n, size in sizes.items() if n <= count // 3)
    late = max(size for n, size in sizes.items() if n > count // 3)
    assert late < 1.02 * early, f"{early} bytes after {count // 3} frames, {late} after {count}"
