"""What geomatch computes, as small frozen values.

Coordinates are (x, y) in pixels of the original image, x right, y down; the centre of the first pixel is
(0, 0), as in OpenCV. A homography maps image 0 to image 1.
"""

import os
from dataclasses import MISSING, dataclass, fields
from math import inf
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from geomatch.errors import DamagedError, ShapeError, reading
from geomatch.files import pack_arrays, read_archive, unpack_arrays, write_whole
from geomatch.transforms import PLANES, parameter_deviations, plane_parameters

_UNCERTAIN = 5.0  # pixels of a corner, or degrees of a pose, from which on it is remarked
_DOUBTFUL = 0.5  # score below which it is remarked
_AMBIGUOUS = 0.5  # of the inliers: a second solution with so many is remarked
Metric = Literal["cosine", "l2"]
"""How descriptors are compared: by the cosine of the angle between rows, or by their Euclidean distance."""


def check_shape(name: str, array: Any, shape: tuple[int | str, ...]) -> None:
    """Raise `ShapeError` unless ``array`` has ``shape``; letters stand for any length."""
    got = [wanted if isinstance(wanted, str) else n for n, wanted in zip(array.shape, shape, strict=False)]
    if array.ndim != len(shape) or got != list(shape):
        wanted = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ShapeError(f"{name} must have shape ({wanted}), got {tuple(array.shape)}")


def checked(name: str, value: ArrayLike, shape: tuple[int | str, ...], dtype: DTypeLike) -> NDArray[Any]:
    """``value`` as a read-only array of that dtype and shape with only finite numbers; copied if writable."""
    array = np.ascontiguousarray(value, dtype=dtype)
    array = array.copy() if array.flags.writeable else array.view()
    if array.size == 0 and "N" in shape and array.ndim != len(shape):
        array = array.reshape([0 if isinstance(n, str) else n for n in shape])
    check_shape(name, array, shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    array.flags.writeable = False
    return array


class _Record:
    """Equality by content, and files, for the frozen values below; they are not hashable."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def _check(self, dtype: DTypeLike, **shapes: tuple[int | str, ...]) -> None:
        """Make arrays of these fields, see `checked`, but for those that may be None and are."""
        optional = [field.name for field in fields(self) if field.default is None]  # type: ignore[arg-type]
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None or name not in optional:
                array = checked(f"{type(self).__name__}.{name}", value, shape, dtype)
                object.__setattr__(self, name, array)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one ``.npz`` file, whole or not at all."""
        write_whole(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of such a file; equal values give equal bytes."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return pack_arrays(type(self).__name__, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; GeomatchError when the file is missing, damaged or of another kind."""
        return cls.from_bytes(read_archive(path), os.fspath(path))

    @classmethod
    def from_bytes(cls, data: bytes, label: str) -> Self:
        """From what `to_bytes` gave; errors name ``label``."""
        own = fields(cls)  # type: ignore[arg-type]
        needed = [field.name for field in own if field.default is MISSING]
        optional = [field.name for field in own if field.default is not MISSING]
        arrays = unpack_arrays(data, label, cls.__name__, needed, optional)
        values = {name: array if array.ndim else array.item() for name, array in arrays.items()}
        with reading(label, f"file of {cls.__name__}", DamagedError):
            return cls(**values)


@dataclass(frozen=True, eq=False, slots=True)
class Features(_Record):
    """Keypoints of one image and what is known at them."""

    keypoints: NDArray[np.float32]
    """(N, 2) float32, (x, y) in pixels of the original image."""
    scores: NDArray[np.float32]
    """(N,) float32, larger is better; comparable within one image only."""
    image_size: tuple[int, int]
    """(width, height) of the original image in pixels."""
    scales: NDArray[np.float32] | None = None
    """(N,) float32, diameter of the keypoint's neighbourhood in pixels (`cv2.KeyPoint.size`)."""
    orientations: NDArray[np.float32] | None = None
    """(N,) float32, radians from the x axis towards the y axis (clockwise on the screen)."""
    descriptors: NDArray[np.float32] | None = None
    """(N, D) float32, or None before description; rows of unit length unless their maker says so."""

    def __post_init__(self) -> None:
        self._check(np.float32, keypoints=("N", 2))
        n = len(self.keypoints)
        self._check(np.float32, scores=(n,), scales=(n,), orientations=(n,), descriptors=(n, "D"))
        width, height = (int(side) for side in self.image_size)
        if width < 1 or height < 1:
            raise ValueError(f"Features.image_size must be positive, got {(width, height)}")
        object.__setattr__(self, "image_size", (width, height))
        if self.scales is not None and (self.scales <= 0).any():
            raise ValueError("Features.scales must be positive")

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, index: slice | NDArray[Any] | list[int]) -> "Features":
        """Some of the keypoints: a slice, indices or a mask."""
        arrays = (self.scales, self.orientations, self.descriptors)
        optional = (None if array is None else array[index] for array in arrays)
        return Features(self.keypoints[index], self.scores[index], self.image_size, *optional)


@dataclass(frozen=True, eq=False, slots=True)
class Matches(_Record):
    """Index pairs into two `Features`, best first."""

    indices: NDArray[np.int64]
    """(M, 2) int64: row (i, j) says that keypoint i of image 0 matches keypoint j of image 1."""
    similarity: NDArray[np.float32]
    """(M,) float32, larger is better: cosine similarity, or minus the L2 distance; a matcher's confidence; in
    tilted views one minus the ratio of distances."""

    def __post_init__(self) -> None:
        indices = np.asarray(self.indices)
        if indices.size and indices.dtype.kind not in "iu":
            raise ValueError(f"Matches.indices must be integers, got {indices.dtype}")
        self._check(np.int64, indices=("N", 2))
        if (self.indices < 0).any():
            raise ValueError("Matches.indices must not be negative")
        self._check(np.float32, similarity=(len(self),))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: slice | NDArray[Any] | list[int]) -> "Matches":
        """Some of the matches: a slice, indices or a mask."""
        return Matches(self.indices[index], self.similarity[index])


