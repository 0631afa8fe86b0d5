"""A model's images: their features, found as `reconstruct` finds them, with the points that they show."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import Camera, camera_of
from geomatch.collection.features import KIND, StoredFeatures, extract_features, feature_key
from geomatch.collection.folder import ImageFiles, Photograph, examine
from geomatch.collection.match import dense_twin
from geomatch.collection.retrieval import CHUNK, pool_images, read_array, unit_rows
from geomatch.collection.retrieval import KIND as GLOBAL
from geomatch.colmap.conventions import to_colmap
from geomatch.describers import Describer
from geomatch.engine import FailedItem, RunContext
from geomatch.errors import FeaturesError, GeomatchError
from geomatch.files import digest_of, fingerprint_of, read_json
from geomatch.images import Masks, open_image
from geomatch.keypoints import Detector
from geomatch.provenance import cache_key
from geomatch.reconstruction.localize.pose import Trial
from geomatch.reconstruction.models import find_model, read_model
from geomatch.types import Features

_REACH = 1.5  # pixels between a keypoint and the model's, of which it is one
_LEAST = 0.3  # share of an image's points that must lie at keypoints; strangers' do by chance at a tenth
_HELD = 2**30  # bytes of features in memory
_ALIKE = 0.03  # focal lengths that differ by less are of one camera
_GUESS = 1.2  # COLMAP's focal length without any other, in long sides
_MAKE, _MODEL = 0x010F, 0x0110


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """Features of an image of the model."""

    features: Features
    points: NDArray[np.int64]
    """(N,) the model's number of the point at each keypoint, -1 for none."""


@dataclass(frozen=True, eq=False)
class ModelImages:
    """The images of a model that have a pose and a file; of what is read some is kept in memory."""

    folder: Path
    """Of the model itself."""
    files: ImageFiles
    stored: StoredFeatures
    pooled: tuple[str, ...]
    """Keys of the pooled features of each image."""
    key: str
    """Checksum of all that decides what is found in them."""
    skipped: dict[str, str]
    """Images that were left out, and why."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def model(self) -> Any:
        """The ``pycolmap.Reconstruction``."""
        return read_model(self.folder)

    @cached_property
    def images(self) -> dict[str, Any]:
        """Those of the model, by name."""
        return {image.name: image for image in self.model.images.values() if image.name in self.stored.keys}

    @cached_property
    def xyz(self) -> dict[int, NDArray[np.float64]]:
        """(3,) of each point, by number."""
        return {number: point.xyz for number, point in self.model.points3D.items()}

    @cached_property
    def extent(self) -> float:
        """Diagonal of the box about all cameras and nine tenths of the points, in the model's units."""
        points = np.quantile(np.reshape([*self.xyz.values()], (-1, 3)), (0.05, 0.95), axis=0)
        both = np.vstack([points, [image.projection_center() for image in self.images.values()]])
        return float(np.linalg.norm(np.ptp(both, axis=0)))

    @cached_property
    def _rows(self) -> tuple[Any, Any, NDArray[np.float32]]:
        rows = np.stack([read_array(self.stored.store, GLOBAL, key, "row") for key in self.pooled])
        parts = [rows[start : start + CHUNK].astype(np.float64) for start in range(0, len(rows), CHUNK)]
        mean = sum(part.sum(axis=0) for part in parts) / len(rows)
        squares = sum(((part - mean) ** 2).sum(axis=0) for part in parts) / len(rows)
        return mean, squares**0.5, unit_rows(rows, mean, squares**0.5)

    @cached_property
    def _held(self) -> dict[str, Shown]:
        return {}

    def nearest(self, row: NDArray[np.float32], count: int) -> list[str]:
        """The images that look most like one with these pooled features, best first."""
        mean, deviation, rows = self._rows
        order = np.argsort(-(rows @ unit_rows(row[None], mean, deviation)[0]), kind="stable")
        names = list(self.stored.keys)
        return [names[place] for place in order[:count]]

    def shown(self, name: str) -> Shown:
        """An image's features with their points; raises FeaturesError for a file that is not the model's."""
        found = self._held.pop(name, None)
        if found is None:
            features = self.stored.store.needed(KIND, self.stored.keys[name], Features.from_bytes)
            image = self.images[name]
            if features.image_size != (size := (image.camera.width, image.camera.height)):
                text = "the file has {}x{} pixels, the model's camera {}x{}"
                raise FeaturesError(f"{name}: {text.format(*features.image_size, *size)}; give its images")
            found = Shown(features, points_at(features, image.points2D))
        self._held[name] = found  # the last are those used last
        sizes = [
            sum(a.nbytes for a in (s.features.descriptors, s.points) if a is not None)
            for s in self._held.values()
        ]
        for old, _ in zip(
            list(self._held), range(np.cumsum(sizes[::-1]).searchsorted(_HELD), len(sizes)), strict=False
        ):
            del self._held[old]
        return found

    def trials(self, path: Path | None, size: tuple[int, int], alike: Sequence[str]) -> list[Trial]:
        """Cameras of an image of ``size``, the last with any focal length.

        Known is that of the images of the model that look alike, have that size and, as far as the file tells, its
        make, model and EXIF focal length, if their focal lengths are one; next best is the EXIF focal length.
        """
        own = _tags(path, size) if path else (None, None, None)
        cameras = []
        for image in map(self.images.get, alike):
            if image is not None and (image.camera.width, image.camera.height) == size:
                other = _tags(self.files.root / image.name, size)
                if all(a is None or a == b for a, b in zip(own, other, strict=True)):
                    cameras.append(image.camera)
        focals = [camera.mean_focal_length() for camera in cameras if camera.focal_length_idxs()]
        made = []
        if focals and max(focals) <= (1 + _ALIKE) * min(focals):
            made.append(Trial(Camera(cameras[0].model_name, size, tuple(cameras[0].params))))
        elif own[2]:
            made.append(
                Trial(Camera("SIMPLE_PINHOLE", size, (own[2], size[0] / 2, size[1] / 2)), refine=True)
            )
        guess = Camera("SIMPLE_PINHOLE", size, (_GUESS * max(size), size[0] / 2, size[1] / 2))
        return [*made, Trial(guess, estimate=True, refine=True)]


