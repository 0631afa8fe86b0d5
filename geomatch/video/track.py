"""Points or a mask of a video's first frame carried through it by the similarity of DIFT features.

The labels go from frame to frame as in `geomatch.video.propagation`; here are what the labels of users are,
what is read from them, and how they are kept so that an interrupted run goes on.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.errors import DamagedError, ImageError
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.images import Image, ImageLike, load_image
from geomatch.provenance import cache_key, record, versions
from geomatch.store import Store
from geomatch.video.frames import MAX_OBJECTS
from geomatch.video.propagation import (
    LabelPropagator,
    PropagationConfig,
    features_on,
    grid_for,
    mask_labels,
    mask_of,
    spot_places,
    spots,
)
from geomatch.weights.models import ADM

KIND = "tracks"
"""Of the objects that a store keeps: the labels of one frame each."""
LOST = 0.15
"""Confidence below which a point is lost. On a made video 11 of 14 places outside the frame had less, and at
most 7 % of those inside, whose errors were the largest."""


@dataclass(frozen=True, eq=False, slots=True)
class TrackedPoints:
    """The points in one frame."""

    image: Image
    """The frame."""
    points: NDArray[np.float64]
    """(N, 2) pixels of the frame; NaN where a point is lost."""
    confidence: NDArray[np.float32]
    """(N,) in [0, 1]: what is together of the point's spot (`geomatch.video.propagation.spot_places`), in
    units of the first frame's, at most 1 where the camera has come nearer; 0 where it is lost."""


@dataclass(frozen=True, eq=False, slots=True)
class TrackedMask:
    """The objects in one frame."""

    image: Image
    """The frame."""
    mask: NDArray[np.uint8]
    """(H, W) numbers of objects, 0 for the background."""


def default_propagation(config: DIFTConfig) -> tuple[PropagationConfig, int]:
    """Rules for the features of a configuration, and the cells along a frame's short side.

    Stable Diffusion and ADM: those of the paper for DAVIS-2017 (Tang et al., NeurIPS 2023), whose grid is an
    eighth of a short side of 480. The embedded model: measured on a video made of a photograph: of grids of
    60, 90 and 120 cells 90 had the smallest errors of points (mean 2.2 px of 320x240), and 120 but little
    better masks (IoU 0.86 against 0.84, 0.73 with 60).
    """
    if config.embedded:
        return PropagationConfig(context=7, top_k=5, radius=15, temperature=0.02), 90
    if config.model == ADM:
        return PropagationConfig(context=28, top_k=10, radius=15, temperature=0.1), 60
    return PropagationConfig(context=28, top_k=15, radius=15, temperature=0.2), 60


def propagate_labels(
    extractor: DIFTExtractor,
    frames: Iterable[ImageLike],
    labels: NDArray[np.float32],
    config: PropagationConfig,
    store: Store | None = None,
) -> Iterator[tuple[Image, NDArray[np.float32]]]:
    """Each frame with its labels (L, h, w), those given for the first one.

    With a store the labels of every further frame are kept there under the digest of all that decides them:
    the extractor with its weights, the rules, the first frame's labels, the packages' versions, and the
    pixels of all frames so far. What is there is not computed again, and features only where they are needed:
    an interrupted run goes on where it was, and gives what one without interruption gives.

    Args:
        extractor: of the features, dense ones.
        frames: all of one size.
        labels: (L, h, w) of the first frame; h and w make the grid on which frames are compared.
        config: the rules.
        store: where labels are kept.

    Raises:
        ImageError: when a frame cannot be used.
        ShapeError: when the labels have another shape.
        StoreError: when the store cannot be read or written.
    """
    labels = np.ascontiguousarray(labels, dtype=np.float32)
    fixed = _what_decides(extractor, labels, config) if store else ""
    seen = hashlib.sha256()
    first: Image | None = None
    propagator: LabelPropagator | None = None
    # frames whose labels came from the store, of which the propagator does not know yet
    waiting: deque[tuple[Image, NDArray[np.float32]]] = deque(maxlen=config.context)

    def features(frame: Image) -> Tensor:
        return features_on(extractor.dense(frame), (labels.shape[2], labels.shape[1]))

    for source in frames:
        frame = load_image(source)
        seen.update(repr(frame.pixels.shape).encode() + frame.pixels.tobytes())
        if first is None:
            first = frame
            yield frame, labels
            continue
        key = digest_of([fixed, seen.hexdigest()])
        known = _kept(store, key, labels.shape) if store else None
        if known is not None:
            waiting.append((frame, known))
            yield frame, known
            continue
        if propagator is None:
            propagator = LabelPropagator(config, features(first), torch.from_numpy(labels))
        while waiting:
            image, old = waiting.popleft()
            propagator.keep(features(image), torch.from_numpy(old))
        new = propagator.step(features(frame)).float().numpy(force=True)
        if store:
            store.write(KIND, key, pack_arrays(KIND, {"labels": new}))
        yield frame, new


