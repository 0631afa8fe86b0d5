"""Keypoints of many views of an image, in pixels of the image, with the affine frames that the views give."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.describers import Describer, describe_tensors
from geomatch.geometry import resize_homography, warp_points
from geomatch.images import Image, reduce_image
from geomatch.keypoints import Detector
from geomatch.tensors import ARRAYS, FeatureTensors, detect_features, tensor_method
from geomatch.types import Features
from geomatch.views.simulation import View, render_tilted

SIDE = 1600  # larger images are reduced to this long side first
LEAST_SIDE = 16  # strips that are narrower have no views, which would be border for the most part
MARGIN = 1.5
"""Keypoints of a view lie at least so many times their radius from the image's border, which is repeated."""


@dataclass(frozen=True, eq=False, slots=True)
class FramedFeatures:
    """Described keypoints with affine frames; several may lie at one place, seen in several views."""

    points: NDArray[np.float64]
    """(N, 2) pixels of the image."""
    frames: NDArray[np.float64]
    """(N, 2, 2): columns are the keypoint's x and y axis in pixels of the image, as long as its scale."""
    scores: NDArray[np.float32]
    """(N,) of the detector, in the view."""
    descriptors: Tensor
    """(N, D) float32, on the describer's device."""
    view: FeatureTensors | None = None
    """The same keypoints in pixels of the one view that they are of."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: NDArray[np.int64]) -> "FramedFeatures":
        rows = torch.tensor(index, device=self.descriptors.device)
        return FramedFeatures(
            self.points[index], self.frames[index], self.scores[index], self.descriptors[rows]
        )

    def to_features(self, image_size: tuple[int, int]) -> Features:
        """As keypoints of the image, with the scale and orientation that are nearest to the frames."""
        x, y = self.frames[:, :, 0].T
        scales = np.sqrt(np.abs(np.linalg.det(self.frames))).astype(np.float32)
        angles, rows = np.arctan2(y, x).astype(np.float32), self.descriptors.numpy(force=True)
        return Features(self.points.astype(np.float32), self.scores, image_size, scales, angles, rows)


def joined(parts: Sequence[FramedFeatures]) -> FramedFeatures:
    """All of them, in order, with descriptors where the last ones are: views, on the describer's device."""
    names = ("points", "frames", "scores")
    points, frames, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    device = parts[-1].descriptors.device
    rows = torch.cat([part.descriptors.to(device) for part in parts])
    return FramedFeatures(points, frames, scores, rows)


def features_of(parts: Sequence[Features]) -> Features:
    """All of these keypoints of one image, in order, with what all have; empty ones aside."""
    there = [part for part in parts if len(part)] or parts[:1]
    every = {name: [getattr(part, name) for part in there] for name in ARRAYS}
    arrays = {name: np.concatenate(own) for name, own in every.items() if all(a is not None for a in own)}
    return Features(image_size=parts[0].image_size, **arrays)


def framed(features: FeatureTensors, matrix: NDArray[np.float64]) -> FramedFeatures:
    """Keypoints of a view, to which the (3, 3) affine matrix leads; by default 1 px large, upright."""
    if features.descriptors is None:
        raise ValueError("the descriptor returned features without descriptors")
    own = replace(features, descriptors=None).to_features()
    scales = np.ones(len(own)) if own.scales is None else own.scales.astype(np.float64)
    angles = np.zeros(len(own)) if own.orientations is None else own.orientations.astype(np.float64)
    axes = np.array([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]) * scales
    back = np.linalg.inv(matrix)
    points = warp_points(back, own.keypoints)
    frames = back[:2, :2] @ axes.transpose(2, 0, 1)
    return FramedFeatures(points, frames, own.scores, features.descriptors, features)


def view_features(
    image: Image, views: Sequence[View], count: int, detector: Detector, describer: Describer
) -> list[FramedFeatures]:
    """Detect and describe up to ``count`` keypoints per view, of a tilted one by so much fewer."""
    own = getattr(detector, "in_views", None)
    if hasattr(type(detector), "in_views"):  # not of a subclass that detects in another way
        own = tensor_method(detector, "in_views", ("detect", "detect_tensors"))
    detector = own or detector
    reduced = reduce_image(image, SIDE)
    if min(reduced.size) < LEAST_SIDE:
        return []
    down = resize_homography(image.size, reduced.size)
    pictures, kept, matrices = list[Image](), list[FeatureTensors](), list[NDArray[np.float64]]()
    for view in views:
        picture, matrix = render_tilted(reduced, view)
        found = _inside(detect_features(detector, picture), matrix @ down, image)
        if len(found):
            pictures.append(picture)
            kept.append(found.best(max(1, round(count / view.tilt))))
            matrices.append(matrix @ down)
    described = describe_tensors(describer, pictures, kept)
    return [framed(*pair) for pair in zip(described, matrices, strict=True)]


def _inside(found: FeatureTensors, matrix: NDArray[np.float64], image: Image) -> FeatureTensors:
    """The keypoints of a view that see the image alone, where its mask allows them."""
    back = np.linalg.inv(matrix)
    points, reach = warp_points(back, found.keypoints.numpy(force=True)), np.zeros((1, 2))
    if found.scales is not None:
        radii = found.scales.numpy(force=True)[:, None] / 2
        reach = MARGIN * radii * np.linalg.norm(back[:2, :2], axis=1)
    inside = ((points >= reach) & (points <= np.array(image.size) - 1 - reach)).all(axis=1)
    inside &= image.within(points)
    return found[torch.tensor(inside, device=found.keypoints.device)]
