"""Points, masks and edits followed where the truth is known: a synthetic video, and HPatches.

``python -m geomatch.benchmarks.studies.following [--hpatches DIR] [--photo FILE]`` follows a grid of points
and two objects through 24 frames of a hand-held camera over the photograph (the bundled one if none is
given), carries a sticker to the views of HPatches sequences, and writes a record and pictures.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import geomatch
from geomatch.benchmarks.studies.record import Row, markdown, seconds_of, study_parser, write_record
from geomatch.benchmarks.tasks.homography.sequences import find_sequences
from geomatch.benchmarks.tasks.temporal.measures import boundary_accuracy, region_similarity
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.editing.edit import carry_edit, prepare_edit
from geomatch.geometry import warp_points
from geomatch.images import Image, load_image, write_png
from geomatch.opencv.examples.track_plane import made_video
from geomatch.video.overlay import draw_mask, draw_trails
from geomatch.video.track import TrackedPoints, track_mask, track_points

DENSE = "dift-tiny-dense"
SHOWN = 5
"""Frames in a picture."""
STICKER = (0.16, 0.11)
"""Width and height of the sticker in the middle of an image, in units of the image's width."""


def follow(photo: Path | None) -> tuple[list[Row], NDArray[np.uint8]]:
    """Errors of points and masks, and a strip of frames."""
    made = list(made_video(photo=photo))
    frames = [Image(np.ascontiguousarray(bgr[..., ::-1]), f"frame {k}") for k, (bgr, _) in enumerate(made)]
    width, height = frames[0].size
    xs, ys = np.linspace(0.15, 0.85, 5) * width, np.linspace(0.15, 0.85, 4) * height
    points = np.stack(np.meshgrid(xs.round(), ys.round()), -1).reshape(-1, 2)
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 3, height // 2), (width // 9, height // 7), 20, 0, 360, 1, -1)
    corners = np.array([[0.55, 0.35], [0.8, 0.3], [0.85, 0.6], [0.65, 0.7]]) * (width, height)
    cv2.fillPoly(mask, [corners.round().astype(np.int32)], 2)
    extractor, followed = DIFTExtractor(PRESETS[DENSE]), list[TrackedPoints]()
    seconds = seconds_of(
        lambda: followed.extend(track_points(extractor, tqdm(frames, desc="points"), points))
    )
    errors, lost, outside = [], 0, 0
    for found, (_, matrix) in zip(followed[1:], made[1:], strict=True):
        truth = warp_points(matrix, points)
        inside = ((truth >= 0) & (truth <= [width - 1, height - 1])).all(1)
        known = np.isfinite(found.points).all(1)
        lost += int((inside & ~known).sum())
        outside += int((~inside & known).sum())
        errors += np.linalg.norm(found.points - truth, axis=1)[inside & known].tolist()
    video = {"frames": len(frames), "size": [width, height]}
    count = len(errors) + lost
    rows: list[Row] = [
        {"name": "points", **video, "places": count, "mean_px": statistics.mean(errors),
         "median_px": statistics.median(errors), "max_px": max(errors),
         "within_4_px": sum(error <= 4 for error in errors) / count, "lost": lost,
         "kept_outside": outside, "seconds_per_frame": seconds / len(frames)}
    ]  # fmt: skip
    masks = list(track_mask(extractor, tqdm(frames, desc="objects"), mask))
    for number in (1, 2):
        own = []
        for one, (_, matrix) in zip(masks[1:], made[1:], strict=True):
            exact = cv2.warpPerspective(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)
            pair = one.mask == number, np.asarray(exact == number)
            own.append((region_similarity(*pair), boundary_accuracy(*pair)))
        j, f = np.mean(own, axis=0).tolist()
        rows.append({"name": f"object {number}", **video, "J": j, "F": f, "least_J": min(own)[0]})
    strip = []
    for index in np.linspace(0, len(frames) - 1, SHOWN).astype(int):
        pixels, tail = frames[index].pixels, [one.points for one in followed[max(0, index - 8) : index + 1]]
        strip.append(np.vstack([draw_trails(pixels, tail), draw_mask(pixels, masks[index].mask)]))
    return rows, np.hstack(strip)


