"""What is reconstructed with: any sparse method, COLMAP's own SIFT, or the h5 files of another program."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from geomatch.benchmarks.harness.task import Settings
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.tasks.sfm.data import Scene
from geomatch.cameras import pycolmap
from geomatch.collection import CollectionOptions, Extraction, Matching, PairSelection
from geomatch.colmap import read_correspondences
from geomatch.colmap.cameras import Cameras, image_sizes, import_images
from geomatch.colmap.library import database
from geomatch.errors import FeaturesError
from geomatch.reconstruction.run import Source

DEFAULT = "sift-large+dift-tiny"
"""What `geomatch reconstruct` does; ``geomatch`` for short."""
_EVERY = PairSelection(("exhaustive",))  # as COLMAP's SIFT, however many images there are


@dataclass(frozen=True)
class ColmapSift:
    """COLMAP's SIFT with its exhaustive matching, by pycolmap on the processor."""

    max_keypoints: int

    def source(self, scene: Scene, cameras: Cameras, seed: int, work: Path) -> Path:
        """A database with keypoints, matches and two-view geometries."""
        library, path, threads = pycolmap(), work / "colmap.db", torch.get_num_threads()
        import_images(path, scene.images, image_sizes(scene.images, scene.names, cameras)[0], cameras)
        extraction = library.FeatureExtractionOptions(use_gpu=False, num_threads=threads)
        extraction.sift.max_num_features = self.max_keypoints
        matching = library.FeatureMatchingOptions(use_gpu=False, num_threads=threads)
        geometry = library.TwoViewGeometryOptions()
        geometry.ransac.random_seed = seed
        names = list(scene.names)
        places = str(path), str(scene.images)
        library.extract_features(*places, image_names=names, extraction_options=extraction)
        self._limit(path)
        library.match_exhaustive(str(path), matching_options=matching, verification_options=geometry)
        return path

    def _limit(self, path: Path) -> None:
        """Keep the largest keypoints: COLMAP adds all of the last level, in all orientations."""
        with database(str(path)) as opened:
            rows = {one.image_id: opened.read_descriptors(one.image_id) for one in opened.read_all_images()}
            opened.clear_descriptors()
            for image, own in rows.items():
                keypoints = opened.read_keypoints(image)  # x, y, and a 2 x 2 matrix
                largest = np.argsort(-np.hypot(keypoints[:, 2], keypoints[:, 4]), kind="stable")
                kept = np.sort(largest[: self.max_keypoints])
                own.data = own.data[kept]
                opened.update_keypoints(image, keypoints[kept])
                opened.write_descriptors(image, own)


@dataclass(frozen=True)
class PeerFiles:
    """Features and matches of one scene by another program, as hloc or deep-image-matching write them."""

    features: Path
    matches: Path
    max_keypoints: int

    def source(self, scene: Scene, cameras: Cameras, seed: int, work: Path) -> Source:
        """Those of the scene's images; FeaturesError for none, or for more keypoints than are allowed."""
        found = read_correspondences(Path(), scene.images, self.features, self.matches)
        counts = [len(found.features[name]) for name in found.features if name in scene.names]
        if not counts:
            raise FeaturesError(f"{self.features}: no image of {scene.name}; expected {scene.names[0]!r}")
        if max(counts) > self.max_keypoints:
            text = f"{max(counts)} keypoints of an image, more than {self.max_keypoints}"
            raise FeaturesError(f"{self.features}: {text}; give all methods so many (--max-keypoints)")
        return found


def create_sfm_method(text: str, settings: Settings, device: str) -> Method:
    """``colmap-sift``, ``h5:FEATURES:MATCHES``, ``geomatch``, or a string of `create_method`."""
    own: ColmapSift | PeerFiles | None = None
    kind, *paths = text.split(":")
    if text == "colmap-sift":
        own = ColmapSift(settings.max_keypoints)
    elif kind == "h5" and len(paths) == 2:
        own = PeerFiles(Path(paths[0]).absolute(), Path(paths[1]).absolute(), settings.max_keypoints)
    if own:
        return Method(text, pair_matcher=cast(Any, own))
    return create_method(DEFAULT if text == "geomatch" else text, settings.max_keypoints, device)


def undefined(method: Method) -> str | None:
    """Why a method makes no models; None if it does."""
    if method.estimator:
        return "estimators have no part in models"
    if isinstance(method.pair_matcher, ColmapSift | PeerFiles) or hasattr(method.source, "detect"):
        return None
    return "models need keypoints that each image has of its own"


def source_of(method: Method, scene: Scene, cameras: Cameras, seed: int, work: Path) -> Source:
    """What `reconstruct` maps."""
    if isinstance(method.pair_matcher, ColmapSift | PeerFiles):
        return method.pair_matcher.source(scene, cameras, seed, work)
    extraction = Extraction(cast(Any, method.source), method.descriptor or "own")
    matching = Matching(method.matcher, None if method.matcher else method.metric, None, method.max_ratio)
    return CollectionOptions(extraction, _EVERY, matching)
