"""A model's images: their features, found as `reconstruct` finds them, with the points that they show."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import Camera, camera_of
from geomatch.collection.features import KIND, StoredFeatures, extract_features, feature_key
from geomatch.collection.folder import ImageFiles, Photograph, examine
from geomatch.collection.match import dense_twin
from geomatch.collection.retrieval import pool_images, read_row, unit_rows
from geomatch.colmap.cameras import camera_tags
from geomatch.colmap.conventions import to_colmap
from geomatch.describers import Describer
from geomatch.engine import FailedItem, RunContext
from geomatch.errors import FeaturesError, GeomatchError
from geomatch.files import digest_of, fingerprint_of
from geomatch.images import Masks
from geomatch.keypoints import Detector
from geomatch.provenance import cache_key
from geomatch.reconstruction.folder import photographs_of, run_of
from geomatch.reconstruction.localization.pose import Trial
from geomatch.reconstruction.models import find_model, posed_images, read_model
from geomatch.types import Features

_REACH = 1.5  # pixels between a keypoint and the model's, of which it is one
_LEAST = 0.3  # share of an image's points that must lie at keypoints; strangers' do by chance at a tenth
_HELD = 2**30  # bytes of descriptors in memory
_ALIKE = 1.03  # focal lengths that differ by less are of one camera
_GUESS = 1.2  # COLMAP's focal length where there is no other, in long sides


class Shown(NamedTuple):
    """Features of an image of the model."""

    features: Features
    points: NDArray[np.int64]  # (N,) rows of `ModelImages.xyz`, -1 for none
    bytes: int


@dataclass(frozen=True, eq=False)
class ModelImages:
    """The images of a model that have a pose and a file; what was read last stays in memory."""

    model: Any  # which its images live in
    files: ImageFiles
    stored: StoredFeatures
    images: dict[str, Any]  # COLMAP's, by name
    numbers: NDArray[np.int64]  # (P,) COLMAP's of the points, sorted
    xyz: NDArray[np.float64]  # (P, 3) points
    scale: tuple[Any, Any]  # mean and deviation of the pooled features' channels
    looks: NDArray[np.float32]  # the images' unit rows by them
    _held: dict[str, Shown] = field(default_factory=dict)

    @cached_property
    def extent(self) -> float:
        """Diagonal of the box about all cameras and nine tenths of the points, in the model's units."""
        centres = [image.projection_center() for image in self.images.values()]
        box = np.vstack([np.quantile(self.xyz, (0.05, 0.95), axis=0), centres])
        return float(np.linalg.norm(np.ptp(box, axis=0)))

    def nearest(self, row: NDArray[np.float32], count: int) -> list[str]:
        """The images that look most like one with these pooled features, best first."""
        alike = self.looks @ unit_rows(row[None], *self.scale)[0]
        names = list(self.stored.keys)
        return [names[place] for place in np.argsort(-alike, kind="stable")[:count]]

    def shown(self, name: str) -> Shown:
        """An image's features with their points; raises FeaturesError when the file has another size."""
        found = self._held.pop(name, None)
        if found is None:
            features = self.stored.store.needed(KIND, self.stored.keys[name], Features.from_bytes)
            size, (width, height) = features.image_size, size_of(self.images[name].camera)
            if size != (width, height):
                text = f"the file has {size[0]}x{size[1]} pixels, the model's camera {width}x{height}"
                raise FeaturesError(f"{name}: {text}; give the model's own photographs (--images)")
            numbers = points_at(features, self.images[name].points2D)
            rows = np.where(numbers < 0, -1, self.numbers.searchsorted(numbers))
            found = Shown(features, rows, getattr(features.descriptors, "nbytes", 0))
        self._held[name] = found  # those used last are last
        while len(self._held) > 1 and sum(one.bytes for one in self._held.values()) > _HELD:
            del self._held[next(iter(self._held))]
        return found

    def trials(self, path: Path | None, size: tuple[int, int], alike: Sequence[str]) -> list[Trial]:
        """Cameras of an image of ``size``, the last with a free focal length.

        Before it comes that of the images that look alike, have its size, and its make, model and EXIF focal
        length as far as its file tells, if their focal lengths are one; else one by the EXIF focal length.
        """
        own, cameras = camera_tags(path) if path else (), []
        for image in (self.images[name] for name in alike):
            if size_of(image.camera) == size:
                other = camera_tags(self.files.root / image.name)
                if all(a in ("", b) for a, b in zip(own, other, strict=False)):
                    cameras.append(image.camera)
        focals = [camera.mean_focal_length() for camera in cameras if camera.focal_length_idxs()]
        made, middle = list[Trial](), (size[0] / 2, size[1] / 2)
        if focals and max(focals) <= _ALIKE * min(focals):
            made.append(Trial(Camera(cameras[0].model_name, size, tuple(cameras[0].params))))
        elif path and (known := camera_of(path, size)):
            made.append(Trial(known, refine=True))
        return [*made, Trial(Camera("SIMPLE_PINHOLE", size, (_GUESS * max(size), *middle)), True, True)]