class _Found(_Record):
    """What some of the matches agree with; true in a condition."""

    __slots__ = ()
    inliers: NDArray[np.bool_]
    watermark: NDArray[np.bool_] | None

    def __post_init__(self) -> None:
        self._check(np.bool_, inliers=("N",))
        self._check(np.bool_, watermark=(len(self.inliers),))

    def __bool__(self) -> Literal[True]:
        return True

    @property
    def num_inliers(self) -> int:
        """How many of the matches agree."""
        return int(self.inliers.sum())

    @property
    def uncertain(self) -> bool:
        """True where the inliers leave a corner of image 0 uncertain by over 5 px, or a pose by 5 degrees."""
        return False

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know before using it, in sentences; empty when there is nothing."""
        remarks = self._remarks()
        if self.watermark is not None:
            count = int(self.watermark.sum())
            remarks.append(f"{count} matches that do not move were set aside as a caption or watermark")
        return tuple(remarks)

    def _remarks(self) -> list[str]:
        return []


@dataclass(frozen=True, eq=False, slots=True)
class HomographyEstimate(_Found):
    """A homography that was found; true in a condition."""

    matrix: NDArray[np.float64]
    """(3, 3) float64, maps image-0 pixels to image-1 pixels, ``matrix[2, 2] == 1``."""
    inliers: NDArray[np.bool_]
    """(M,) bool, one per match given."""
    corner_deviations: NDArray[np.float64] | None = None
    """(4,) standard deviation in pixels of image 1 of where the corners of image 0 lie, clockwise from the
    first pixel, as the inliers determine them (of the inliers' bounding box where the image's size was not
    given); None when unknown."""
    second_support: int = 0
    """How many other matches among the inliers agree on one shift of the homography: with about as many it is
    ambiguous, as on a facade moved by one window."""
    watermark: NDArray[np.bool_] | None = None
    """(M,) bool, matches set aside as they rest in a strip, as of a caption; None when there are none."""
    model: str = "homography"
    """The plane model that ``matrix`` is of, one of `geomatch.transforms.PLANES`."""
    covariance: NDArray[np.float64] | None = None
    """(8, 8) of the first eight entries of ``matrix``, row by row, as the inliers determine them."""
    score: float | None = None
    """Probability that the mean error of image 0's corners is below 1 % of the diagonal of the box that they
    have in image 1 (`geomatch.estimators.score`); None when unknown."""
    note: str = ""
    """A remark of the estimator."""

    def __post_init__(self) -> None:
        _Found.__post_init__(self)
        self._check(np.float64, matrix=(3, 3), corner_deviations=(4,), covariance=(8, 8))
        object.__setattr__(self, "second_support", int(self.second_support))
        if self.model not in PLANES:
            raise ValueError(f"HomographyEstimate is of no known model: {self.model!r}")
        if abs(self.matrix[2, 2] - 1) > 1e-9:  # OpenCV 5 gives the number below one
            raise ValueError(f"HomographyEstimate.matrix[2, 2] must be 1, got {self.matrix[2, 2]}")

    @property
    def parameters(self) -> dict[str, float]:
        """Parameters of the model by name, see `geomatch.transforms.plane_parameters`."""
        return plane_parameters(self.model, self.matrix)

    @property
    def parameter_deviations(self) -> dict[str, float]:
        """Standard deviations of the parameters; empty when unknown."""
        known = self.covariance
        return {} if known is None else parameter_deviations(self.model, self.matrix, known)

    @property
    def uncertain(self) -> bool:
        """True where the inliers leave a corner of image 0 uncertain by more than 5 px."""
        return self.corner_deviations is not None and bool(self.corner_deviations.max() > _UNCERTAIN)

    def _remarks(self) -> list[str]:
        remarks = []
        if self.corner_deviations is not None and self.uncertain:
            worst = self.corner_deviations.max()
            remarks.append(f"a corner of image 0 is uncertain by {worst:.0f} px: inliers lie far from it")
        if self.second_support >= _AMBIGUOUS * self.num_inliers:
            remarks.append(
                f"ambiguous: beside {self.num_inliers} inliers, {self.second_support} matches agree on the "
                f"same {self.model} shifted, as where a pattern repeats"
            )
        if self.score is not None and self.score < _DOUBTFUL:
            remarks.append(f"doubtful: it is right with a probability of {self.score:.0%}")
        return remarks + [self.note] * bool(self.note)


@dataclass(frozen=True, eq=False, slots=True)
class TwoViewGeometry(_Found):
    """How two views of a scene are related; true in a condition."""

    config: Literal["uncalibrated", "calibrated", "planar"]
    """COLMAP's word for which matrix it is: fundamental, essential, or a homography."""
    matrix: NDArray[np.float64]
    """(3, 3) float64. Fundamental: x1' F x0 = 0 for homogeneous pixels. Essential: the same for rays,
    that is pixels after the inverse camera matrices. Homography: from image 0 to image 1."""
    inliers: NDArray[np.bool_]
    """(M,) bool, one per match given."""
    watermark: NDArray[np.bool_] | None = None
    """(M,) bool, matches set aside as in `HomographyEstimate`."""

    def __post_init__(self) -> None:
        _Found.__post_init__(self)
        self._check(np.float64, matrix=(3, 3))


