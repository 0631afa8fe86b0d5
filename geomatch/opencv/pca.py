"""Shorter descriptors, so that OpenCV's own matchers stay fast."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geomatch.dift.head.projection import LinearHead
from geomatch.opencv.arguments import check_whole
from geomatch.opencv.feature2d import Feature2D
from geomatch.types import check_shape

MAX_ROWS = 20_000
"""Descriptors that a fit uses at most, evenly chosen; more change little and cost memory."""


def fit_pca(descriptors: NDArray[np.floating], dimension: int) -> LinearHead:
    """The mean and the principal components of descriptors (N, D), by an eigendecomposition.

    Raises:
        ShapeError: when they are not two-dimensional.
        TypeError: when the dimension is no whole number.
        ValueError: when there are fewer dimensions or rows than components wanted, or NaN.
    """
    check_shape("descriptors", descriptors, ("N", "D"))
    rows = np.asarray(descriptors, np.float32)
    check_whole("dimension", dimension, 1)
    if not np.isfinite(rows).all():
        raise ValueError("descriptors must be finite, got NaN or infinity in them")
    if dimension > min(rows.shape):
        raise ValueError(
            f"{len(rows)} descriptors of {rows.shape[1]} dimensions have no {dimension} components"
        )
    chosen = _evenly(rows, MAX_ROWS)
    mean = chosen.mean(0)
    centred = chosen - mean
    # not cv2.PCACompute, which did not end within four minutes for 3,328 dimensions
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return LinearHead(mean, vectors[:, : -dimension - 1 : -1].astype(np.float32), {"pca": len(chosen)})


def with_pca(feature: Feature2D, images: Sequence[NDArray[np.uint8]], dimension: int = 128) -> Feature2D:
    """The same feature with descriptors of ``dimension`` numbers, fitted to photographs.

    Use one fit for all images that are to be matched. ``feature.pca.save(folder)`` stores it, and
    ``dataclasses.replace(feature, pca=load_head(folder))`` (`geomatch.dift.head.projection`) uses it again.

    Args:
        feature: made by `DIFT_create`, say.
        images: photographs as OpenCV reads them.
        dimension: numbers per descriptor.

    Raises:
        TypeError: for one image in place of a list.
        ValueError: when the photographs have too few keypoints.
    """
    if isinstance(images, np.ndarray):
        raise TypeError("images must be a list of images, got one array")
    plain = replace(feature, pca=None)
    rows = []
    for image in images:
        descriptors = plain.detectAndCompute(image, None)[1]
        if descriptors is not None:
            rows.append(_evenly(descriptors, -(-MAX_ROWS // len(images))))
    if not rows:
        raise ValueError("no keypoints were found in the images")
    return replace(feature, pca=fit_pca(np.concatenate(rows), dimension))


def _evenly(rows: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), limit)).astype(np.int64)]
