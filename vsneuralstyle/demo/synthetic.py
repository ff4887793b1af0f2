"""A clip whose optical flow is known exactly: photographs under a moving camera, each with a moving
cut-out before it.

Two scenes with a hard cut between them. Everything that moves, moves by a similarity transform from
frame pixels to photograph pixels, so flow and occlusion follow from the transforms alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, HEIGHT, RATE = 640, 360, 24
# pixels either side of an outline that mix with what is behind it, or would in a bilinear warp
MARGIN = 1.5


def similarity(center: complex, to: complex, scale: float, angle: float) -> np.ndarray:
    """3x3 matrix that takes the frame point `center` to the photograph point `to` (x + iy), turned
    and scaled.
    """
    factor = scale * np.exp(1j * angle)
    offset = to - factor * center
    return np.array(
        [
            [factor.real, -factor.imag, offset.real],
            [factor.imag, factor.real, offset.imag],
            [0, 0, 1],
        ]
    )


def transform(points: Tensor, matrix: np.ndarray) -> Tensor:
    """Points (H,W,2) through a 3x3 matrix."""
    moved_by = torch.from_numpy(matrix).to(points)
    return points @ moved_by[:2, :2].T + moved_by[:2, 2]


def sample(photo: Tensor, points: Tensor) -> Tensor:
    """A photograph (3,h,w) at points (H,W,2) in its pixels, bicubic, mirrored beyond its border:
    (3,H,W).
    """
    height, width = photo.shape[-2:]
    grid = 2 * points / torch.tensor([width - 1, height - 1]).to(points) - 1
    return F.grid_sample(
        photo[None].to(points),
        grid[None],
        mode="bicubic",
        padding_mode="reflection",
        align_corners=True,
    )[0].clamp(0, 1)


@dataclass(frozen=True)
class Cutout:
    """A photograph cut by a smooth closed outline around `center` of `radius`, both in its
    pixels.
    """

    photo: Tensor
    center: complex
    radius: float

    def distance(self, points: Tensor) -> Tensor:
        """How far points (H,W,2) of the photograph lie inside the outline, in its pixels, about;
        negative outside.
        """
        x, y = points[..., 0] - self.center.real, points[..., 1] - self.center.imag
        angle = torch.atan2(y, x)
        return self.radius * (
            1 + 0.10 * torch.cos(3 * angle + 0.5) + 0.05 * torch.sin(5 * angle)
        ) - torch.hypot(x, y)


@dataclass(frozen=True)
class Scene:
    """Poses map a time, in seconds since the scene's start, to a matrix from frame pixels to
    photograph pixels.
    """

    background: Tensor
    camera: Callable[[float], np.ndarray]
    cutout: Cutout
    path: Callable[[float], np.ndarray]


class SyntheticClip:
    """Frames (640x360, 24 a second), exact flow and traceable pixels of a clip with a hard cut in
    its middle.

    The photographs come with scikit-image (raises ImportError without it).
    """

    def __init__(self, length: int = 72) -> None:
        self.length = length
        self.cut = length // 2
        self.scenes = _scenes()
        y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        self._grid = torch.stack((x, y), dim=-1).double()

    @property
    def scene_starts(self) -> tuple[bool, ...]:
        return tuple(t in (0, self.cut) for t in range(self.length))

    def _at(self, t: int) -> tuple[Scene, float]:
        """The scene of frame t and the seconds since it began."""
        return (
            (self.scenes[0], t / RATE) if t < self.cut else (self.scenes[1], (t - self.cut) / RATE)
        )

    def _inside(self, scene: Scene, time: float, points: Tensor) -> Tensor:
        """Distance in frame pixels by which frame points (H,W,2) lie inside the cut-out."""
        pose = scene.path(time)
        return scene.cutout.distance(transform(points, pose)) / float(
            np.hypot(pose[0, 0], pose[1, 0])
        )

    def frame(self, t: int) -> Tensor:
        """Frame t: (3,H,W) float32 RGB, 0..1."""
        scene, time = self._at(t)
        behind = sample(scene.background, transform(self._grid, scene.camera(time)))
        before = sample(scene.cutout.photo, transform(self._grid, scene.path(time)))
        opacity = (self._inside(scene, time, self._grid) + 0.5).clamp(0, 1)
        return torch.lerp(behind, before, opacity).float()

    def motion(self, t: int) -> tuple[Tensor, Tensor]:
        """Backward flow (2,H,W) in pixels from frame t to t − 1, and which pixels are traceable,
        (1,H,W) of 0 and 1.

        Traceable: the same surface in both frames, `MARGIN` away from the cut-out's outline in
        both, and inside the frame. At the cut no pixel is.
        """
        scene, time = self._at(t)
        earlier = time - 1 / RATE
        if t == 0 or self._at(t - 1)[0] is not scene:
            return torch.zeros(2, HEIGHT, WIDTH), torch.zeros(1, HEIGHT, WIDTH)

        def origin(pose: Callable[[float], np.ndarray]) -> Tensor:
            return transform(self._grid, np.linalg.inv(pose(earlier)) @ pose(time))

        now = self._inside(scene, time, self._grid)
        points = torch.where((now > 0)[..., None], origin(scene.path), origin(scene.camera))
        then = self._inside(scene, earlier, points)
        border = torch.tensor([WIDTH - 1, HEIGHT - 1]).to(points)
        in_frame = ((points >= 0) & (points <= border)).all(-1)
        same = ((now > MARGIN) & (then > MARGIN)) | ((now < -MARGIN) & (then < -MARGIN))
        return (points - self._grid).permute(2, 0, 1).float(), (same & in_frame)[None].float()


def _scenes() -> tuple[Scene, Scene]:
    from skimage import data

    def photo(image: np.ndarray) -> Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1).double() / 255

    frame_center = complex(WIDTH - 1, HEIGHT - 1) / 2
    workshop, _, _ = data.stereo_motorcycle()  # 741x500

    def pan(time: float) -> np.ndarray:
        """Sideways over the workshop, turning and drawing nearer a little."""
        to = 330 + 56 * time + 1j * (245 + 14 * np.sin(2 * time))
        return similarity(frame_center, to, 0.86 - 0.05 * time, 0.04 * np.sin(1.7 * time))

    def crossing(time: float) -> np.ndarray:
        """The astronaut's portrait, right to left, bobbing."""
        at = WIDTH * (0.74 - 0.2 * time) + 1j * HEIGHT * (0.52 + 0.08 * np.sin(3 * time))
        return similarity(at, 224 + 120j, 1.15, 0.15 * np.sin(2 * time))

    def orbit(time: float) -> np.ndarray:
        """Out of the coffee cup, turning about it."""
        return similarity(
            frame_center, 300 + 20 * time + 195j, 0.62 + 0.09 * time, 0.09 * time - 0.05
        )

    def rising(time: float) -> np.ndarray:
        """The cat, upwards, nearing."""
        at = WIDTH * (0.24 + 0.08 * time) + 1j * HEIGHT * (0.66 - 0.14 * time)
        return similarity(at, 210 + 140j, 1.25 - 0.08 * time, -0.1 * time)

    return (
        Scene(photo(workshop), pan, Cutout(photo(data.astronaut()), 224 + 120j, 100), crossing),
        Scene(photo(data.coffee()), orbit, Cutout(photo(data.chelsea()), 210 + 140j, 118), rising),
    )