def track_points(
    extractor: DIFTExtractor,
    frames: Iterable[ImageLike],
    points: NDArray[np.floating],
    config: PropagationConfig | None = None,
    short: int | None = None,
    store: Store | None = None,
) -> Iterator[TrackedPoints]:
    """Where points of the first frame are in every frame, the first included.

    Args:
        extractor: of the features, dense ones.
        frames: all of one size.
        points: (N, 2) pixels (x, y) of the first frame.
        config: the rules; None takes `default_propagation`.
        short: cells along the frames' short side; None takes `default_propagation`.
        store: see `propagate_labels`.

    Raises:
        ImageError: when a frame cannot be used, or there is none.
        ValueError: when a point lies outside the first frame.
    """
    first, frames = _begun(frames)
    (width, height), points = first.size, np.asarray(points, np.float64).reshape(-1, 2)
    for x, y in points.tolist():
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            raise ValueError(
                f"point {x:g},{y:g} lies outside the first frame, whose last pixel is "
                f"{width - 1},{height - 1}"
            )
    config, cells = _settings(extractor, config, short, first.size)
    start = spots(points, first.size, cells).numpy()
    _, whole = spot_places(torch.from_numpy(start), first.size)
    for frame, labels in propagate_labels(extractor, frames, start, config, store):
        places, amounts = spot_places(torch.from_numpy(labels), frame.size)
        confidence = np.minimum(amounts / whole, 1)
        lost = confidence < LOST
        yield TrackedPoints(
            frame,
            np.where(lost[:, None], np.nan, points if labels is start else places),
            np.where(lost, 0, confidence).astype(np.float32),
        )


def track_mask(
    extractor: DIFTExtractor,
    frames: Iterable[ImageLike],
    mask: NDArray[np.integer],
    config: PropagationConfig | None = None,
    short: int | None = None,
    store: Store | None = None,
) -> Iterator[TrackedMask]:
    """Where objects of the first frame are in every frame; in the first as given.

    Args:
        extractor: of the features, dense ones.
        frames: all of one size.
        mask: (H, W) numbers of objects, 0 for the background, of the first frame's size.
        config: the rules; None takes `default_propagation`.
        short: cells along the frames' short side; None takes `default_propagation`.
        store: see `propagate_labels`.

    Raises:
        ImageError: when a frame cannot be used, or there is none.
        ValueError: when the mask has another size, no object or more than 254.
    """
    first, frames = _begun(frames)
    if mask.shape != first.size[::-1]:
        raise ValueError(
            f"the mask must have the frames' size, {first.size[0]}x{first.size[1]} pixels, "
            f"got {'x'.join(str(side) for side in mask.shape[::-1])}"
        )
    if not 1 <= mask.max() <= MAX_OBJECTS or mask.min() < 0:
        raise ValueError(
            f"the mask must number objects from 1 to {MAX_OBJECTS}, got {mask.min()} to {mask.max()}"
        )
    config, cells = _settings(extractor, config, short, first.size)
    start = mask_labels(mask, cells).numpy()
    for number, (frame, labels) in enumerate(propagate_labels(extractor, frames, start, config, store)):
        found = mask_of(torch.from_numpy(labels), frame.size) if number else mask.astype(np.uint8)
        yield TrackedMask(frame, found)


def _what_decides(extractor: DIFTExtractor, labels: NDArray[np.float32], config: PropagationConfig) -> str:
    shown = {
        "extractor": cache_key(extractor),
        "propagation": record(config),
        "labels": [list(labels.shape), hashlib.sha256(labels.tobytes()).hexdigest()],
        "versions": versions(),
    }
    return digest_of(shown)


def _kept(store: Store, key: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Labels of the store; None when they are not there or damaged, so that they are made again."""
    try:
        labels = unpack_arrays(store.read(KIND, key), store.name(KIND, key), KIND, ("labels",))["labels"]
    except (KeyError, DamagedError):
        return None
    return labels if labels.shape == shape and labels.dtype == np.float32 else None


def _settings(
    extractor: DIFTExtractor, config: PropagationConfig | None, short: int | None, size: tuple[int, int]
) -> tuple[PropagationConfig, tuple[int, int]]:
    usual, usual_short = default_propagation(extractor.config)
    return config or usual, grid_for(size, short or usual_short)


def _begun(frames: Iterable[ImageLike]) -> tuple[Image, Iterator[ImageLike]]:
    """The first frame, and all of them."""
    rest = iter(frames)
    try:
        first = load_image(next(rest))
    except StopIteration:
        raise ImageError("the video has no frames") from None
    return first, chain([first], rest)
