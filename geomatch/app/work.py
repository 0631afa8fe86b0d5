"""What the page does with photographs, as plain functions that return values."""

import html
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.collection import CollectionOptions
from geomatch.demo import bundled_pair
from geomatch.describers import DenseDescriber, as_dense, create_describer, default_config, traits_of
from geomatch.dift import FeatureMap
from geomatch.dift.maps.transfer import PixelFeatures, check_inside, transfer_points
from geomatch.drawing.result import save_result, summary
from geomatch.drawing.similarity import PICTURE_SIDE, draw_transfer
from geomatch.engine import RunContext
from geomatch.files import sha256_of
from geomatch.geometry import resize_homography, resize_points
from geomatch.images import READING, Image, load_image, reduce_image, write_png
from geomatch.pairs import match_pair
from geomatch.pipeline import Pipeline
from geomatch.reconstruction import Mapping, reconstruct
from geomatch.results import MatchResult
from geomatch.types import HomographyEstimate

Picture = NDArray[np.uint8]
PipelineOf = Callable[[Sequence[str]], Pipeline]
"""Makes a pipeline of options of ``geomatch match``; GeomatchError or ValueError for wrong ones."""
SIDE = 1280
"""Long side of the pictures of the slider."""
MOST_PHOTOGRAPHS = 300
"""Photographs that one reconstruction of the page may have."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """An uploaded file, and the name that it has where it came from."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Job:
    """Two photographs, and the options of ``geomatch match`` with which they are matched."""

    image0: Photograph
    image1: Photograph
    options: tuple[str, ...] = ()

    def command(self) -> str:
        """The command line that does the same, in the folder of the photographs."""
        words = ("geomatch", "match", *map(_known_as, (self.image0, self.image1)), *self.options)
        return shlex.join((*words, "--out=matched"))


@dataclass(frozen=True, eq=False, slots=True)
class Matched:
    """What the page shows of a match."""

    status: str
    """One sentence or two: found or not, and why not."""
    summary: str
    files: tuple[Path, ...]
    matches: Path
    """The picture of the matches."""
    slider: tuple[Picture, Picture] | None
    """Image 0, and image 1 warped onto it; None without a homography."""
    previews: tuple[Picture, Picture]
    """Both images at most `PICTURE_SIDE` pixels long; points of the first can be looked for."""


def match_photographs(job: Job, pipeline_of: PipelineOf, folder: Path) -> Matched:
    """Match two photographs and write the files to ``folder``.

    Raises what `geomatch.match` does.
    """
    photographs = (job.image0, job.image1)
    files = [READING.file(one.path, one.name) for one in photographs]
    result = match_pair(pipeline_of(job.options), files[0], files[1])
    settings = dict(result.settings)
    for number, one in enumerate(photographs):
        settings[f"image{number}"] |= {"name": one.name}
    result = replace(result, settings=settings)
    written = save_result(result, folder)
    slider = None
    if result.homography:
        warped = warp_onto(result)
        written.append(folder / "warped.png")
        write_png(written[-1], warped)
        both = (reduce_image(one, SIDE).pixels for one in (result.image0, Image(warped, "warped")))
        slider = (next(both), next(both))
    previews = (reduce_image(one, PICTURE_SIDE).pixels for one in (result.image0, result.image1))
    return Matched(
        status_of(result), summary(result), tuple(written), folder / "matches.png", slider,
        (next(previews), next(previews)),
    )  # fmt: skip


def status_of(result: MatchResult) -> str:
    """Found or not, in words."""
    found = result.geometry
    if not found:
        return f"Not found: {found.reason}"
    parts = [f"Found: {found.num_inliers} of {len(result.matches)} matches are inliers"]
    if isinstance(found, HomographyEstimate):
        if found.corner_deviations is not None:
            parts.append(f"corners uncertain by up to {max(found.corner_deviations):.2g} px")
        if found.score is not None:
            parts.append(f"score {found.score:.2f}")
    return ". ".join([", ".join(parts), *found.remarks]) + "."


def warp_onto(result: MatchResult) -> Picture:
    """Image 1 in the frame of image 0, (H, W, 3) RGB, black where image 1 ends."""
    one, two = result.image0, result.image1  # of large files reduced, unlike the homography
    whole0, whole1 = result.features0.image_size, result.features1.image_size
    matrix = result.homography.matrix  # type: ignore[union-attr]
    matrix = resize_homography(whole1, two.size) @ matrix @ resize_homography(one.size, whole0)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(two.pixels, matrix, one.size, flags=flags), np.uint8)


