"""Pairs of frames with optical flow, made from photographs (exact flow) or from real pairs (their
measured flow).

As Flying Chairs was made (Dosovitskiy et al., ICCV 2015, section 4): a photograph as background and
cut-outs of other photographs as objects, each with an affine motion of its own. Video at 25 fps
moves less than Flying Chairs, so small motions, and no motion at all, are drawn more often here;
action moves more, and blurs, so that is drawn, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SHIFTS = (1.0, 4.0, 16.0, 64.0)
"""Mean lengths of the motions that are drawn, in pixels, each as often, unless others are given."""
BLURRED = 0.4
"""Share of the pairs whose layers are blurred along their motions."""
DULL = 0.25
"""Share of the pairs that are out of focus, and of those in a haze: photographs are sharper and
richer than what moves fast in films."""


@dataclass
class Pair:
    """first, second: (H, W, 3) uint8 RGB; flow: (H, W, 2) float32, (x, y) in pixels, from `first`
    to `second`; NaN where it is not known.
    """

    first: np.ndarray
    second: np.ndarray
    flow: np.ndarray


def _homogeneous(linear: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """3x3 of the map x -> linear x + offset."""
    return np.block([[linear, offset[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


def _affine(
    random: np.random.Generator, center: np.ndarray, rotation: float, zoom: float, shift: float
) -> np.ndarray:
    """3x3: rotation (rad), zoom and shift (px) about a center; each a scale of a normal or
    heavy-tailed draw.
    """
    angle, factor = random.normal(0, rotation), np.exp(random.normal(0, zoom))
    # A Laplace-like length: most motions are small, some are large.
    length, direction = random.exponential(shift), random.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle) * factor, np.sin(angle) * factor
    linear = np.array([[cosine, -sine], [sine, cosine]])
    offset = center - linear @ center + length * np.array([np.cos(direction), np.sin(direction)])
    return _homogeneous(linear, offset)


def _pose(
    random: np.random.Generator, image: np.ndarray, width: int, height: int, extent: float
) -> np.ndarray:
    """3x3 from pixels of a photograph to the first frame, scaled to cover `extent` of it, at random
    where.
    """
    rows, columns = image.shape[:2]
    scale = extent * max(width / columns, height / rows)
    angle = random.normal(0, 0.15)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[cosine, -sine], [sine, cosine]])
    target = np.array([width, height]) * (0.5 if extent > 1 else random.uniform(0.05, 0.95, 2))
    offset = target - linear @ np.array([columns / 2, rows / 2])
    return _homogeneous(linear, offset)


def _shape(random: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A random smooth outline inside a photograph: (H, W) uint8, 0 or 255."""
    rows, columns = image.shape[:2]
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.full_like(angles, 0.75)
    for frequency in range(1, 7):
        radius += random.normal(0, 0.12) * np.cos(frequency * angles + random.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.15, 0.98)
    points = np.stack(
        (columns / 2 * (1 + radius * np.cos(angles)), rows / 2 * (1 + radius * np.sin(angles))), -1
    )
    mask = np.zeros((rows, columns), np.uint8)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 255, cv2.LINE_AA)
    if random.random() < 0.2:  # a hole, to see through
        cv2.circle(
            mask,
            (columns // 2, rows // 2),
            int(min(rows, columns) * random.uniform(0.1, 0.25)),
            0,
            -1,
            cv2.LINE_AA,
        )
    return mask


def _photometric(random: np.random.Generator, frames: list[np.ndarray]) -> list[np.ndarray]:
    """Light, gamma, colour, defocus and haze common to both frames, and a little of the first that
    differs, with noise.
    """
    gain, gamma = random.uniform(0.7, 1.3, 3), np.exp(random.normal(0, 0.2))
    sigma = random.exponential(2.0)
    defocus = random.exponential(1.5) if random.random() < DULL else 0.0
    haze, color = (
        random.uniform(0, 0.7) if random.random() < DULL else 0.0,
        random.uniform(0, 255, 3),
    )
    result = []
    for frame in frames:
        levels = np.arange(256)[:, None] / 255.0
        table = np.clip(levels**gamma * gain * random.normal(1, 0.01), 0, 1) * 255
        table += haze * (color - table)
        if defocus > 0.3:
            frame = cv2.GaussianBlur(frame, (0, 0), defocus)
        image = cv2.LUT(frame, table.astype(np.uint8).reshape(256, 1, 3)).astype(np.float32)
        image += random.standard_normal(frame.shape[:2], np.float32)[..., None] * sigma
        result.append(np.clip(image, 0, 255).astype(np.uint8))
    return result


def _motion_blur(image: np.ndarray, path: np.ndarray) -> np.ndarray:
    """An image as of a shutter that was open while it moved along a path (x, y) in pixels: its mean
    along that, by halves.
    """
    size = image.shape[1::-1]
    halvings = int(np.ceil(np.log2(max(np.hypot(*path), 1))))
    for n in range(1, halvings + 1):
        there, back = (
            cv2.warpAffine(
                image, np.array([[1, 0, x], [0, 1, y]]), size, borderMode=cv2.BORDER_REPLICATE
            )
            for x, y in (path / 2 ** (n + 1), -path / 2 ** (n + 1))
        )
        image = cv2.addWeighted(there, 0.5, back, 0.5, 0)
    return image


def make_translation(
    images: list[np.ndarray], size: int, longest: float, random: np.random.Generator
) -> Pair:
    """A square crop that moves as a whole by up to `longest` pixels each way: the first thing that
    is learnt.
    """
    image, scale = images[random.integers(len(images))], random.uniform(0.5, 1.0)
    rows, columns = image.shape[:2]
    corner = random.uniform(0, 1, 2) * np.maximum(np.array([columns, rows]) * scale - size, 1)
    pose, shift = (
        np.array([[scale, 0, -corner[0]], [0, scale, -corner[1]]]),
        random.uniform(-longest, longest, 2),
    )
    moved = pose + np.array([[0, 0, shift[0]], [0, 0, shift[1]]])
    first, second = (
        cv2.warpAffine(image, m, (size, size), borderMode=cv2.BORDER_REFLECT) for m in (pose, moved)
    )
    return Pair(first, second, np.broadcast_to(shift.astype(np.float32), (size, size, 2)))


def make_pair(
    images: list[np.ndarray],
    width: int,
    height: int,
    random: np.random.Generator,
    pace: float = 1.0,
    shifts: Sequence[float] = SHIFTS,
) -> Pair:
    """One pair; objects occlude each other in a fixed order of depth.

    Args:
        images: photographs, RGB uint8.
        width, height: of the pair.
        random: the source of every choice.
        pace: scales all motions.
        shifts: as `SHIFTS`.
    """
    frames = [np.empty((height, width, 3), np.uint8) for _ in range(2)]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    flow = np.empty((height, width, 2), np.float32)
    center = np.array([width / 2, height / 2])
    still = random.random() < 0.15  # a static camera
    # of the time between the frames
    shutter = random.uniform(0, 0.6) if random.random() < BLURRED else 0.0
    camera = (
        np.eye(3)
        if still
        else _affine(random, center, 0.02 * pace, 0.02 * pace, pace * random.choice(shifts))
    )
    for layer in range(1 + int(random.integers(1, 5))):
        image = images[random.integers(len(images))]
        if layer == 0:
            pose, motion, mask = _pose(random, image, width, height, 1.35), camera, None
            middle = center
        else:
            pose = _pose(random, image, width, height, random.uniform(0.15, 0.6))
            middle = (pose @ [*np.array(image.shape[1::-1]) / 2, 1])[:2]
            own = _affine(random, middle, 0.04 * pace, 0.04 * pace, pace * random.choice(shifts))
            motion, mask = own @ camera, _shape(random, image)
        path = shutter * ((motion @ [*middle, 1])[:2] - middle)
        for frame, matrix in zip(frames, (pose, motion @ pose)):
            warped = cv2.warpAffine(
                image,
                matrix[:2],
                (width, height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT,
            )
            warped = _motion_blur(warped, path)
            if mask is None:
                frame[:] = warped
            else:
                alpha = cv2.warpAffine(mask, matrix[:2], (width, height), flags=cv2.INTER_LINEAR)
                alpha = _motion_blur(alpha, path)
                if frame is frames[0]:
                    covered = alpha > 127
                blend = alpha[..., None].astype(np.uint16)
                frame[:] = ((warped * blend + frame * (255 - blend) + 127) // 255).astype(np.uint8)
        moved = (grid @ motion[:2, :2].T + motion[:2, 2] - grid).astype(np.float32)
        if mask is None:
            flow[:] = moved
        else:
            flow[covered] = moved[covered]
    first, second = _photometric(random, frames)
    return Pair(first, second, flow)


def move_pair(
    pair: Pair,
    width: int,
    height: int,
    random: np.random.Generator,
    shifts: Sequence[float] = SHIFTS,
) -> Pair:
    """A turned, scaled and perhaps mirrored view of a pair, whose second frame is mostly moved once
    more as a whole.

    A few hundred measured pairs so show far more motions than they hold (relative transforms: Ilg
    et al., FlowNet 2.0).

    Args:
        pair: with measured flow, larger than the view or scaled up to it.
        width, height: of the view.
        random: the source of every choice.
        shifts: as `SHIFTS`.
    """
    rows, columns = pair.flow.shape[:2]
    angle = random.normal(0, 0.08)
    cosine, sine = np.cos(angle), np.sin(angle)
    box = np.array([[abs(cosine), abs(sine)], [abs(sine), abs(cosine)]]) @ [width, height]
    room = np.array([columns, rows])
    scale = max(random.uniform(0.8, 1.5), (box / room).max())
    linear = np.array([[cosine, -sine], [sine, cosine]]) / scale * [random.choice([-1, 1]), 1]
    middle = box / scale / 2 + random.uniform(0, 1, 2) * (room - box / scale)
    center = np.array([width / 2, height / 2])
    # From pixels of the view to pixels of the frame: of the first, and of the second.
    first = _homogeneous(linear, middle - linear @ center)
    further = np.eye(3)
    if random.random() < 0.7:
        further = _affine(random, center, 0.02, 0.02, random.choice(shifts))
    second = first @ np.linalg.inv(further)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    frames = [
        cv2.warpAffine(
            frame, matrix[:2], (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT
        )
        for frame, matrix in ((pair.first, first), (pair.second, second))
    ]
    flow = cv2.warpAffine(
        pair.flow, first[:2], (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    target = grid @ first[:2, :2].T + first[:2, 2] + flow
    back = np.linalg.inv(second)
    lit_first, lit_second = _photometric(random, frames)
    moved = target @ back[:2, :2].T + back[:2, 2] - grid
    return Pair(lit_first, lit_second, moved.astype(np.float32))
