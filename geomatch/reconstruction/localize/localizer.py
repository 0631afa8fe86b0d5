"""Photographs localized in a model, one by one or many at a time."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import Camera
from geomatch.collection.features import need_of
from geomatch.collection.match import dense_twin
from geomatch.collection.options import EXTRACTION, MATCHING, Extraction, Matching
from geomatch.collection.pair_matches import match_block
from geomatch.collection.retrieval import pooled_row
from geomatch.describers import describe_images, traits_of
from geomatch.devices import find_device
from geomatch.engine import FailedItem, RunContext
from geomatch.engine.context import CONTEXT
from geomatch.engine.task import Need
from geomatch.errors import ImageError, first_line
from geomatch.files import digest_of
from geomatch.images import ImageFile, ImageLike, Reading, load_image
from geomatch.provenance import cache_key, versions
from geomatch.reconstruction.localize.model import find_model_images
from geomatch.reconstruction.localize.pose import estimate_pose
from geomatch.tensors import detect_features

_SCHEMA = 1  # part of every key
NEAREST = 20
FIRST, PLENTY = 5, 200
"""Images matched at first, and the inliers with which a pose needs no more of them."""


@dataclass(frozen=True, eq=False, slots=True)
class Localization:
    """Where an image was taken; false when that is not known."""

    retrieved: tuple[str, ...]
    """The model's images that it was matched with, the most alike first."""
    num_matches: int = 0
    """2D-3D matches."""
    inliers: int = 0
    reason: str = ""
    """Why there is no pose; empty if there is one."""
    cam_from_world: NDArray[np.float64] | None = None
    """(3, 4), COLMAP's: from the model to the camera, x right, y down, z forward; of the file's raw pixels."""
    camera: Camera | None = None
    rotation_deviation: float | None = None
    """Standard deviation in degrees."""
    centre_deviation: float | None = None
    """Standard deviation in the model's units."""
    centre_percent: float | None = None
    """The same in percent of the model's extent."""

    def __bool__(self) -> bool:
        return self.cam_from_world is not None

    @property
    def centre(self) -> NDArray[np.float64] | None:
        """(3,) the centre of projection."""
        pose = self.cam_from_world
        return None if pose is None else -pose[:, :3].T @ pose[:, 3]

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        pose, centre = self.cam_from_world, self.centre
        arrays = {
            "cam_from_world": None if pose is None else pose.tolist(),
            "centre": None if centre is None else centre.tolist(),
        }
        return asdict(replace(self, cam_from_world=None)) | arrays

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From what `to_json` gave."""
        values = {name: content[name] for name in cls.__dataclass_fields__}
        if values["cam_from_world"] is not None:
            camera = values["camera"]
            values["camera"] = Camera(camera["model"], tuple(camera["size"]), tuple(camera["params"]))
            values["cam_from_world"] = np.array(values["cam_from_world"], np.float64).reshape(3, 4)
        return cls(**values | {"retrieved": tuple(values["retrieved"])})


class Localizer:
    """Localizes images in a model, whose features are kept in memory."""

    def __init__(
        self,
        model: Path,
        images: Path | None = None,
        *,
        extraction: Extraction = EXTRACTION,
        matching: Matching = MATCHING,
        nearest: int = NEAREST,
        context: RunContext = CONTEXT,
    ) -> None:
        """Find the features of the model's images, or make them.

        Args:
            model: a folder of `reconstruct`, or of a COLMAP model.
            images: where the model's photographs are; None where a run of `reconstruct` tells.
            extraction, matching: as of `reconstruct`, whose features are found again then.
            nearest: how many images of the model are matched with each query.
            context: engine and store, by default that of the run of `reconstruct`.

        Raises `GeomatchError` when there is no model, when its images cannot be found, and when its points do
        not lie at these keypoints.
        """
        self._parts = extraction.parts(context.device, matching.matcher)
        traits = traits_of(self._parts[1])
        # what agrees with one pose is better asked of all images together than pair by pair
        self._matching = replace(matching.settled(traits, context.device), guided=False)
        self.nearest = nearest
        self.model = find_model_images(model, images, self._parts, extraction.masks, context)
        self.need: Need = need_of(self._parts[1])
        self._device = find_device(context.device)
        parts = [*map(cache_key, (*self._parts, self._matching)), nearest, versions("pycolmap")]
        self.key = digest_of([_SCHEMA, self.model.key, parts])
        """Checksum of all, but the query, that decides a pose."""
        self._reading = Reading(apply_exif=False, masks=extraction.masks)

    def file(self, path: Path, name: str) -> ImageFile:
        """A query's file, without its EXIF orientation: COLMAP reads raw pixels."""
        return self._reading.file(path, name)

    def localize(self, query: ImageLike | ImageFile) -> Localization:
        """Find where an image was taken; raises ImageError when it cannot be read."""
        path = query.path if isinstance(query, ImageFile) else query
        image = query.load() if isinstance(query, ImageFile) else load_image(query, apply_exif=False)
        row = pooled_row(dense_twin(self._parts[1]), image)
        names = self.model.nearest(row, self.nearest)
        features = detect_features(self._parts[0], image).to_features()
        (features,) = describe_images(self._parts[1], [image], [features])
        known = Path(path) if isinstance(path, str | Path) else None
        trials = self.model.trials(known, image.size, names)
        xyz, votes, seen = self.model.xyz, dict[int, Counter[int]](), set[int]()
        result = Localization(tuple(names), reason="the model has no images")
        for some in (names[:FIRST], names[FIRST:]):
            shown = [self.model.shown(name) for name in some]
            pairs = [(0, place) for place in range(1, len(shown) + 1)]
            every = [features, *(one.features for one in shown)]
            for one, matches in zip(
                shown, match_block(every, pairs, self._matching, self._device), strict=True
            ):
                for i, j in matches.indices.tolist():
                    if one.points[j] >= 0:
                        votes.setdefault(i, Counter())[int(one.points[j])] += 1
                seen |= set(one.points.tolist()) - {-1}
            rows = sorted(votes)
            points = np.reshape([xyz[votes[row].most_common(1)[0][0]] for row in rows], (-1, 3))
            around = np.reshape([xyz[number] for number in sorted(seen)], (-1, 3))
            pose = estimate_pose(features.keypoints[rows].astype(np.float64), points, trials, around)
            result = Localization(tuple(names), len(rows), reason=pose.reason) if not pose else Localization(
                tuple(names), len(rows), int(pose.inliers.sum()), "", pose.cam_from_world, pose.camera,
                pose.rotation_deviation, pose.centre_deviation,
                100 * pose.centre_deviation / self.model.extent,
            )  # fmt: skip
            if result.inliers >= PLENTY or len(names) <= FIRST:
                break
        return result


@dataclass(frozen=True, eq=False, slots=True)
class Query:
    """An image to localize."""

    name: str
    path: Path


@dataclass(frozen=True, eq=False)
class QueryTask:
    """Localizes queries, in any process that sees the files."""

    localizer: Localizer
    need: Need

    def start(self) -> Callable[[Sequence[Query]], list[Localization | FailedItem]]:
        """Return the function that localizes a block."""
        return lambda block: [self._localized(query) for query in block]

    def _localized(self, query: Query) -> Localization | FailedItem:
        try:
            return self.localizer.localize(self.localizer.file(query.path, query.name))
        except (ImageError, OSError) as error:
            return FailedItem(first_line(error))
