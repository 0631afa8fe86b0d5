"""Two images, from file to result."""

import os
from dataclasses import asdict, replace
from pathlib import Path

from geomatch.describers import Describer
from geomatch.dift import DIFTConfig
from geomatch.estimators import Estimator
from geomatch.estimators.models import Model
from geomatch.images import CONVERSION, READING, Conversion, Image, ImageFile, ImageLike, Reading, load_image
from geomatch.keypoints import Detector
from geomatch.large import are_large, relate_large
from geomatch.matchers import Matcher
from geomatch.pipeline import Pipeline, timed
from geomatch.relating import relate
from geomatch.results import MatchResult
from geomatch.types import Metric
from geomatch.views.search import Effort


def match(
    image0: ImageLike,
    image1: ImageLike,
    *,
    detector: str | Detector | None = None,
    descriptor: str | DIFTConfig | Describer | None = None,
    matcher: str | Matcher | None = None,
    estimator: str | Estimator = "usac_magsac",
    model: str | Model = "homography",
    metric: Metric | None = None,
    min_similarity: float | None = None,
    max_ratio: float | None = None,
    max_keypoints: int = 3000,
    threshold: float = 3.0,
    refine_keypoints: bool | None = None,
    refine_homography: bool = True,
    effort: Effort = "normal",
    apply_exif: bool = True,
    conversion: Conversion = CONVERSION,
) -> MatchResult:
    """Register two photographs.

    Args:
        image0: path, RGB array or PIL image; see `geomatch.load_image`, which adds a mask.
        image1: the other image.
        detector, descriptor, matcher, estimator, model, metric, min_similarity, max_ratio: see `Pipeline`.
        max_keypoints, threshold, refine_keypoints, refine_homography, effort: see `Pipeline`.
        apply_exif: turn the images as their EXIF orientation says.
        conversion: how images of more than 8 bits, or more than three bands, become RGB.

    Planes in files of more than 30 million pixels are found in tiles, see `geomatch.large`.

    Returns:
        Everything found; ``result.geometry`` is false when there is none, which is no error; a homography is
        ``result.homography``, too. With features that see more than patches it follows the content, not the
        frame (`geomatch.content`).

    Raises ImageError when an image cannot be read, WeightsError when a model cannot be loaded, ValueError for
    options that make no sense, such as ``refine_keypoints`` for anything but a grid described densely.
    """
    pipeline = Pipeline(
        detector, descriptor, matcher, estimator, model, metric, min_similarity, max_ratio, max_keypoints,
        threshold, refine_keypoints, refine_homography, effort,
    )  # fmt: skip
    reading = Reading(apply_exif, conversion)
    one, two = (
        reading.file(Path(image), os.fspath(image))
        if isinstance(image, str | os.PathLike)
        else load_image(image, apply_exif=apply_exif, conversion=conversion)
        for image in (image0, image1)
    )
    return match_pair(pipeline, one, two, reading)


def match_pair(
    pipeline: Pipeline, image0: ImageFile | Image, image1: ImageFile | Image, reading: Reading = READING
) -> MatchResult:
    """`match` with options that are made already; settings say by which ``reading`` files became images."""
    files = [one for one in (image0, image1) if isinstance(one, ImageFile)]
    if len(files) == 2 and are_large(pipeline, *files):
        result = relate_large(pipeline, files[0], files[1])
    else:
        seconds: dict[str, float] = {}
        with timed(seconds, "read"):
            images = [one.load() if isinstance(one, ImageFile) else one for one in (image0, image1)]
        pipeline.model_of(images)  # what is wrong with it is told before the work
        one, two = pipeline.describe(images, seconds)
        result = relate(pipeline, one, two, seconds)
    told = {"apply_exif": reading.apply_exif, "conversion": asdict(reading.conversion)}
    return replace(result, settings={**result.settings, **told})