@dataclass(frozen=True, eq=False, slots=True)
class RelativePose(_Found):
    """Pose of camera 1: X of camera 0 is R X + t there; x right, y down, z forward. True in a condition."""

    rotation: NDArray[np.float64]
    """(3, 3) float64, R."""
    inliers: NDArray[np.bool_]
    """(M,) bool, one per match given."""
    rotation_deviation: float
    """Standard deviation of the rotation's angle in degrees, as the inliers determine it."""
    translation: NDArray[np.float64] | None = None
    """(3,) float64, t, of length one, as only its direction counts; None where it is not determined."""
    translation_deviation: float = inf
    """Standard deviation of its direction in degrees; infinite without one."""
    second: NDArray[np.float64] | None = None
    """(3, 4) float64, [R | t] of another pose that noise cannot tell from this one, as on a plane."""
    second_support: int = 0
    """How many matches agree with ``second``."""
    watermark: NDArray[np.bool_] | None = None
    """(M,) bool, matches set aside as in `HomographyEstimate`."""

    def __post_init__(self) -> None:
        _Found.__post_init__(self)
        self._check(np.float64, rotation=(3, 3), translation=(3,), second=(3, 4))
        for name in ("rotation_deviation", "translation_deviation"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "second_support", int(self.second_support))

    @property
    def uncertain(self) -> bool:
        """True where the inliers leave rotation or translation uncertain by more than 5 degrees."""
        moved = 0 if self.translation is None else self.translation_deviation
        return max(self.rotation_deviation, moved) > _UNCERTAIN

    def _remarks(self) -> list[str]:
        remarks = []
        if self.translation is None:
            remarks.append("too little parallax: the camera turned, and where it went is not determined")
        elif self.uncertain:
            worst = max(self.rotation_deviation, self.translation_deviation)
            remarks.append(f"the pose is uncertain by {worst:.0f} degrees")
        if self.second is not None:
            remarks.append(
                f"ambiguous: beside {self.num_inliers} inliers, {self.second_support} matches agree with a "
                "second pose, as on a plane; both are given"
            )
        return remarks


@dataclass(frozen=True, eq=False, slots=True)
class EstimationFailure(_Record):
    """No homography, geometry or pose; false in a condition, so that ``if estimate:`` reads right."""

    reason: str
    """Why, in words for the user."""
    watermark: bool = False
    """Matches agree, but they do not move and lie in a strip: a caption or watermark, COLMAP's WATERMARK."""
    planar: bool = False
    """A homography explains the matches: no epipolar geometry is determined, whatever else is matched."""

    score: ClassVar[float] = 0.0

    def __bool__(self) -> Literal[False]:
        return False

    @property
    def num_inliers(self) -> int:
        """Always 0."""
        return 0


Found = HomographyEstimate | TwoViewGeometry | RelativePose
Geometry = Found | EstimationFailure
"""What relates two images, or why nothing was found."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a pipeline asks of a describer besides descriptors."""

    metric: Metric = "cosine"
    """How its descriptors are compared."""
    dense: bool = False
    """It samples maps of whole images, as a `DenseDescriber`; on accelerators several together."""
    local: bool = False
    """Its descriptors see a patch about the keypoint alone, wherever in the image that lies."""
    large: bool = False
    """Its network wants all cores of a worker, or an accelerator."""
    device: str = "auto"
    """Where it runs, see `geomatch.devices.find_device`."""
    reentrant: bool = False
    """Several threads may call it at a time: the images of a pair are then described side by side."""
    max_ratio: float | None = None
    """Lowe's ratio test in collections when none is asked for."""