def points_at(features: Features, points2D: Any) -> NDArray[np.int64]:  # noqa: N803
    """(N,) the point at each keypoint, -1 for none: its row's where the model has these keypoints, else the
    nearest's."""
    import cv2

    places = to_colmap(features.keypoints)
    numbers = np.array([p.point3D_id if p.has_point3D() else -1 for p in points2D], np.int64)
    rows = np.array([p.xy for p in points2D], np.float32).reshape(-1, 2)
    count = len(places)
    if count <= len(rows) and (np.abs(rows[:count] - places) <= 0.01).all():
        return numbers[:count]
    rows, numbers = rows[numbers >= 0], numbers[numbers >= 0]
    if not count or not len(rows):
        return np.full(count, -1)
    distances, nearest = cv2.batchDistance(places, rows, cv2.CV_32F, None, cv2.NORM_L2, None, 1)
    return np.where(distances[:, 0] <= _REACH, numbers[nearest[:, 0]], -1)


def find_model_images(
    path: Path, images: Path | None, parts: tuple[Detector, Describer], masks: Masks, context: RunContext
) -> ModelImages:
    """Find, or make, the features of a model's images, of a run of `reconstruct` in its store.

    Raises GeomatchError when there is no model, when nothing says where its images are, when none can be
    read, and when its points are not at these keypoints.
    """
    folder, model = find_model(path), read_model(path)
    run = next((place for place in (path, folder.parent.parent) if _is_run(place)), None)
    told = run and read_json(run / "summary.json", "summary").get("images_folder")
    root = images or (Path(told) if told else None)
    if root is None or not root.is_dir():
        what = f"{root} is no folder" if root else f"{path} does not say where its images are"
        raise GeomatchError(f"{what}: give the folder of the model's photographs (--images)")
    names = sorted(str(image.name) for image in model.images.values() if image.has_pose)
    files, detector_key = ImageFiles(root.absolute(), masks), [cache_key(part) for part in parts]
    photos: list[Photograph] = []
    skipped: dict[str, str] = {}
    with context.started() as started:
        store = context.store_at(run / "store" if run else path / "localized" / "store")
        work = started.work()
        for name, found in examine(files, names, work, False):
            if isinstance(found, FailedItem):
                skipped[name] = found.reason
            else:
                photos.append(found)
        photos.sort(key=lambda photo: photo.name)
        keys = {photo.name: feature_key(photo.sha256, detector_key) for photo in photos}
        _, failed = extract_features(files, photos, keys, parts, store, work)
        skipped |= failed
        photos = [photo for photo in photos if photo.name not in failed]
        if not photos:
            raise GeomatchError(f"{root}: none of the {len(names)} images of the model can be read there")
        pooled = pool_images(files, photos, dense_twin(parts[1]), store, work)
    stored = StoredFeatures(store, {photo.name: keys[photo.name] for photo in photos})
    content = [fingerprint_of(sorted(folder.glob("*.???"))), *stored.keys.items()]
    made = ModelImages(folder, files, stored, pooled, digest_of(content), skipped)
    most = sorted(made.images.values(), key=lambda image: (-image.num_points3D, image.name))[:3]
    for image in most:
        shown = made.shown(image.name)
        share = (shown.points >= 0).sum() / max(1, min(image.num_points3D, len(shown.points)))
        if share < _LEAST:
            raise GeomatchError(
                f"{image.name}: {share:.0%} of the model's points lie at these keypoints, {_LEAST:.0%} are "
                "needed: give the detector that it was made with, or run `geomatch triangulate` first"
            )
    return made


def _is_run(place: Path) -> bool:
    with suppress(GeomatchError):
        return read_json(place / "summary.json", "summary").get("program") == "geomatch reconstruct"
    return False


def _tags(path: Path, size: tuple[int, int]) -> tuple[str | None, str | None, float | None]:
    """Make, model and focal length in pixels of a file's EXIF data, None where it has none."""
    make = model = None
    with suppress(Exception), open_image(path) as picture:  # damaged tags are as good as none
        make, model = (picture.getexif().get(tag) for tag in (_MAKE, _MODEL))
    camera = camera_of(path, size)
    return make, model, camera.params[0] if camera else None
