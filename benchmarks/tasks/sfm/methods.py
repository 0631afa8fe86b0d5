"""What is reconstructed with: any sparse method, COLMAP's own SIFT, or the h5 files of another program."""

from dataclasses import dataclass
from pathlib import Path

from geomatch.benchmarks.harness.task import Settings
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.methods.features import FeatureFiles
from geomatch.benchmarks.tasks.sfm.data import Scene
from geomatch.cameras import pycolmap
from geomatch.collection import CollectionOptions, Correspondences, Extraction, Matching
from geomatch.colmap import read_correspondences
from geomatch.colmap.cameras import Cameras, import_images
from geomatch.colmap.library import database
from geomatch.errors import GeomatchError
from geomatch.reconstruction.run import Source

DEFAULT = "sift-large+dift-tiny"
"""What `geomatch reconstruct` does; ``geomatch`` for short."""


@dataclass(frozen=True)
class ColmapSift:
    """COLMAP's SIFT with its exhaustive matching, by pycolmap on the processor."""

    max_keypoints: int

    def source(self, scene: Scene, cameras: Cameras, seed: int, work: Path) -> Path:
        """A database with keypoints, matches and two-view geometries."""
        library, path = pycolmap(), work / "colmap.db"
        with database(str(path)):
            pass
        import_images(path, scene.images, scene.names, cameras)
        extraction = library.FeatureExtractionOptions(use_gpu=False)
        extraction.sift.max_num_features = self.max_keypoints
        matching, geometry = library.FeatureMatchingOptions(use_gpu=False), library.TwoViewGeometryOptions()
        geometry.ransac.random_seed = seed
        library.set_random_seed(seed)
        library.extract_features(
            str(path), str(scene.images), image_names=list(scene.names), extraction_options=extraction
        )
        library.match_exhaustive(str(path), matching_options=matching, verification_options=geometry)
        return path


@dataclass(frozen=True)
class PeerFiles:
    """Features and matches of another program, as hloc or deep-image-matching write them."""

    features: Path
    matches: Path

    def source(self, scene: Scene, cameras: Cameras, seed: int, work: Path) -> Correspondences:
        """Those of the scene's images."""
        found = read_correspondences(Path(), scene.images, self.features, self.matches)
        if not set(found.features) & set(scene.names):
            text = f"{self.features}: no image of {scene.name}; names must be those of the model"
            raise GeomatchError(text)
        return found


def create_sfm_method(text: str, settings: Settings, device: str) -> Method:
    """``colmap-sift``, ``h5:FEATURES:MATCHES``, ``geomatch``, or a string of `create_method`."""
    if text == "colmap-sift":
        return Method(text, pair_matcher=ColmapSift(settings.max_keypoints))  # type: ignore[arg-type]
    kind, *paths = text.split(":")
    if kind == "h5" and len(paths) == 2:
        return Method(text, pair_matcher=PeerFiles(*map(Path, paths)))  # type: ignore[arg-type]
    return create_method(DEFAULT if text == "geomatch" else text, settings.max_keypoints, device)


def source_of(method: Method, scene: Scene, cameras: Cameras, seed: int, work: Path) -> Source:
    """What `reconstruct` maps."""
    if isinstance(method.pair_matcher, ColmapSift | PeerFiles):
        return method.pair_matcher.source(scene, cameras, seed, work)
    if method.pair_matcher or isinstance(method.source, FeatureFiles) or not method.source:
        raise GeomatchError(f"{method.name} has no keypoints of its own for each image, as models need")
    extraction = Extraction(method.source, method.descriptor or "own")
    matching = Matching(method.matcher, method.metric, None, method.max_ratio)
    return CollectionOptions(extraction, matching=matching)
