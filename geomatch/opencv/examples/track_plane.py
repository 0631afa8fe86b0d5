"""Follow a plane through a video, with the model loaded once.

``python -m geomatch.opencv.examples.track_plane [VIDEO --box X,Y,W,H]`` marks a
box of the first frame, finds it in every other one, and writes the video with
the outline (Motion JPEG) and a picture of some frames. Without a video it
renders one from the bundled photograph, whose true motion is known.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import geomatch
from geomatch.opencv import BFMatcher, DIFT_create, Feature2D, findHomography
from geomatch.synthetic import render_view

KEYPOINTS = 250
FRAMES, SIZE = 24, (320, 240)
SHOWN = 6
"""Frames in the picture."""

Frame = NDArray[np.uint8]
Corners = NDArray[np.float64]


class PlaneTracker:
    """The plane of the first frame, found in each further frame on its own: nothing can drift."""

    def __init__(self, frame: Frame, box: tuple[int, int, int, int], feature: Feature2D) -> None:
        """Mark the box (left, top, width, height) of the first frame."""
        left, top, width, height = box
        mask = np.zeros(frame.shape[:2], np.uint8)
        mask[top : top + height, left : left + width] = 255
        self.feature = feature
        self.keypoints, self.descriptors = feature.detectAndCompute(frame, mask)
        right, bottom = left + width - 1, top + height - 1
        self.corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
        self.matcher = BFMatcher(cv2.NORM_L2, crossCheck=True)

    def find(self, frame: Frame) -> Corners | None:
        """The box's corners (4, 2) in another frame, or None when it is not to be seen."""
        keypoints, descriptors = self.feature.detectAndCompute(frame, None)
        matches = self.matcher.match(self.descriptors, descriptors)
        if len(matches) < 4:
            return None
        source = np.array([self.keypoints[match.queryIdx].pt for match in matches], np.float32)
        target = np.array([keypoints[match.trainIdx].pt for match in matches], np.float32)
        matrix, _ = findHomography(source, target, cv2.USAC_MAGSAC, 3.0, None, 10_000, 0.999)
        return None if matrix is None else cv2.perspectiveTransform(self.corners[None], matrix)[0]


def synthetic_video(frames: int = FRAMES, photo: Path | None = None) -> Iterator[tuple[Frame, Corners]]:
    """A hand-held camera over a photograph (the bundled one); with frames the homography from the first."""
    pixels = cv2.imread(str(photo or geomatch.bundled_pair().image0))
    if pixels is None:
        raise ValueError(f"{photo}: no photograph that OpenCV can read")
    middle = 350 / 640 * pixels.shape[1], 200 / 480 * pixels.shape[0]
    rng = np.random.default_rng(0)
    first: Corners | None = None
    for number in range(frames):
        phase = number / frames * 2 * np.pi
        zoom, turn = 1 + 0.25 * np.sin(phase), 0.35 * np.sin(1.5 * phase)
        linear = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        view = np.eye(3)
        view[:2, :2] = linear
        view[2, :2] = 3e-4 * np.sin(phase), 3e-4 * np.cos(2 * phase)
        view[:2, 2] = rng.normal(0, 2.5, 2) + np.array([25 * np.sin(phase), 15 * np.sin(2 * phase)])
        centre, back = np.eye(3), np.eye(3)
        centre[:2, 2], back[:2, 2] = (-middle[0], -middle[1]), ((SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2)
        matrix = back @ view @ centre
        first = matrix if first is None else first
        seen = render_view(np.asarray(pixels, np.uint8), matrix, SIZE).astype(np.float32)
        seen = seen * (1 + 0.25 * np.sin(3 * phase)) + rng.normal(0, 4, seen.shape)
        yield np.clip(seen, 0, 255).astype(np.uint8), matrix @ np.linalg.inv(first)


def frames_of(video: Path) -> Iterator[Frame]:
    """The frames of a video file, none when it cannot be read."""
    capture = cv2.VideoCapture(str(video))
    while True:
        read, frame = capture.read()
        if not read:
            return
        yield np.asarray(frame, np.uint8)


def outlined(frame: Frame, corners: Corners | None) -> Frame:
    """The frame with the box, or with a red border when it was not found."""
    drawn = frame.copy()
    if corners is None:
        cv2.rectangle(drawn, (0, 0), (frame.shape[1] - 1, frame.shape[0] - 1), (0, 0, 255), 4)
    else:
        cv2.polylines(
            drawn, [np.round(corners * 16).astype(np.int32)], True, (90, 220, 60), 2, cv2.LINE_AA, 4
        )
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the plane was found in some frame, 1 when in none, 2 on bad input."""
    parser = argparse.ArgumentParser(description="Follow a plane through a video.")
    parser.add_argument("video", nargs="?", type=Path, help="without one, a synthetic one")
    parser.add_argument("--box", default="90,50,150,130", help="left,top,width,height in the first frame")
    parser.add_argument("--out", type=Path, default=Path("tracked.avi"), help="the picture goes beside it")
    options = parser.parse_args(arguments)
    made = [] if options.video else list(synthetic_video())
    frames = frames_of(options.video) if options.video else iter(frame for frame, _ in made)
    first = next(frames, None)
    if first is None:
        parser.error(f"cannot read {options.video} as a video")
    try:
        left, top, width, height = (int(part) for part in options.box.split(","))
    except ValueError:
        parser.error(f"--box must be left,top,width,height, got {options.box}")
    size = first.shape[1], first.shape[0]
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[0] or top + height > size[1]:
        parser.error(f"--box must lie in the first frame of {size[0]}x{size[1]} pixels, got {options.box}")
    tracker = PlaneTracker(first, (left, top, width, height), DIFT_create(KEYPOINTS))
    writer = cv2.VideoWriter(str(options.out), cv2.VideoWriter.fourcc(*"MJPG"), 12, size)
    drawn, found, errors = [outlined(first, tracker.corners)], 0, []
    writer.write(drawn[0])
    start = time.perf_counter()
    for number, frame in enumerate(frames, 1):
        corners = tracker.find(frame)
        found += corners is not None
        if made and corners is not None:
            truth = cv2.perspectiveTransform(tracker.corners[None], made[number][1])[0]
            errors.append(float(np.linalg.norm(corners - truth, axis=1).mean()))
        drawn.append(outlined(frame, corners))
        writer.write(drawn[-1])
    writer.release()
    seconds = (time.perf_counter() - start) / max(1, len(drawn) - 1)
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
