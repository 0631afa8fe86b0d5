"""Photographs localized in a model, one after the other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.match import dense_twin
from geomatch.collection.options import EXTRACTION, MATCHING, Extraction, Matching
from geomatch.collection.pair_matches import match_block
from geomatch.collection.retrieval import pooled_row
from geomatch.describers import describe_images, traits_of
from geomatch.devices import find_device
from geomatch.engine import RunContext
from geomatch.engine.context import CONTEXT
from geomatch.files import digest_of
from geomatch.images import ImageFile, ImageLike, Reading, load_image
from geomatch.provenance import cache_key, versions
from geomatch.reconstruction.localization.model import find_model_images
from geomatch.reconstruction.localization.pose import Localization, estimate_pose
from geomatch.tensors import detect_features

_SCHEMA = 1  # part of every key
NEAREST = 20
_FIRST, _PLENTY = 5, 200  # images matched at first, and the inliers of a pose that needs no more of them


class Localizer:
    """Localizes images in a model, whose features it keeps in memory."""

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
            images: the model's photographs; None: where a run of `reconstruct` tells, or ``images`` in it.
            extraction, matching: as of `reconstruct`, whose features are found again then.
            nearest: how many images of the model each query is matched with.
            context: the store is by default that of the run of `reconstruct`, or ``localized/store``.

        Raises GeomatchError when there is no model, when its images cannot be found, and when its points do
        not lie at these keypoints.
        """
        self._parts = extraction.parts(context.device, matching.matcher)
        # matches are not verified pair by pair: the pose verifies those of all images together
        self._matching = replace(matching.settled(traits_of(self._parts[1]), context.device), guided=False)
        self._nearest, self._device = nearest, find_device(context.device)
        self._reading = Reading(apply_exif=False, masks=extraction.masks)
        found = find_model_images(model, images, self._parts, extraction.masks, context)
        self._model, content, self.skipped = found
        parts = [cache_key(part) for part in (*self._parts, self._matching)]
        self.key = digest_of([_SCHEMA, content, parts, nearest, self._device, versions("pycolmap")])
        """Checksum of all that decides a pose but the query."""

    def file(self, path: Path, name: str) -> ImageFile:
        """A query and its mask; without EXIF orientation, since COLMAP reads raw pixels."""
        return self._reading.file(path, name)

    def localize(self, query: ImageLike | ImageFile) -> Localization:
        """Find where an image was taken; raises ImageError when it cannot be read."""
        path = query.path if isinstance(query, ImageFile) else query
        image = query.load() if isinstance(query, ImageFile) else load_image(query, apply_exif=False)
        names = self._model.nearest(pooled_row(dense_twin(self._parts[1]), image), self._nearest)
        detected = detect_features(self._parts[0], image).to_features()
        (features,) = describe_images(self._parts[1], [image], [detected])
        trials = self._model.trials(Path(path) if isinstance(path, str | Path) else None, image.size, names)
        matched = [np.zeros((0, 2), np.int64)]
        for some in (names[:_FIRST], names[_FIRST:]):
            shown = [self._model.shown(name) for name in some]
            every = [features, *(one.features for one in shown)]
            pairs = [(0, place) for place in range(1, len(every))]
            found = match_block(every, pairs, self._matching, self._device)
            for one, matches in zip(shown, found, strict=True):
                i, j = matches.indices.T
                matched.append(np.column_stack([i, one.points[j]]))
            rows, points = _one_point_each(np.concatenate(matched)).T
            pixels, xyz = features.keypoints[rows].astype(np.float64), self._model.xyz
            result = estimate_pose(pixels, xyz[points], trials, self._model.extent)
            if len(names) <= _FIRST or (result and result.inliers >= _PLENTY):
                break
        return replace(result, retrieved=tuple(names))


def _one_point_each(matched: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M, 2) keypoints and points: of several points of a keypoint that which most images say."""
    both, votes = np.unique(matched[matched[:, 1] >= 0], axis=0, return_counts=True)
    both = both[np.lexsort((-votes, both[:, 0]))]
    return both[np.unique(both[:, 0], return_index=True)[1]]
