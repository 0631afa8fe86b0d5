"""The protocols of relative pose by name: everything that decides a number, as their authors' code has it."""

from dataclasses import dataclass
from typing import Any, Literal

from geomatch.benchmarks.harness.task import by_name
from geomatch.benchmarks.tasks.pairs.views import Frame


@dataclass(frozen=True, slots=True)
class PoseProtocol:
    """One way to evaluate; all pairs of all scenes count alike.

    The error of a pair is the larger of the angles of rotation and translation, the latter folded at 90
    degrees, since an essential matrix has no sign. A failure is an infinite error; the 90 or 180 degrees of
    some harnesses change no area up to 20 degrees.
    """

    name: str
    version: int
    source: str  # the paper or code that defines it
    frame: Frame = "original"  # in which features are extracted
    estimator: str = "poselib"  # or a name of `geomatch.estimators.solvers.OPENCV_METHODS`
    threshold: float = 1.0  # pixels of `threshold_frame`, over the mean focal length there
    threshold_frame: Frame = "original"
    focal: Literal["all", "superglue"] = "all"
    """The mean of all four focal lengths, or SuperGlue's: fx of camera 0 and fy of camera 1, each twice."""
    corner_origin: bool | None = None
    """True if half a pixel is added to points; None does what is right for each camera."""
    max_depth: float = 1e9
    """Baselines; inliers farther away do not count. SuperGlue and its heirs mean 1e9, too, but OpenCV takes
    their argument for another, and 50 stays."""
    confidence: float | None = None  # None: 0.99999 for OpenCV, PoseLib's default
    max_iterations: int | None = None  # None: the estimator's default
    min_iterations: int | None = None  # PoseLib's only
    max_keypoints: int = 2048
    max_matches: int | None = None  # best by similarity
    seeds: int = 1  # runs of the estimator, each with the matches in another order
    pooled: bool = False  # True: one area under the errors of all runs, else the mean of the runs' areas
    precision: float = 1e-4
    """Squared symmetric epipolar distance of a right match, in units of the focal length."""
    areas: tuple[float, ...] = (5, 10, 20)  # degrees
    headline: str = "AUC@5"  # the measure by which methods are compared


_RANSAC: dict[str, Any] = {"estimator": "ransac", "max_depth": 50.0}
_ROMA: dict[str, Any] = {**_RANSAC, "threshold": 0.5, "max_keypoints": 5000, "max_matches": 5000,
                         "seeds": 5, "pooled": True}  # fmt: skip
_LOFTR: dict[str, Any] = {**_RANSAC, "threshold": 0.5, "focal": "superglue"}
_GLUE: dict[str, Any] = {"frame": "long1600", "threshold_frame": "long1600", "corner_origin": True}
_SQUEEZED: dict[str, Any] = {"frame": "size640x480", "threshold_frame": "size640x480",
                             "corner_origin": False, "precision": 5e-4}  # fmt: skip
_SUPERGLUE: dict[str, Any] = {**_SQUEEZED, **_RANSAC, "focal": "superglue", "max_keypoints": 1024}
_MATCH_PAIRS = "Sarlin et al., CVPR 2020 (SuperGlue), match_pairs.py"
MEGADEPTH: dict[str, PoseProtocol] = by_name(
    PoseProtocol("megadepth", 1, "geomatch", seeds=5),
    PoseProtocol("megadepth-loftr", 1, "Sun et al., CVPR 2021 (LoFTR)", "long840", corner_origin=True,
                 **_LOFTR),
    PoseProtocol("megadepth-roma", 1, "DKM/RoMa, megadepth_pose_estimation_benchmark.py",
                 threshold_frame="long1200", corner_origin=True, **_ROMA),
    PoseProtocol("megadepth-dad", 1, "DaD, benchmarks/megadepth.py", corner_origin=True,
                 **{**_ROMA, "threshold": 2.0}),
    PoseProtocol("megadepth-gluefactory", 1, "glue-factory, *-official.yaml",
                 threshold=0.5, **_RANSAC, **_GLUE),
    PoseProtocol("megadepth-gluefactory-poselib", 1, "glue-factory, example of the README", threshold=2.0,
                 **_GLUE),
    PoseProtocol("megadepth-xfeat", 1, "Potje et al., CVPR 2024 (XFeat), megadepth1500.py", "long1200",
                 threshold=2.5, corner_origin=False, confidence=0.99999, max_iterations=1000,
                 min_iterations=20, max_keypoints=4096),
)  # fmt: skip
SCANNET: dict[str, PoseProtocol] = by_name(
    PoseProtocol("scannet", 1, "geomatch", seeds=5, precision=5e-4),
    PoseProtocol("scannet-superglue", 1, _MATCH_PAIRS, **_SUPERGLUE),
    PoseProtocol("scannet-loftr", 1, "Sun et al., CVPR 2021 (LoFTR)", **{**_SQUEEZED, **_LOFTR}),
    PoseProtocol("scannet-roma", 1, "DKM/RoMa, scannet_benchmark.py", threshold_frame="short480",
                 corner_origin=False, precision=5e-4, **_ROMA),
)  # fmt: skip
POSE: dict[str, PoseProtocol] = by_name(
    PoseProtocol("pose", 1, "geomatch", seeds=5),
    PoseProtocol("pose-superglue", 1, _MATCH_PAIRS, **_SUPERGLUE),
)
