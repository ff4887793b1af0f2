"""The benchmark through gst-launch-1.0."""

import json
import sys


def test_benchmark_through_gst_launch(run, tmp_path, model_dir):
    """Its figures go beside the core's; where VapourSynth has no Python, that is said."""
    out = tmp_path / "out"
    done = run(
        sys.executable,
        "-P",
        "-m",
        "vsneuralstyle.cli",
        "benchmark",
        "--sizes",
        "64x48",
        "--frames",
        2,
        "--warm-up",
        1,
        "--memory-frames",
        0,
        "--starts",
        1,
        "--model-dir",
        model_dir,
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--out",
        out,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "benchmark.json").read_text())
    rows = {row["name"]: row for row in found["sizes"][0]["hosts"]}
    assert rows["gst-launch-1.0"]["count"] == 2 and rows["gst-launch-1.0"]["median"] > 0
    assert ("vspipe" in rows) != ("vspipe" in found["without"])
    assert "## Memory" not in done.stdout and found["memory"] == []
