"""Small data sets in the layouts of the releases, made of one photograph under known homographies."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.geometry import warp_points
from geomatch.synthetic import render_view

Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]

SIZE = (160, 120)
"""(width, height) of all images."""
POINTS = np.array(
    [[40, 40], [80, 30], [120, 50], [60, 70], [100, 80], [30, 90], [130, 95], [80, 60], [70, 95], [110, 30]]
)


def view(photo: Pixels, matrix: Matrix, size: tuple[int, int] = SIZE) -> Pixels:
    """The photograph reduced to the size and moved there by a matrix (3, 3)."""
    scale = np.diag([size[0] / photo.shape[1], size[1] / photo.shape[0], 1.0])
    return render_view(photo, matrix @ scale, size)


def moved(x: float, y: float, angle: float = 0.0, zoom: float = 1.0) -> Matrix:
    """A turn and a zoom about the middle of the image, then a shift."""
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (np.array(SIZE) - 1) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = centre - turn @ centre + [x, y]
    return matrix


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(pixels).save(path)


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def make_spair(folder: Path, photo: Pixels, motions: Sequence[Matrix], split: str = "test") -> Path:
    """Two categories; in each the image under every motion, and all pairs with the first as source."""
    names = []
    for category in ("cat", "dog"):
        for index, matrix in enumerate(motions):
            save(folder / "JPEGImages" / category / f"2008_{index}.png", view(photo, matrix))
            if index == 0:
                continue
            names.append(f"{index:06d}-2008_0-2008_{index}:{category}")
            content = {
                "src_imname": "2008_0.png", "trg_imname": f"2008_{index}.png",
                "src_imsize": [*SIZE, 3], "trg_imsize": [*SIZE, 3],
                "src_bndbox": [20, 20, 140, 110], "trg_bndbox": [20, 20, 120, 110],
                "category": category, "src_kps": POINTS.tolist(),
                "trg_kps": np.round(warp_points(matrix, POINTS)).astype(int).tolist(),
            }  # fmt: skip
            text = json.dumps(content, indent=1)
            write(folder / "PairAnnotation" / split / f"{names[-1]}.json", [text])
    write(folder / "Layout" / "large" / f"{split}.txt", names)
    return folder


def make_willow(folder: Path, photo: Pixels, motions: Sequence[Matrix]) -> Path:
    """One class; the first image with every other."""
    columns = ["imageA", "imageB"]
    columns += [f"{axis}{side}{k}" for side in "AB" for axis in "XY" for k in range(1, 11)]
    lines = [",".join(columns)]
    for index, matrix in enumerate(motions):
        save(folder / "duck(S)" / f"060_{index:04d}.png", view(photo, matrix))
        if index:
            other = warp_points(matrix, POINTS)
            numbers = [*POINTS[:, 0], *POINTS[:, 1], *other[:, 0], *other[:, 1]]
            names = [f"PF-dataset/duck(S)/060_{k:04d}.png" for k in (0, index)]
            lines.append(",".join([*names, *(f"{number:.4f}" for number in numbers)]))
    write(folder / "test_pairs_pf.csv", lines)
    return folder


def make_cub(folder: Path, photo: Pixels, motions: Sequence[Matrix]) -> Path:
    """As many birds as motions, all for test, with ten parts of which the last is hidden in the second."""
    rows: dict[str, list[str]] = {"images": [], "bounding_boxes": [], "train_test_split": [], "part_locs": []}
    for key, matrix in enumerate(motions, 1):
        name = f"001.Bird/Bird_{key:04d}.png"
        save(folder / "images" / name, view(photo, matrix))
        rows["images"].append(f"{key} {name}")
        rows["bounding_boxes"].append(f"{key} 20.0 20.0 100.0 90.0")
        rows["train_test_split"].append(f"{key} 0")
        for part, (x, y) in enumerate(warp_points(matrix, POINTS), 1):
            hidden = key == 2 and part == 10
            rows["part_locs"].append(f"{key} {part} {x:.1f} {y:.1f} {0 if hidden else 1}")
    for table, lines in rows.items():
        write((folder / "parts" if table == "part_locs" else folder) / f"{table}.txt", lines)
    return folder


MOTIONS = [moved(0, 0), moved(0, 0), moved(6, -4, 0.05)]
"""Of the data sets of semantic correspondence; the second image is the first again."""


def make_semantic(folder: Path, photo: Pixels) -> Path:
    """Folders ``spair``, ``willow`` and ``cub``."""
    make_spair(folder / "spair", photo, MOTIONS)
    make_willow(folder / "willow", photo, MOTIONS)
    make_cub(folder / "cub", photo, MOTIONS)
    return folder


def first_mask() -> NDArray[np.uint8]:
    """(120, 160) two objects: a box and a disk."""
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[30:75, 30:70] = 1
    ys, xs = np.mgrid[: SIZE[1], : SIZE[0]]
    mask[(xs - 110) ** 2 + (ys - 65) ** 2 <= 22**2] = 2
    return mask


def make_davis(folder: Path, photo: Pixels, videos: dict[str, Sequence[Matrix]], split: str = "val") -> Path:
    """Videos of a photograph under motions from the first frame on, with the exact masks."""
    for name, motions in videos.items():
        for index, matrix in enumerate(motions):
            save(folder / "JPEGImages" / "480p" / name / f"{index:05d}.jpg", view(photo, matrix))
            back = np.linalg.inv(matrix @ np.linalg.inv(motions[0]))
            ys, xs = np.mgrid[: SIZE[1], : SIZE[0]]
            places = np.round(warp_points(back, np.stack([xs, ys], -1).reshape(-1, 2))).astype(int)
            inside = (places >= 0).all(1) & (places < SIZE).all(1)
            mask = np.zeros(SIZE[0] * SIZE[1], np.uint8)
            mask[inside] = first_mask()[places[inside, 1], places[inside, 0]]
            picture = PILImage.fromarray(mask.reshape(SIZE[::-1]), "P")
            picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            path = folder / "Annotations" / "480p" / name / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    write(folder / "ImageSets" / "2017" / f"{split}.txt", list(videos))
    return folder


def make_jhmdb(folder: Path, photo: Pixels, videos: dict[str, Sequence[Matrix]]) -> Path:
    """Videos of one action with 15 joints each, all for test but the last."""
    from scipy.io import savemat

    joints = np.concatenate([POINTS, POINTS[:5] + np.array([6, 4])])
    lines = []
    for name, motions in videos.items():
        positions = np.stack([warp_points(m @ np.linalg.inv(motions[0]), joints) for m in motions], -1)
        for index, matrix in enumerate(motions, 1):
            save(folder / "Rename_Images" / "wave" / name / f"{index:05d}.png", view(photo, matrix))
        path = folder / "joint_positions" / "wave" / name / "joint_positions.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {"pos_img": positions.transpose(1, 0, 2) + 1})
        lines.append(f"{name}.avi 2")
    write(folder / "splits" / "wave_test_split1.txt", [*lines, "training.avi 1"])
    return folder