def sticker(size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """(H, W, 4) a soft-edged label for an image of (width, height), and its corners (4, 2)."""
    width, height = (round(share * size[0]) for share in STICKER)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    layer = np.zeros((size[1], size[0], 4), np.uint8)
    box = layer[top : top + height, left : left + width]
    box[..., :3], box[..., 3] = (250, 210, 40), 230
    text = np.ascontiguousarray(box[..., :3])
    scale, place = height / 55, (width // 12, round(height * 0.7))
    thick = max(1, round(2 * scale))
    cv2.putText(text, "DIFT", place, cv2.FONT_HERSHEY_DUPLEX, scale, (170, 30, 90), thick, cv2.LINE_AA)
    box[..., :3] = text
    layer[..., 3] = cv2.GaussianBlur(layer[..., 3], (0, 0), 0.5 + 0.002 * size[0])
    right, bottom = left + width - 1.0, top + height - 1.0
    return layer, np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def example() -> NDArray[np.uint8]:
    """The sticker on the bundled photograph, and carried to its second view."""
    pair = geomatch.bundled_pair()
    prepared = prepare_edit(sticker((640, 480))[0], pair.image0)
    pictures = [carry_edit(prepared, image).picture for image in (pair.image0, pair.image1)]
    return np.hstack([picture for picture in pictures if picture is not None])


def carry(data: Path, out: Path) -> list[Row]:
    """The sticker carried to all views of all sequences, by keypoints and densely; pictures go to ``out``."""
    rows: list[Row] = []
    for sequence in find_sequences(data):
        source = load_image(sequence.reference)
        edit, corners = sticker(source.size)
        for descriptor in ("dift-tiny", DENSE):
            prepared = prepare_edit(edit, source, descriptor)
            for number, path, truth in tqdm(sequence.targets, desc=f"{sequence.name}, {descriptor}"):
                result = carry_edit(prepared, load_image(path))
                row: Row = {"name": "edit", "pair": f"{sequence.name} 1-{number}"}
                row |= {"descriptor": descriptor, "corner_error_px": None}
                if result.homography and result.picture is not None:
                    apart = warp_points(result.homography.matrix, corners) - warp_points(truth, corners)
                    row["corner_error_px"] = float(np.linalg.norm(apart, axis=1).mean())
                    write_png(out / f"{sequence.name}-{number}-{descriptor}.png", result.picture)
                rows.append(row)
    return rows


def table(rows: Sequence[Row]) -> str:
    """In Markdown; edits by sequence and descriptor."""
    found = {row["name"]: row for row in rows if row["name"] != "edit"}
    points = found["points"]
    lines = [
        (
            f"points, {points['places']} places in {points['frames']} frames of "
            f"{points['size'][0]}x{points['size'][1]}",
            f"error: mean {points['mean_px']:.1f}, median {points['median_px']:.1f}, largest "
            f"{points['max_px']:.0f} px; {100 * points['within_4_px']:.0f} % within 4 px; "
            f"{points['lost']} lost; {points['kept_outside']} kept that had left the frame",
        )
    ]
    for name in ("object 1", "object 2"):
        j, least, f = (f"{100 * found[name][measure]:.0f} %" for measure in ("J", "least_J", "F"))
        lines.append((name, f"J {j} (least {least}), F {f}"))
    edits: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["name"] == "edit":
            error = row["corner_error_px"]
            key = row["pair"].split()[0], row["descriptor"]
            edits.setdefault(key, []).append("none" if error is None else f"{error:.1f}")
    for (sequence, descriptor), errors in edits.items():
        words = f"mean error of its corners in views 2 to 6: {', '.join(errors)} px"
        lines.append((f"edit, {sequence}, `{descriptor}`", words))
    return markdown(("", ""), lines)


if __name__ == "__main__":
    parser = study_parser("following", __doc__)
    parser.add_argument("--photo", type=Path, help="none: the bundled photograph")
    parser.add_argument("--hpatches", type=Path, help="folder of sequences to carry an edit through")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results, strip = follow(options.photo)
    write_png(options.out / "following.png", strip)
    write_png(options.out / "edit.png", example())
    if options.hpatches:
        results += carry(options.hpatches, options.out)
    print(table(results))
    settings = {"photo": options.photo.name if options.photo else geomatch.bundled_pair().image0.name}
    write_record(options.out, "following", results, settings)
