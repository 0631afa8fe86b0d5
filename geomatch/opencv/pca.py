"""Shorter descriptors, so that OpenCV's own matchers stay fast."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geomatch.dift.head.projection import LinearHead
from geomatch.opencv.arguments import check_whole
from geomatch.opencv.feature2d import Feature2D
from geomatch.types import check_shape

MAX_ROWS = 20_000  # descriptors that a fit uses at most, evenly chosen; more change little and cost memory


def fit_pca(descriptors: NDArray[np.floating], dimension: int) -> LinearHead:
    """The mean and the principal components of descriptors (N, D), by an eigendecomposition.

    Raises ShapeError when they are not two-dimensional, TypeError when the dimension is no whole number,
    ValueError when there are fewer dimensions or rows than components wanted, or NaN.
    """
    check_shape("descriptors", descriptors, ("N", "D"))
    rows = np.asarray(descriptors, np.float32)
    check_whole("dimension", dimension, 1)
    if not np.isfinite(rows).all():
        raise ValueError("descriptors must be finite, got NaN or infinity in them")
    count, width = rows.shape
    if dimension > min(count, width):
        raise ValueError(f"{count} descriptors of {width} dimensions have no {dimension} components")
    chosen = _evenly(rows, MAX_ROWS)
    centred = chosen - (mean := chosen.mean(0))
    # not cv2.PCACompute, which did not end within four minutes for 3,328 dimensions
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return LinearHead(mean, vectors[:, : -dimension - 1 : -1].astype(np.float32), {"pca": len(chosen)})


def with_pca(feature: Feature2D, images: Sequence[NDArray[np.uint8]], dimension: int = 128) -> Feature2D:
    """The same feature with descriptors of ``dimension`` numbers, fitted to photographs.

    Use one fit for all images that are to be matched. ``feature.pca.save(folder)`` stores it, and
    ``dataclasses.replace(feature, pca=load_head(folder))`` (`geomatch.dift.head.projection`) uses it again.
    Images are as OpenCV reads them; TypeError for one in place of a list, ValueError for too few keypoints.
    """
    if isinstance(images, np.ndarray):
        raise TypeError("images must be a list of images, got one array")
    found = (replace(feature, pca=None).detectAndCompute(image, None)[1] for image in images)
    rows = [_evenly(own, -(-MAX_ROWS // len(images))) for own in found if own is not None]
    if not rows:
        raise ValueError("no keypoints were found in the images")
    return replace(feature, pca=fit_pca(np.concatenate(rows), dimension))


def _evenly(rows: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), limit)).astype(np.int64)]
