"""The HPatches protocols by name: everything that decides a number, as their authors' code has it."""

from dataclasses import dataclass
from typing import Any, Literal

from geomatch.benchmarks.harness.task import by_name
from geomatch.benchmarks.tasks.pairs.views import Frame

Kind = Literal["homography", "mma", "superpoint"]


@dataclass(frozen=True, slots=True)
class HomographyProtocol:
    """One way to evaluate; pairs are image 1 with images 2 to 6 of each sequence, and count alike.

    Matches are mutual nearest neighbours without a ratio test. A corner error is the mean distance of the
    four corners of image 1 under estimate and truth. A failed estimate is an infinite error, a pair without
    matches has accuracy 0. Keypoints are the best by score.
    """

    name: str
    version: int
    source: str  # the paper or code that defines it
    large: bool
    """True if the eight sequences with images over 1600 x 1200 belong to it (116 in all, else 108)."""
    kind: Kind
    frame: Frame = "original"  # in which features are extracted and errors are measured
    max_keypoints: int = 2000
    max_matches: int | None = None  # best by similarity
    solver: str = ""  # ``METHOD THRESHOLD``, with the solver's published defaults; see `evaluation.solve`
    seeds: int = 1
    """Runs of the estimator, each with the matches in another order; the mean and spread are reported."""
    accuracies: tuple[float, ...] = ()  # thresholds in pixels of the frame
    areas: tuple[float, ...] = ()  # thresholds of the area under the curve
    unique: bool = False  # keypoints at one place are one, as ``np.unique`` orders them
    paper_sampling: bool = False
    """Dense DIFT features are sampled as in the paper's code; see `FeatureMap.sample`."""
    corner_origin: bool = False
    """Coordinates and corners count from the corner of the first pixel: half a pixel is added."""
    headline: str = "accuracy@3"  # the measure by which methods are compared
    relative_to: float | None = None  # errors and threshold are in units of (shorter side of image 2) / this
    precisions: tuple[float, ...] = ()  # thresholds in pixels of the share of matches that are right
    symmetric: bool = False  # distances of matches are the mean of those in image 1 and image 2
    direct: bool = False  # errors of the direct linear transform over all matches, too
    means: tuple[float, ...] = ()  # largest thresholds of `mean_accuracy`
    everywhere: bool = False
    """Errors from image 1 back to 0, and over the part of image 0 that image 1 shows; those of corners only
    where all are before the plane under the truth."""

    def __post_init__(self) -> None:
        if self.everywhere and not self.headline.startswith("visible "):
            raise ValueError(f"{self.name}: the headline must be visible MEASURE, which no pair lacks")


_DIFT: dict[str, Any] = {
    "large": False,
    "kind": "homography",
    "max_keypoints": 1000,
    "unique": True,
    "paper_sampling": True,
    "accuracies": (1, 3, 5),
}
_TANG = "Tang et al., 2023, eval_homography.py"
PROTOCOLS: dict[str, HomographyProtocol] = by_name(
    HomographyProtocol("dift", 1, f"{_TANG} (SD: cosine, LMEDS)", solver="lmeds 3", **_DIFT),
    HomographyProtocol("dift-adm", 1, f"{_TANG} (ADM: L2, RANSAC)", solver="ransac 3", **_DIFT),
    HomographyProtocol("mma", 1, "Dusmanu et al., CVPR 2019, D2-Net's notebook, top 2000", False, "mma",
                       headline="MMA@3"),
    HomographyProtocol("auc480", 1, "Sun et al., CVPR 2021 (LoFTR)", False, "homography", "short480",
                       max_matches=1000, solver="ransac 3", areas=(3, 5, 10), headline="AUC@5"),
    HomographyProtocol("auc480-poselib", 1, "glue-factory, eval/hpatches.py, at 1 px", False,
                       "homography", "short480", 1024, solver="poselib 1", areas=(1, 3, 5),
                       corner_origin=True, headline="AUC@3", precisions=(1, 3), symmetric=True,
                       direct=True),
    HomographyProtocol("superpoint", 1, "DeTone et al., 2018, as in rpautrat/SuperPoint", True,
                       "superpoint", "crop640x480", 1000, solver="ransac 3", accuracies=(1, 3, 5)),
    HomographyProtocol("roma", 1, "DKM/RoMa, hpatches_sequences_homog_benchmark.py; all 580 pairs", True,
                       "homography", max_matches=5000, solver="ransac-roma 3", areas=(3, 5, 10),
                       corner_origin=True, relative_to=480, headline="AUC@5"),
    HomographyProtocol("geomatch", 1, "geomatch", True, "homography", solver="usac_magsac 3", seeds=5,
                       accuracies=(1, 3, 5, 10), areas=(1, 3, 5, 10)),
    HomographyProtocol("sweep", 1, "geomatch, for searches of settings", True, "homography",
                       max_keypoints=1000, solver="usac_magsac 3", accuracies=(1, 3, 5), precisions=(3,)),
)  # fmt: skip
_PAIRS: dict[str, Any] = {"accuracies": (3, 10), "means": (20,), "everywhere": True,
                          "headline": "visible mAA@20"}  # fmt: skip
PAIR_PROTOCOLS: dict[str, HomographyProtocol] = by_name(
    HomographyProtocol("pairs", 1, "geomatch", True, "homography", solver="magsac-evd 3", seeds=5,
                       **_PAIRS),
    HomographyProtocol("evd", 1, "wxbs-benchmark 0.0.4, evaluate_Hs and its example (MAGSAC 0.5 px), but "
                       "images at their own size and failures no identity", True, "homography",
                       max_keypoints=2048, solver="magsac-evd 0.5", **_PAIRS),
)  # fmt: skip
"""Folders of pairs are evaluated under these; see `LAYOUTS` of the module ``sequences``."""
MMA_THRESHOLDS = tuple(range(1, 16))