def size_of(camera: Any) -> tuple[int, int]:
    """(width, height) of COLMAP's camera in pixels."""
    return camera.width, camera.height


def points_at(features: Features, points2D: Any) -> NDArray[np.int64]:  # noqa: N803
    """(N,) COLMAP's number of each keypoint's point, by its row or else by its place; -1 for none."""
    import cv2

    places, count = to_colmap(features.keypoints), len(features)
    numbers = np.array([p.point3D_id if p.has_point3D() else -1 for p in points2D], np.int64)
    rows = np.array([p.xy for p in points2D], np.float32).reshape(-1, 2)
    if count <= len(rows) and (np.abs(rows[:count] - places) <= _REACH).all():
        return numbers[:count]
    rows, numbers = rows[numbers >= 0], numbers[numbers >= 0]
    if not count or not len(rows):
        return np.full(count, -1)
    distances, nearest = cv2.batchDistance(places, rows, cv2.CV_32F, normType=cv2.NORM_L2, K=1)
    return np.where(distances[:, 0] <= _REACH, numbers[nearest[:, 0]], -1)


def find_model_images(
    path: Path, images: Path | None, parts: tuple[Detector, Describer], masks: Masks, context: RunContext
) -> tuple[ModelImages, str, dict[str, str]]:
    """A model's images, their features made where the store lacks them; a checksum of all; what was left out.

    Raises GeomatchError without a model or its images, and when its points are not at these keypoints.
    """
    folder, model = find_model(path), read_model(path)
    root = images or photographs_of(path)
    if not root.is_dir():
        raise GeomatchError(f"{root} is no folder: give that of the model's photographs (--images)")
    names = [image.name for image in posed_images(model)]
    files, detector_key = ImageFiles(root.absolute(), masks), [cache_key(part) for part in parts]
    store = context.store_at((run_of(path) or path / "localized") / "store")
    with context.started() as started:
        work = started.work()
        examined = dict(examine(files, names, work, False))
        skipped = {name: one.reason for name, one in examined.items() if isinstance(one, FailedItem)}
        photos = [one for name in names if isinstance(one := examined[name], Photograph)]
        keys = {photo.name: feature_key(photo.sha256, detector_key) for photo in photos}
        skipped |= extract_features(files, photos, keys, parts, store, work)[1]
        photos = [photo for photo in photos if photo.name not in skipped]
        if not photos:
            raise GeomatchError(f"{root}: none of the {len(names)} images of the model can be read there")
        pooled = pool_images(files, photos, dense_twin(parts[1]), store, work)
    stored = StoredFeatures(store, {photo.name: keys[photo.name] for photo in photos})
    known = {photo.name: model.find_image_with_name(photo.name) for photo in photos}
    numbers = np.array(sorted(model.points3D), np.int64)
    xyz = np.array([model.points3D[number].xyz for number in numbers.tolist()]).reshape(-1, 3)
    rows = np.stack([read_row(store, key) for key in pooled])
    scale = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
    made = ModelImages(model, files, stored, known, numbers, xyz, scale, unit_rows(rows, *scale))
    for image in sorted(known.values(), key=lambda one: (-one.num_points3D, one.name))[:3]:
        points = made.shown(image.name).points
        share = (points >= 0).sum() / max(1, min(image.num_points3D, len(points)))
        if share < _LEAST:
            text = f"{share:.0%} of the model's points lie at these keypoints, {_LEAST:.0%} are needed"
            way = "give the detector that it was made with, or run `geomatch triangulate` first"
            raise GeomatchError(f"{image.name}: {text}: {way}")
    content = digest_of([fingerprint_of(sorted(folder.glob("*.???"))), *stored.keys.items()])
    return made, content, skipped
