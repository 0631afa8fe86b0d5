"""Running COLMAP's mappers."""

import shutil
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geomatch.cameras import pycolmap
from geomatch.colmap.library import database, interruptible
from geomatch.colmap.verification import Verification
from geomatch.errors import GeomatchError, first_line
from geomatch.files import new_folder
from geomatch.progress import progress_bar
from geomatch.reconstruction.known_poses import in_database, restore_frame
from geomatch.reconstruction.models import merit
from geomatch.reconstruction.refine_tracks import refine_tracks

Mapper = Literal["incremental", "global", "triangulation"]
_MIN_MODEL_SIZE = 3
"""Fewest images of a further model beside the largest; COLMAP's 10 would hide parts of small collections."""
_STARTS: tuple[dict[str, float], ...] = (
    {},
    {"init_max_forward_motion": 1.0, "init_min_tri_angle": 4.0, "init_min_num_inliers": 50},
    {"init_max_forward_motion": 1.0, "init_min_tri_angle": 2.0, "init_min_num_inliers": 50},
)
"""Demands on the incremental mapper's first pair: COLMAP's defaults, then less (walks forward along a street
have no better), as long as no model holds half of the images."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """How a model is made from matches; ValueError for a verification that mappers cannot use."""

    mapper: Mapper = "incremental"
    """COLMAP's; ``global`` does not use planar pairs, ``triangulation`` makes points from known poses."""
    verification: Verification = "colmap"
    """What estimates the two-view geometry of each pair: COLMAP, or our `estimate_two_view`."""
    seed: int = 0
    """Random seed of COLMAP's RANSAC and mapper."""
    start: Path | None = None
    """Model to begin with: its cameras, image ids and poses, for `known_poses.read_poses`."""
    fix_poses: bool = False
    """Keep the poses and cameras of ``start``; else they are refined with the rest, and the frame is kept."""
    fix_intrinsics: bool = False
    """Keep all cameras as they are given."""
    positions: bool = False
    """Hold cameras near the database's pose priors, which come from EXIF: the model is in metres."""
    refine: bool = True
    """Align observations with the images to sub-pixel accuracy afterwards, see `refine_tracks`."""
    rigs: Path | None = None
    """COLMAP's rig configuration: images of one frame of a rig keep their places to each other."""

    def __post_init__(self) -> None:
        if self.verification == "none":
            raise ValueError("mappers use verified pairs only: verification must be 'colmap' or 'geomatch'")
        if self.mapper == "triangulation" and self.start is None:
            raise ValueError("triangulation needs a model with poses to start from")
        if self.mapper == "global" and self.start is not None:
            raise ValueError("global mapping starts from nothing: the incremental mapper extends a model")
        if self.positions and self.mapper != "incremental":
            raise ValueError(f"{self.mapper} mapping uses no positions: the incremental mapper does")
        if self.positions and self.start is not None:
            raise ValueError("a model that is extended keeps its own frame: leave out the positions (--gps)")


MAPPING = Mapping()


def map_database(
    path: Path, images: Path, out: Path, mapping: Mapping = MAPPING, known: Any = None, progress: bool = False
) -> list[Any]:
    """Run COLMAP's mapper and write ``out/0`` and on, in place of what is there; return the models.

    They are ``pycolmap.Reconstruction`` objects, that with most images first. ``known`` is the model of
    ``mapping.start`` (`read_poses`); what it becomes comes first.

    Raises GeomatchError when COLMAP fails, or positions are asked for and the database has none; and what
    `in_database` and `refine_tracks` do.
    """
    if out.exists():
        shutil.rmtree(out)
    best: list[Any] = []
    fixing = mapping.fix_poses or mapping.mapper == "triangulation"
    if known is not None:
        known = in_database(path, known, fixing)
    with database(str(path)) as opened:
        images_given, priors = opened.num_images(), _positions(opened) if mapping.positions else []
    if mapping.positions and not priors:
        raise GeomatchError(f"{images}: no image has a position; leave out the positions (--gps)")
    fresh = mapping.mapper == "incremental" and known is None
    with new_folder(out) as temporary:
        with progress_bar(None, "mapping", "image", images_given, progress) as bar:
            for start in _STARTS if fresh else _STARTS[:1]:
                bar.reset()
                with tempfile.TemporaryDirectory(dir=temporary.parent) as work:
                    found = _run_mapper((path, images, Path(work)), mapping, start, known, bar)
                models = sorted((model for model in found if min(merit(model)) > 0), key=merit, reverse=True)
                if models and (not best or merit(models[0]) > merit(best[0])):
                    best = models
                if best and best[0].num_reg_images() >= images_given / 2:
                    break
        fixed = known if fixing else None
        for model in best if mapping.refine else ():
            refine_tracks(
                model, images, known=fixed, fixed_intrinsics=mapping.fix_intrinsics, priors=priors,
                progress=progress,
            )  # fmt: skip
            if known is not None and fixed is None:
                restore_frame(model, known)
        for number, model in enumerate(best):
            folder = temporary / str(number)
            folder.mkdir()
            model.write(str(folder))
    return best