def find_point(job: Job, pipeline_of: PipelineOf, point: Sequence[float]) -> tuple[Picture, Picture, str]:
    """Look for a point (x, y) of image 0's preview in image 1.

    Returns image 0 with the point, image 1 under the similarity of its features, and a line of text. The
    features are the descriptor's, if it samples maps of whole images, or else the embedded model's.
    """
    describer = pipeline_of(job.options).parts.describer
    dense = describer and as_dense(describer)
    if dense is None:
        dense = as_dense(create_describer(default_config(patches=False)))
        assert dense is not None
    image0, image1 = (load_image(one.path) for one in (job.image0, job.image1))
    small0, small1 = (reduce_image(one, PICTURE_SIDE) for one in (image0, image1))
    check_inside(np.array([point], np.float64), small0.size, "the picture")
    points = resize_points(np.array([point]), small0.size, image0.size)
    metric = traits_of(dense).metric
    map0, map1 = _dense(dense, job.image0.path), _dense(dense, job.image1.path)
    found = transfer_points(map0, map1, points, metric)
    every = PixelFeatures(map1, metric, small1.size)
    heat = every.similarities(map0.sample_tensor(map0.upload(points), metric))[0].float().cpu().numpy()
    picture = draw_transfer(image0, image1, points, found.points, heat)
    (width, height), right = small0.size, small1.size
    (x0, y0), (x1, y1) = points[0], found.points[0]
    text = f"({x0:.0f}, {y0:.0f}) of image 0 is most similar to ({x1:.0f}, {y1:.0f}) of image 1"
    pictures = picture[:height, :width], picture[: right[1], width : width + right[0]]
    return *pictures, f"{text}: similarity {found.similarity[0]:.3f}"


@lru_cache(maxsize=4)  # two pairs: uploaded files never change, and the second click is at once
def _dense(describer: DenseDescriber, path: Path) -> FeatureMap:
    return describer.dense(load_image(path))


@dataclass(frozen=True, eq=False, slots=True)
class Modelled:
    """What the page shows of a reconstruction."""

    status: str
    view: str = ""
    """HTML of the model."""
    archive: Path | None = None


def reconstruct_photographs(
    photographs: Sequence[Photograph], options: CollectionOptions, mapping: Mapping, folder: Path
) -> Modelled:
    """Reconstruct from photographs, and pack the model in ``folder``.

    Raises what `geomatch.reconstruction.reconstruct` does, ValueError for too many photographs, or several
    of one name.
    """
    if len(photographs) > MOST_PHOTOGRAPHS:
        text = f"{len(photographs)} photographs are more than the {MOST_PHOTOGRAPHS} that the page takes"
        raise ValueError(f"{text}; use: geomatch reconstruct PHOTOGRAPHS model")
    images, out = folder / "photographs", folder / "model"
    images.mkdir()
    for one in photographs:
        if (images / one.name).exists():
            raise ValueError(f"two photographs are called {one.name}: rename one of them")
        (images / one.name).symlink_to(one.path)
    found = reconstruct(images, out, options, mapping=mapping, context=RunContext(folder / "store"))
    if not found:
        return Modelled(f"No model: {found.reason}")
    model = found.models[0]
    status = (
        f"Found: {model.registered} of {found.num_images} photographs, {model.points} points, "
        f"mean reprojection error {model.mean_reprojection_error:.2f} px."
    )
    page = html.escape((out / "model.html").read_text(encoding="utf-8"))
    view = f'<iframe title="The model" sandbox="allow-scripts" srcdoc="{page}"></iframe>'
    return Modelled(status, view, Path(shutil.make_archive(str(folder / "model"), "zip", out)))


def _known_as(photograph: Photograph) -> str:
    """The path in a command line: the bundled pair is found anywhere, other files by their name."""
    pair: Any = bundled_pair()
    for own in (pair.image0, pair.image1):
        if photograph.name == own.name and sha256_of(photograph.path) == sha256_of(own):
            return str(own)
    return f"./{photograph.name}" if photograph.name.startswith("-") else photograph.name
