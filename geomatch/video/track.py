"""Points or a mask of a video's first frame tracked through it; frames are cached, so that runs go on."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.describers import DenseDescriber
from geomatch.dift import DIFTConfig
from geomatch.dift.maps.transfer import check_inside
from geomatch.errors import ImageError
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.images import Image, ImageLike, load_image
from geomatch.provenance import cache_key, versions
from geomatch.store import Store
from geomatch.video import propagation
from geomatch.video.masks import MAX_OBJECTS
from geomatch.video.propagation import LabelPropagator, PropagationConfig
from geomatch.weights.models import ADM

KIND = "tracks"
"""Kind of the store's objects: the labels of one frame each."""
LOST = 0.15
"""Confidence below which a point is lost. On a synthetic video 11 of 14 places outside the frame had less,
and at most 7 % of those inside, whose errors were the largest."""


@dataclass(frozen=True, eq=False, slots=True)
class TrackedPoints:
    """The points in one frame, ``image``."""

    image: Image
    points: NDArray[np.float64]
    """(N, 2) pixels of the frame; NaN where a point is lost."""
    confidence: NDArray[np.float32]
    """(N,) in [0, 1]: the label map's sum around its maximum, by the first frame's; 0 where it is lost."""


@dataclass(frozen=True, eq=False, slots=True)
class TrackedMask:
    """The objects in one frame, ``image``."""

    image: Image
    mask: NDArray[np.uint8]
    """(H, W) object numbers, 0 for the background."""


def default_propagation(config: DIFTConfig | None) -> tuple[PropagationConfig, int]:
    """The rules for the features of a configuration, and the number of cells along a frame's short side.

    Those of the embedded model were measured on a synthetic video: of grids of 60, 90 and 120 cells 90 had
    the smallest errors of points. Others are the paper's for DAVIS-2017 (Tang et al., NeurIPS 2023).
    """
    if config and config.embedded:
        return PropagationConfig(context=7, top_k=5, radius=15, temperature=0.02), 90
    if config and config.model == ADM:
        return PropagationConfig(context=28, top_k=10, radius=15, temperature=0.1), 60
    return PropagationConfig(context=28, top_k=15, radius=15, temperature=0.2), 60


def propagate_labels(
    describer: DenseDescriber,
    frames: Iterable[ImageLike],
    labels: NDArray[np.float32],
    config: PropagationConfig,
    store: Store | None = None,
) -> Iterator[tuple[Image, NDArray[np.float32]]]:
    """Give each frame with its labels (L, h, w), those of the first one as given, whose grid is compared.

    The store caches the labels of every further frame under the digest of all that decides them: describer,
    rules, first labels, package versions, and the pixels of all frames so far. Features are computed only
    where they are needed, so that an interrupted run resumes, with the same results.
    """
    labels = np.ascontiguousarray(labels, dtype=np.float32)
    fixed = digest_of([cache_key([describer, config, labels]), versions()]) if store else ""
    seen = hashlib.sha256()
    first: Image | None = None
    propagator: LabelPropagator | None = None
    # frames whose labels came from the store, of which the propagator does not know yet
    waiting: deque[tuple[Image, NDArray[np.float32]]] = deque(maxlen=config.context)

    def unpacked(data: bytes, label: str) -> NDArray[np.float32]:
        return unpack_arrays(data, label, KIND, ("labels",))["labels"]

    def features(frame: Image) -> Tensor:
        return propagation.features_on(describer.dense(frame), (labels.shape[2], labels.shape[1]))

    for source in frames:
        frame = load_image(source)
        seen.update(repr(frame.pixels.shape).encode() + frame.pixels.tobytes())
        if first is None:
            first = frame
            yield frame, labels
            continue
        key = digest_of([fixed, seen.hexdigest()])
        known = store.found(KIND, key, unpacked) if store else None
        if known is not None:
            waiting.append((frame, known))
            yield frame, known
            continue
        if propagator is None:
            propagator = LabelPropagator(config, features(first), torch.from_numpy(labels))
        while waiting:
            image, old = waiting.popleft()
            propagator.add(features(image), torch.from_numpy(old))
        new = propagator.step(features(frame)).float().numpy(force=True)
        if store:
            store.write(KIND, key, pack_arrays(KIND, {"labels": new}))
        yield frame, new


def track_points(
    describer: DenseDescriber,
    frames: Iterable[ImageLike],
    points: NDArray[np.floating],
    config: PropagationConfig | None = None,
    short: int | None = None,
    store: Store | None = None,
) -> Iterator[TrackedPoints]:
    """Track points of the first frame; the first result is the first frame's.

    ``points`` are (N, 2) pixels (x, y) of the first frame; ``config`` and ``short``, the cells along the
    short side, are `default_propagation` unless given; the store is that of `propagate_labels`. Raises
    ImageError when a frame cannot be used, or there is none, ValueError for a point outside the first frame.
    """
    first, frames, config, cells = _begun(describer, frames, config, short)
    points = np.asarray(points, np.float64).reshape(-1, 2)
    check_inside(points, first.size, "the first frame")
    start = propagation.point_labels(points, first.size, cells).numpy()
    _, whole = propagation.points_of(torch.from_numpy(start), first.size)
    for frame, labels in propagate_labels(describer, frames, start, config, store):
        places, amounts = propagation.points_of(torch.from_numpy(labels), frame.size)
        confidence = np.minimum(amounts / whole, 1)
        lost = confidence < LOST
        places = np.where(lost[:, None], np.nan, points if labels is start else places)
        yield TrackedPoints(frame, places, np.where(lost, 0, confidence).astype(np.float32))


def track_mask(
    describer: DenseDescriber,
    frames: Iterable[ImageLike],
    mask: NDArray[np.integer],
    config: PropagationConfig | None = None,
    short: int | None = None,
    store: Store | None = None,
) -> Iterator[TrackedMask]:
    """Track objects of the first frame; the first result is the mask as given.

    ``mask`` is (H, W) object numbers of the first frame, 0 for the background; the others, and errors, are
    those of `track_points`. Raises ValueError when the mask has another size, no object or more than 254.
    """
    first, frames, config, cells = _begun(describer, frames, config, short)
    if mask.shape != first.size[::-1]:
        raise ValueError(
            f"the mask must have the frames' size, {first.size[0]}x{first.size[1]} pixels, "
            f"got {'x'.join(str(side) for side in mask.shape[::-1])}"
        )
    if not 1 <= mask.max() <= MAX_OBJECTS or mask.min() < 0:
        raise ValueError(f"objects must be numbered 1 to {MAX_OBJECTS}, got {mask.min()} to {mask.max()}")
    start = propagation.mask_labels(mask, cells).numpy()
    for number, (frame, labels) in enumerate(propagate_labels(describer, frames, start, config, store)):
        found = propagation.mask_of(torch.from_numpy(labels), frame.size) if number else mask.astype(np.uint8)
        yield TrackedMask(frame, found)


def _begun(
    describer: DenseDescriber,
    frames: Iterable[ImageLike],
    config: PropagationConfig | None,
    short: int | None,
) -> tuple[Image, Iterator[ImageLike], PropagationConfig, tuple[int, int]]:
    """The first frame, all of them, the rules, and (w, h) of the grid of labels."""
    rest = iter(frames)
    try:
        first = load_image(next(rest))
    except StopIteration:
        raise ImageError("the video has no frames") from None
    settings = getattr(describer, "config", None)
    usual, cells = default_propagation(settings if isinstance(settings, DIFTConfig) else None)
    return first, chain([first], rest), config or usual, propagation.grid_for(first.size, short or cells)