def _positions(opened: Any) -> list[Any]:
    """The database's pose priors with a position, as the mapper takes them: degrees become metres."""
    options = pycolmap().DatabaseCacheOptions()
    options.convert_pose_priors_to_enu = True
    options.min_num_matches = pycolmap().IncrementalPipelineOptions().min_num_matches
    priors = pycolmap().DatabaseCache.create(opened, options).pose_priors
    return [prior for prior in priors if prior.has_position()]


def _run_mapper(
    paths: tuple[Path, Path, Path], mapping: Mapping, start: dict[str, float], known: Any, bar: Any
) -> list[Any]:
    library = pycolmap()
    library.set_random_seed(mapping.seed)
    texts = [str(path) for path in paths]
    try:
        if mapping.mapper == "global":
            settings = library.GlobalPipelineOptions()
            settings.random_seed = mapping.seed
            if mapping.fix_intrinsics:
                adjustment = settings.mapper.bundle_adjustment
                adjustment.refine_focal_length = adjustment.refine_extra_params = False
            return list(library.global_mapping(*texts, settings).values())
        options = _options(mapping, start)
        if known is None:
            return _incremental(texts, options, bar)
        model = interruptible(  # poses and cameras stay as they are
            lambda token: library.triangulate_points(
                deepcopy(known), *texts, clear_points=True, options=options, cancellation_token=token
            )
        )
        bar.update(model.num_reg_images())
        if mapping.mapper == "triangulation":
            return [model]
        begun = paths[2] / "begun"
        begun.mkdir()
        model.write(str(begun))
        options.multiple_models = False
        if mapping.fix_poses:
            options.fix_existing_frames, options.constant_rigs = True, set(known.rigs)
            options.constant_cameras = {image.camera_id for image in known.images.values()}
        found = _incremental(texts, options, bar, begun) or [model]
        if not mapping.fix_poses:
            restore_frame(found[0], known)
        return found
    except (RuntimeError, ValueError) as error:
        raise GeomatchError(f"COLMAP's {mapping.mapper} mapper failed: {first_line(error)}") from error


def _options(mapping: Mapping, start: dict[str, float]) -> Any:
    options = pycolmap().IncrementalPipelineOptions()
    options.min_model_size, options.random_seed = _MIN_MODEL_SIZE, mapping.seed
    options.num_threads = 1  # with more, one database gives models of 7 images or of 10 (measured)
    options.mapper.random_seed = options.triangulation.random_seed = mapping.seed
    for name, value in start.items():
        setattr(options.mapper, name, value)
    if mapping.fix_intrinsics:
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
    options.use_prior_position = options.use_robust_loss_on_prior_position = mapping.positions
    return options


def _incremental(paths: Sequence[str], options: Any, bar: Any, begun: Path | str = "") -> list[Any]:
    def registered(count: int) -> None:  # several models may share images
        bar.update(min(count, bar.total - bar.n))

    found = interruptible(
        lambda token: pycolmap().incremental_mapping(
            *paths,
            options,
            str(begun),
            initial_image_pair_callback=lambda: registered(2),
            next_image_callback=lambda: registered(1),
            cancellation_token=token,
        )
    )
    return list(found.values())
