"""Second views of a photograph with known truth."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import image_corners, normalize_homography, resize_homography, shift_homography

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Motion = Literal["upright", "rotated", "oblique"]


def random_homography(rng: np.random.Generator, size: tuple[int, int], motion: Motion = "upright") -> Array:
    """A view change of a (width, height) image about its centre, (3, 3) with element [2, 2] one.

    ``upright``: rotation up to 25 degrees, scale 0.6 to 1.6, stretch e^0.35, perspective 0.12.
    ``rotated``: any rotation, scale 0.5 to 2, the same stretch and perspective.
    ``oblique``: a plane with a tilt of 3 to 5.5 (ASIFT's; Morel and Yu, 2009), perspective up to 0.25 along
    it; scale 0.8 to 1.6; rotation up to 30 degrees or any, each in half of the cases.
    """
    linear, perspective = _tilt(rng) if motion == "oblique" else _change(rng, motion)
    view = np.eye(3)
    view[:2, :2] = linear
    view[2, :2] = perspective / (np.array(size) / 2)
    centre = image_corners(size).mean(0)
    back = shift_homography(*(centre + rng.uniform(-0.05, 0.05, 2) * np.array(size)))
    matrix = normalize_homography(back @ view @ shift_homography(*-centre))
    return matrix if matrix is not None else random_homography(rng, size, motion)


def _change(rng: np.random.Generator, motion: Motion) -> tuple[Array, Array]:
    turn, zoom = (25.0, (0.6, 1.6)) if motion == "upright" else (180.0, (0.5, 2.0))
    angle, axis = np.radians(rng.uniform(-turn, turn)), rng.uniform(0, np.pi)
    scale = np.exp(rng.uniform(*np.log(zoom)))
    stretch = np.exp(rng.uniform(-0.35, 0.35) / 2)
    stretched = _rotation(-axis) @ np.diag([stretch, 1 / stretch]) @ _rotation(axis)
    return _rotation(angle) @ stretched * scale, rng.uniform(-0.12, 0.12, 2)


def _tilt(rng: np.random.Generator) -> tuple[Array, Array]:
    tilt, scale = (np.exp(rng.uniform(*np.log(ends))) for ends in ([3.0, 5.5], [0.8, 1.6]))
    angle = np.radians(rng.uniform(-30, 30)) if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    axis = rng.uniform(0, 2 * np.pi)
    squeezed = _rotation(-axis) @ np.diag([tilt**-0.75, tilt**0.25]) @ _rotation(axis)
    along = _rotation(-axis)[:, 0] * rng.uniform(-0.25, 0.25)
    return _rotation(angle) @ squeezed * scale, along + rng.uniform(-0.08, 0.08, 2)


def _rotation(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def change_light(rng: np.random.Generator, pixels: Pixels, strength: float = 1.0) -> Pixels:
    """Gamma, colour gain, a ramp of illumination, contrast, blur, noise and JPEG, all random.

    ``strength`` multiplies every range; above 1 a straight shadow with a soft edge is added.
    """
    height, width = pixels.shape[:2]
    across, down = np.linspace(-1, 1, width)[None], np.linspace(-1, 1, height)[:, None]
    x = (pixels / np.float32(255)) ** np.exp(strength * rng.uniform(-0.5, 0.5))
    x = x * np.exp(strength * rng.uniform(-0.2, 0.2, 3)).astype(np.float32)
    direction = strength * rng.uniform(-0.5, 0.5, 2)
    x = x * np.exp(direction[0] * across + direction[1] * down)[:, :, None].astype(np.float32)
    if strength > 1:
        turn, place, edge = rng.uniform(0, 2 * np.pi), rng.uniform(-0.7, 0.7), rng.uniform(0.01, 0.2)
        side = np.tanh((np.cos(turn) * across + np.sin(turn) * down - place) / edge)
        x = x * np.exp(rng.uniform(-0.6, 0) * (1 + side))[:, :, None].astype(np.float32)
    x = (x - 0.5) * np.exp(strength * rng.uniform(-0.4, 0.3)) + 0.5 + strength * rng.uniform(-0.1, 0.1)
    x = cv2.GaussianBlur(x.astype(np.float32), (0, 0), strength * rng.uniform(0.3, 1.2))
    x = x + rng.normal(0, strength * rng.uniform(0, 0.03), x.shape)
    lit = np.clip(x * 255, 0, 255).astype(np.uint8)
    quality = 100 - strength * (100 - int(rng.integers(50, 96)))
    _, code = cv2.imencode(".jpg", lit, [cv2.IMWRITE_JPEG_QUALITY, max(0, round(quality))])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), dtype=np.uint8)


def render_view(pixels: Pixels, matrix: Array, size: tuple[int, int], oversampling: int = 1) -> Pixels:
    """The image seen through a homography, with (width, height) ``size``; black where it shows nothing.

    Where the view shrinks the image it is blurred first, against aliasing. Blur is the same in all
    directions: of a tilted plane each pixel should be the mean of ``oversampling`` squared samples.
    """
    if oversampling > 1:
        finer = size[0] * oversampling, size[1] * oversampling
        samples = render_view(pixels, resize_homography(size, finer) @ matrix, finer)
        return np.asarray(cv2.resize(samples, size, interpolation=cv2.INTER_AREA), np.uint8)
    corners = image_corners((pixels.shape[1], pixels.shape[0]))
    warped = cv2.perspectiveTransform(corners[None], matrix)[0]
    before = abs(cv2.contourArea(corners.astype(np.float32)))
    after = max(1.0, abs(cv2.contourArea(warped.astype(np.float32))))
    shrink = np.sqrt(before / after)
    if shrink > 1:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.5 * np.sqrt(shrink**2 - 1) + 1e-3), np.uint8)
    return np.asarray(cv2.warpPerspective(pixels, matrix, size, flags=cv2.INTER_CUBIC), dtype=np.uint8)
