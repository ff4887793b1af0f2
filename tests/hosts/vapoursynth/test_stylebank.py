"""StyleBank in the filter: a mix of styles goes through as it is, and a bad one is an error that
says what is wrong.
"""

import numpy as np
import pytest

from vsneuralstyle import Stylizer
from vsneuralstyle.video import pixels

OUTPUT = """
core.vsneuralstyle.Stylize(source, style=style, net="stylebank", model_dir=model_dir).set_output()
"""


@pytest.mark.parametrize("style", ["two", "one:0.5+two:0.5"])
def test_vspipe(style, clip, stylebank_dir, write_script, run):
    piped = run(
        "vspipe",
        write_script(OUTPUT, clip),
        "-",
        "-a",
        f"style={style}",
        "-a",
        f"model_dir={stylebank_dir}",
        text=False,
    )
    assert piped.returncode == 0, piped.stderr.decode()
    planes = np.frombuffer(piped.stdout, np.uint8).reshape(-1, 3, *clip.shape[1:3])[:, [2, 0, 1]]
    stylizer = Stylizer(style, net="stylebank", model_dir=stylebank_dir)
    expected = np.empty_like(planes)
    for frame, result in zip(clip, expected):
        pixels.rgb_to_planes(
            stylizer.stylize(pixels.planes_to_rgb([frame[..., c] for c in range(3)])), list(result)
        )
    assert np.array_equal(planes, expected)


def test_vspipe_says_what_is_wrong_with_a_mix(clip, stylebank_dir, write_script, run):
    done = run(
        "vspipe",
        write_script(OUTPUT, clip),
        "-",
        "-a",
        "style=one:x+two",
        "-a",
        f"model_dir={stylebank_dir}",
    )
    assert (
        done.returncode != 0 and "the weight of one is 'x', not a number from 0 up" in done.stderr
    )
