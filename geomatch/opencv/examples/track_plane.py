"""Follow a plane through a video, with the model loaded once.

``python -m geomatch.opencv.examples.track_plane [VIDEO --box X,Y,W,H]`` finds a box of the first frame in
every other one, and writes the video with the outline (Motion JPEG) and a picture of some frames. Without a
video it renders one from the bundled photograph, whose true motion is known.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import image_corners, shift_homography, warp_points
from geomatch.opencv import BFMatcher, DIFT_create, Feature2D, estimate_homography
from geomatch.opencv.examples import Photo, bundled_photographs
from geomatch.synthetic import render_view

KEYPOINTS, MIN_MATCHES = 250, 8
FRAMES, SIZE = 24, (320, 240)
SHOWN = 6  # frames in the picture

Array = NDArray[np.float64]


class PlaneTracker:
    """The plane of the first frame, found in each further frame on its own: nothing can drift."""

    def __init__(self, frame: Photo, box: tuple[int, int, int, int], feature: Feature2D) -> None:
        """Mark the box (left, top, width, height) of the first frame."""
        left, top, width, height = box
        mask = np.zeros(frame.shape[:2], np.uint8)
        mask[top : top + height, left : left + width] = 255
        self.feature = feature
        self.keypoints, self.descriptors = feature.detectAndCompute(frame, mask)
        self.corners = image_corners((width, height)) + np.array([left, top])
        self.matcher = BFMatcher(cv2.NORM_L2, crossCheck=True)

    def find(self, frame: Photo) -> Array | None:
        """The box's corners (4, 2) in another frame, or None if it cannot be seen."""
        keypoints, descriptors = self.feature.detectAndCompute(frame, None)
        matches = self.matcher.match(self.descriptors, descriptors)
        if len(matches) < MIN_MATCHES:
            return None
        source = np.array([self.keypoints[match.queryIdx].pt for match in matches], np.float32)
        target = np.array([keypoints[match.trainIdx].pt for match in matches], np.float32)
        # as findHomography, without a warning for frames that do not show the plane
        found = estimate_homography(source, target, cv2.USAC_MAGSAC, 3.0, 10_000, 0.999)
        return warp_points(found.matrix, self.corners) if found else None


def synthetic_video(frames: int = FRAMES) -> Iterator[tuple[Photo, Array]]:
    """A hand-held camera over the bundled photograph; with frames the homography from the first."""
    pixels = bundled_photographs()[0]
    rng = np.random.default_rng(0)
    first: Array | None = None
    for phase in np.arange(frames) / frames * 2 * np.pi:
        zoom, turn = 1 + 0.25 * np.sin(phase), 0.35 * np.sin(1.5 * phase)
        view = np.eye(3)
        view[:2, :2] = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        view[2, :2] = 3e-4 * np.sin(phase), 3e-4 * np.cos(2 * phase)
        view[:2, 2] = rng.normal(0, 2.5, 2) + np.array([25 * np.sin(phase), 15 * np.sin(2 * phase)])
        back = shift_homography((SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2)
        matrix = back @ view @ shift_homography(-350, -200)
        first = matrix if first is None else first
        seen = render_view(pixels, matrix, SIZE).astype(np.float32)
        seen = seen * (1 + 0.25 * np.sin(3 * phase)) + rng.normal(0, 4, seen.shape)
        yield np.clip(seen, 0, 255).astype(np.uint8), matrix @ np.linalg.inv(first)


def frames_of(video: Path) -> Iterator[Photo]:
    """The frames of a video file, none when it cannot be read."""
    capture = cv2.VideoCapture(str(video))
    while (frame := capture.read()[1]) is not None:
        yield np.asarray(frame, np.uint8)


def _outlined(frame: Photo, corners: Array | None) -> Photo:
    """The frame with the box, or with a red border when it was not found."""
    drawn = frame.copy()
    if corners is None:
        cv2.rectangle(drawn, (0, 0), (frame.shape[1] - 1, frame.shape[0] - 1), (0, 0, 255), 4)
        return drawn
    outline = np.round(corners * 16).astype(np.int32)
    cv2.polylines(drawn, [outline], True, (90, 220, 60), 2, cv2.LINE_AA, 4)
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the plane was found in some frame, 1 if in none, 2 on bad input."""
    parser = argparse.ArgumentParser(description="Follow a plane through a video.")
    parser.add_argument("video", nargs="?", type=Path, help="without one, a synthetic one")
    parser.add_argument("--box", default="90,50,150,130", help="left,top,width,height in the first frame")
    parser.add_argument("--out", type=Path, default=Path("tracked.avi"), help="the picture goes beside it")
    options = parser.parse_args(arguments)
    rendered = [] if options.video else list(synthetic_video())
    frames = frames_of(options.video) if options.video else iter(frame for frame, _ in rendered)
    first = next(frames, None)
    if first is None:
        parser.error(f"cannot read {options.video} as a video")
    try:
        left, top, width, height = map(int, options.box.split(","))
    except ValueError:
        parser.error(f"--box must be left,top,width,height, got {options.box}")
    size = first.shape[1], first.shape[0]
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[0] or top + height > size[1]:
        parser.error(f"--box must lie in the first frame of {size[0]}x{size[1]} pixels, got {options.box}")
    tracker = PlaneTracker(first, (left, top, width, height), DIFT_create(KEYPOINTS))
    drawn, found, errors, start = [_outlined(first, tracker.corners)], 0, [], time.perf_counter()
    for number, frame in enumerate(frames, 1):
        corners = tracker.find(frame)
        drawn.append(_outlined(frame, corners))
        if corners is not None:
            found += 1
            if rendered:
                truth = warp_points(rendered[number][1], tracker.corners)
                errors.append(float(np.linalg.norm(corners - truth, axis=1).mean()))
    seconds = (time.perf_counter() - start) / max(1, len(drawn) - 1)
    writer = cv2.VideoWriter(str(options.out), cv2.VideoWriter.fourcc(*"MJPG"), 12, size)
    for frame in drawn:
        writer.write(frame)
    writer.release()
    print(f"found in {found} of {len(drawn) - 1} frames, {seconds:.2f} s per frame")
    if errors:
        print(f"mean corner error {np.mean(errors):.2f} px, largest {np.max(errors):.2f} px")
    chosen = [drawn[index] for index in np.linspace(0, len(drawn) - 1, min(SHOWN, len(drawn))).astype(int)]
    strip = options.out.with_suffix(".jpg")
    cv2.imwrite(str(strip), np.hstack(chosen))
    print(f"wrote {options.out} and {strip}")
    return 0 if found else 1


if __name__ == "__main__":
    raise SystemExit(main())
