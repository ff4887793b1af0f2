"""The Python half of plugin.c: a `Session` stylizes the frames of one filter, in the order plugin.c gives them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from vsneuralstyle import pixels
from vsneuralstyle.errors import ArgumentError
from vsneuralstyle.stylizer import MIN_SIZE, Stylizer


@functools.cache
def _worker(device: str) -> ThreadPoolExecutor:
    """The one thread that computes on a device.

    OpenMP gives each thread that computes a team of its own, as many as there are cores: torch called from every
    VapourSynth worker would keep workers x cores threads, and those of two filters would fight over the cores.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"vsneuralstyle {device}")


class Session:
    """One clip on its way through a `Stylizer`.

    Args:
        width, height: of every frame, in pixels.
        bits: significant bits of integer samples; None: floating point.
        arguments: those of `Stylizer`.

    Raises:
        NeuralStyleError: an argument, a model or a device that can't be used, or frames that are too small.
    """

    def __init__(self, width: int, height: int, bits: int | None, **arguments) -> None:
        if min(width, height) < MIN_SIZE:
            raise ArgumentError(
                f"frames of {width}x{height} are too small to stylize; expected at least {MIN_SIZE}x{MIN_SIZE}")
        self._bits = bits
        self._stylizer = Stylizer(**arguments)
        self._worker = _worker(str(self._stylizer.device))

    def process(self, starts_scene: bool | None, source: Sequence, target: Sequence) -> bool:
        """Stylizes the next frame.

        Args:
            starts_scene: whether the frame starts a scene; None: the built-in detector decides.
            source: buffers of the planes R, G and B, each (height, width).
            target: writable buffers of the same layout, filled here. Neither is kept.

        Returns:
            Whether the frame started a scene.
        """
        return self._worker.submit(self._process, starts_scene, source, target).result()

    def _process(self, starts_scene: bool | None, source: Sequence, target: Sequence) -> bool:
        frame = pixels.planes_to_rgb(source, self._bits)
        stylized = self._stylizer.stylize(frame, [starts_scene])
        pixels.rgb_to_planes(stylized, target, self._bits)
        return self._stylizer.scene_starts[0]
