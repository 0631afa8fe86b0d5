"""Features on a device: what travels between detection, description and matching."""

import math
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geomatch.types import Features

_LEAST_OPEN = 0.1  # share of an image that a mask leaves, below which no more keypoints are looked for


@dataclass(frozen=True, eq=False, slots=True)
class FeatureTensors:
    """`Features` as tensors on one device, with the same shapes, units and pixel origin, unchecked."""

    keypoints: Tensor
    """(N, 2) float32, (x, y) in pixels of the original image."""
    scores: Tensor
    """(N,) float32, larger is better."""
    image_size: tuple[int, int]
    """(width, height) of the original image in pixels."""
    scales: Tensor | None = None
    """(N,) float32, diameters in pixels."""
    orientations: Tensor | None = None
    """(N,) float32, radians from the x axis towards the y axis."""
    descriptors: Tensor | None = None
    """(N, D) float32."""

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, index: slice | Tensor) -> "FeatureTensors":
        """Some of the keypoints: a slice, indices or a mask."""
        return replace(self, **_each(self, lambda values: values[index]))

    def best(self, count: int | None = None) -> "FeatureTensors":
        """Best first, at most so many; equal scores keep their order."""
        return self[self.scores.argsort(descending=True, stable=True)[:count]]

    def resized(self, image_size: tuple[int, int]) -> "FeatureTensors":
        """Where they lie after the image is resized, see `geomatch.geometry.resize_points`."""
        x, y = (new / old for new, old in zip(image_size, self.image_size, strict=True))
        keypoints = torch.stack(
            [(self.keypoints[:, 0] + 0.5) * x - 0.5, (self.keypoints[:, 1] + 0.5) * y - 0.5], dim=1
        )
        scales = None if self.scales is None else self.scales * x
        return replace(self, keypoints=keypoints, scales=scales, image_size=image_size)

    def to_features(self) -> Features:
        """The same as arrays, checked."""
        return Features(image_size=self.image_size, **_each(self, lambda values: values.numpy(force=True)))

    def to(self, device: str | torch.device) -> "FeatureTensors":
        """The same on another device."""
        return replace(self, **_each(self, lambda values: values.to(device)))


ARRAYS = ("keypoints", "scores", "scales", "orientations", "descriptors")


def _each(features: Features | FeatureTensors, change: Callable[[Any], Any]) -> dict[str, Any]:
    """What is made of each array that is there, by its name."""
    return {name: change(values) for name in ARRAYS if (values := getattr(features, name)) is not None}


def upload_features(features: Features, device: str | torch.device) -> FeatureTensors:
    """The features on a device, which own their memory."""
    arrays = _each(features, lambda values: torch.tensor(values, device=device))
    return FeatureTensors(image_size=features.image_size, **arrays)


def detect_features(detector: Any, image: Any) -> FeatureTensors:
    """The keypoints of a `geomatch.keypoints.Detector`, by its ``detect_tensors`` where it has that.

    Those that the image's mask leaves out are gone; a detector that keeps the best finds as many more before.
    """
    limit = None
    if image.mask is not None and is_dataclass(detector) and not image.mask.all():
        limit = getattr(detector, "max_keypoints", None)
        if limit is not None:
            more = math.ceil(limit / max(float(image.mask.mean()), _LEAST_OPEN))
            detector = replace(detector, max_keypoints=more)  # type: ignore[type-var]
    own = tensor_method(detector, "detect_tensors", ("detect",))
    found: FeatureTensors = own(image) if own else upload_features(detector.detect(image), "cpu")
    if image.mask is None or not len(found):
        return found
    inside = image.within(found.keypoints.numpy(force=True))
    return found[torch.tensor(inside, device=found.keypoints.device)][:limit]


def detect_arrays(self: Any, image: Any) -> Features:
    """The keypoints that ``detect_tensors`` finds, best first: a detector's ``detect``."""
    found: FeatureTensors = self.detect_tensors(image)
    return found.to_features()


def tensor_method(part: object, name: str, plain: tuple[str, ...]) -> Any:
    """The method of tensors, unless a subclass has put another ``plain`` method in its place; else None."""
    for kind in type(part).__mro__:
        if name in vars(kind):
            return getattr(part, name)
        if any(other in vars(kind) for other in plain):
            return None
    return None
