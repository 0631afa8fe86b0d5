"""A courtyard of photographs on walls, rendered through any COLMAP camera: views whose poses are known.

`write(folder)` leaves ``images/`` and the true model, ``sparse/0``, as sets with surveyed poses have them;
``python tests/helpers/rendered_scene.py FOLDER [VIEWS [WIDTH [MODEL]]]`` does it by hand.
"""

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from geomatch.cameras import Camera, pycolmap

Array = NDArray[np.float64]
_PHOTOS = (
    "astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png",
    "retina.jpg", "motorcycle_left.png", "coins.png", "page.png", "text.png", "camera.png", "moon.png",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Panel:
    """A textured parallelogram: a point is ``corner + s * right + t * down``, s and t in [0, 1]."""

    corner: Array
    right: Array
    down: Array
    texture: NDArray[np.uint8]


@cache
def _photo(name: str) -> NDArray[np.uint8]:
    image = cv2.imread(str(Path(skimage.data.__file__).parent / name))
    assert image is not None
    return image[:, :, ::-1]


def _wall(rng: np.random.Generator, columns: int, rows: int, ground: str) -> NDArray[np.uint8]:
    """A wall of photographs, 192 pixels each, no two alike, with strips of rough ground between them."""
    tile = 192
    size = columns * tile, rows * tile
    base = np.tile(_photo(ground), (1 + size[1] // 256, 1 + size[0] // 256, 1))[: size[1], : size[0]].copy()
    base = base + rng.normal(0, 25, (size[1] // 8, size[0] // 8, 1)).repeat(8, 0).repeat(8, 1)
    base = np.clip(base, 0, 255).astype(np.uint8)
    for row in range(rows):
        for column in range(columns):
            photo = _photo(_PHOTOS[rng.integers(len(_PHOTOS))])
            height, width = photo.shape[:2]
            edge = int(rng.uniform(0.5, 0.95) * min(height, width))
            y, x = rng.integers(height - edge + 1), rng.integers(width - edge + 1)
            inner = int(tile * rng.uniform(0.6, 0.92))
            part = cv2.resize(photo[y : y + edge, x : x + edge], (inner, inner), interpolation=cv2.INTER_AREA)
            top, left = row * tile + (tile - inner) // 2, column * tile + (tile - inner) // 2
            base[top : top + inner, left : left + inner] = part[:, :: rng.choice([-1, 1])]
    return base


def courtyard(seed: int = 0) -> list[Panel]:
    """Two walls that meet, the ground, and free panels before them; metres, x right, y down, z away."""
    rng = np.random.default_rng(seed)
    y = np.array([0.0, 1.0, 0.0])
    panels = [
        Panel(np.array([-4.0, -3.0, 3.0]), np.array([5.0, 0, 0]), 4.5 * y, _wall(rng, 7, 6, "brick.png")),
        Panel(np.array([1.0, -3.0, 3.0]), np.array([3.0, 0, -3.5]), 4.5 * y, _wall(rng, 6, 6, "brick.png")),
        Panel(np.array([-4.5, 1.5, 3.2]), np.array([9.0, 0, 0]), np.array([0, 0, -5.0]),
              _wall(rng, 10, 6, "gravel.png")),
    ]  # fmt: skip
    for left, top, depth, turn, width in (
        (-2.8, -0.4, 1.2, 0.5, 1.1), (-0.6, 0.2, 0.4, -0.4, 1.0), (0.9, -0.6, 1.0, -0.9, 1.1),
        (-1.6, -1.9, 2.2, 0.2, 1.3), (-3.6, 0.3, 0.2, 0.8, 0.9),
    ):  # fmt: skip
        across = width * np.array([np.cos(turn), 0, np.sin(turn)])
        panels.append(Panel(np.array([left, top, depth]), across, width * y, _wall(rng, 3, 3, "grass.png")))
    return panels


def pose(rng: np.random.Generator, place: float) -> tuple[Array, Array]:
    """(3, 3) rotation from the world to the camera and (3,) its centre; ``place`` in [0, 1] along an arc."""
    angle = np.radians(-45 + 75 * place)
    distance = 7.0 + rng.uniform(-1.2, 1.2)
    centre = np.array([distance * np.sin(angle), rng.uniform(-1.2, 0.6), 2.0 - distance * np.cos(angle)])
    ahead = np.array([-0.3, -0.4, 1.6]) + rng.uniform(-0.5, 0.5, 3) - centre
    ahead /= np.linalg.norm(ahead)
    right = np.cross([0.0, 1.0, 0.0], ahead)
    right /= np.linalg.norm(right)
    roll = cv2.Rodrigues(np.array([0, 0, np.radians(rng.uniform(-8, 8))]))[0]
    return roll @ np.stack([right, np.cross(ahead, right), ahead]), centre


@cache
def _rays(camera: Camera, over: int) -> Array:
    """(N, 3) directions in the camera of ``over`` x ``over`` places in every pixel."""
    offsets = (np.arange(over) + 0.5) / over - 0.5
    xs, ys = (np.arange(n)[:, None] + offsets for n in camera.size)
    rays = camera.rays(np.stack(np.meshgrid(xs.ravel(), ys.ravel()), axis=-1).reshape(-1, 2))
    return np.column_stack([rays, np.ones(len(rays))])


def render(
    panels: list[Panel], camera: Camera, rotation: Array, centre: Array, over: int = 2
) -> tuple[NDArray[np.uint8], Array]:
    """(H, W, 3) RGB image, and (H, W) depth along the optical axis, infinite where nothing is seen."""
    width, height = camera.size
    rays = _rays(camera, over)
    directions = rays @ rotation
    depth = np.full(len(rays), np.inf)
    colours = np.full((len(rays), 3), 205.0)
    for panel in panels:
        axes = np.stack([panel.right, panel.down, np.cross(panel.right, panel.down)])
        inverse = np.linalg.inv(axes)
        start, steps = (centre - panel.corner) @ inverse, directions @ inverse
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = -start[2] / steps[:, 2]
            s, t = (start[k] + distance * steps[:, k] for k in (0, 1))
            seen = (distance > 0.1) & (distance < depth) & (s >= 0) & (s < 1) & (t >= 0) & (t < 1)
        if not seen.any():
            continue
        depth[seen] = distance[seen]
        texture, focal = panel.texture, camera.params[0] * over
        texels = texture.shape[1] / np.linalg.norm(panel.right) * float(np.median(distance[seen])) / focal
        for _ in range(max(int(np.log2(max(texels, 1)) + 0.5), 0)):
            half = texture.shape[1] // 2, texture.shape[0] // 2  # pyrDown would move it by half a texel
            texture = np.asarray(cv2.resize(texture, half, interpolation=cv2.INTER_AREA), np.uint8)
        rows, columns = texture.shape[:2]
        places = (np.stack([s[seen] * columns, t[seen] * rows]) - 0.5).astype(np.float32)
        side = -(-places.shape[1] // 1024)
        padded = np.zeros((2, side * 1024), np.float32)
        padded[:, : places.shape[1]] = places
        x, y = padded.reshape(2, side, 1024)
        taken = cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        colours[seen] = taken.reshape(-1, 3)[: places.shape[1]]
    shape = (height, over, width, over)
    return colours.reshape(*shape, 3).mean((1, 3)).astype(np.uint8), depth.reshape(shape).min((1, 3))


def write(
    folder: Path, views: int = 12, width: int = 480, model: str = "SIMPLE_RADIAL", seed: int = 0
) -> Path:
    """Render ``images/view00.jpg`` and on, with noise and changing light, and write ``sparse/0``.

    The model has the true camera (one for all), poses, and points on the surfaces, without tracks.
    """
    rng = np.random.default_rng(seed)
    panels, library = courtyard(seed), pycolmap()
    size = width, width * 3 // 4
    focal = [1.05 * width] * (2 if model in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE") else 1)
    bend = {
        "SIMPLE_RADIAL": [-0.08],
        "OPENCV": [-0.12, 0.03, 0.001, -0.001],
        "OPENCV_FISHEYE": [0.02, -0.01, 0, 0],
    }
    camera = Camera(model, size, (*focal, size[0] / 2, size[1] / 2, *bend.get(model, [])))
    truth = library.Reconstruction()
    truth.add_camera_with_trivial_rig(
        library.Camera(
            camera_id=1, model=model, width=size[0], height=size[1], params=np.array(camera.params)
        )
    )
    (folder / "images").mkdir(parents=True)
    every = []
    for number in range(views):
        rotation, centre = pose(rng, number / max(views - 1, 1))
        image, depth = render(panels, camera, rotation, centre)
        lit = np.clip(image * rng.uniform(0.8, 1.15) + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        name = f"view{number:02d}.jpg"
        cv2.imwrite(str(folder / "images" / name), lit[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        moved = library.Rigid3d(library.Rotation3d(rotation), -rotation @ centre)
        truth.add_image_with_trivial_frame(library.Image(name=name, camera_id=1, image_id=number + 1), moved)
        ys, xs = (part.ravel() for part in np.mgrid[4 : size[1] : 12, 4 : size[0] : 12])
        near = np.isfinite(depth[ys, xs])
        points = np.stack([xs[near], ys[near]], axis=1)
        local = np.column_stack([camera.rays(points), np.ones(len(points))]) * depth[ys, xs][near, None]
        every.append(local @ rotation + centre)
    for point in np.concatenate(every):
        truth.add_point3D(point, library.Track(), np.array([128, 128, 128], np.uint8))
    target = folder / "sparse" / "0"
    target.mkdir(parents=True)
    truth.write(str(target))
    return folder


if __name__ == "__main__":
    given = sys.argv[2:]
    write(Path(sys.argv[1]), *map(int, given[:2]), *given[2:3])
