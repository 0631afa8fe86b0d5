"""Running COLMAP's mappers."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from geomatch.colmap.library import database as database_of
from geomatch.colmap.library import interruptible, pycolmap
from geomatch.colmap.options import Mapper
from geomatch.errors import GeomatchError, first_line
from geomatch.files import new_folder

MIN_MODEL_SIZE = 3
"""Fewest images of a further model beside the largest; COLMAP's 10 would hide parts of small collections."""
STARTS: tuple[dict[str, float], ...] = (
    {},
    {"init_max_forward_motion": 1.0, "init_min_tri_angle": 4.0, "init_min_num_inliers": 50},
    {"init_max_forward_motion": 1.0, "init_min_tri_angle": 2.0, "init_min_num_inliers": 50},
)
"""Demands on the incremental mapper's first pair: COLMAP's defaults, then less (walks forward along a street
have no better), as long as no model holds half of the images."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One connected model."""

    registered: int
    """Images with a pose."""
    points: int
    observations: int
    mean_track_length: float
    """Images per point."""
    mean_reprojection_error: float
    """Pixels."""


def map_database(
    database: Path, images: Path, out: Path, mapper: Mapper, seed: int, progress: bool = False
) -> list[Any]:
    """Run COLMAP's mapper and write ``out/0`` and on, the model with most images first.

    Args:
        database: with verified pairs; only read.
        images: the folder, for the colours of points.
        out: a folder that is replaced.
        mapper: ``incremental``, begun again as `STARTS` says, or ``global``.
        seed: random seed.
        progress: show a bar of the images registered (incremental mapper only).

    Returns:
        ``pycolmap.Reconstruction`` objects; empty when nothing could be registered.

    Raises:
        GeomatchError: when COLMAP gives up with an error.
    """
    if out.exists():
        shutil.rmtree(out)
    best: list[Any] = []
    with database_of(str(database)) as opened:
        images_given = opened.num_images()
    with (
        new_folder(out) as temporary,
        tqdm(total=images_given, desc="mapping", unit="image", disable=None if progress else True) as bar,
    ):
        for start in STARTS if mapper == "incremental" else STARTS[:1]:
            bar.reset()
            with tempfile.TemporaryDirectory(dir=temporary.parent) as work:
                found = _run_mapper(mapper, str(database), str(images), work, start, seed, bar)
            models = [model for model in found if model.num_reg_images() > 0 and model.num_points3D() > 0]
            models.sort(key=_merit, reverse=True)
            if models and (not best or _merit(models[0]) > _merit(best[0])):
                best = models
            if best and best[0].num_reg_images() >= images_given / 2:
                break
        for number, model in enumerate(best):
            folder = temporary / str(number)
            folder.mkdir()
            model.write(str(folder))
    return best


def _merit(model: Any) -> tuple[int, int]:
    return model.num_reg_images(), model.num_points3D()


def _run_mapper(
    mapper: Mapper, database: str, images: str, work: str, start: Mapping[str, float], seed: int, bar: Any
) -> list[Any]:
    library = pycolmap()
    library.set_random_seed(seed)
    try:
        if mapper == "global":
            settings = library.GlobalPipelineOptions()
            settings.random_seed = seed
            return list(library.global_mapping(database, images, work, settings).values())
        options = library.IncrementalPipelineOptions()
        options.min_model_size, options.random_seed = MIN_MODEL_SIZE, seed
        options.num_threads = 1  # with more, one database gives models of 7 images or of 10 (measured)
        options.mapper.random_seed = options.triangulation.random_seed = seed
        for name, value in start.items():
            setattr(options.mapper, name, value)

        def registered(count: int) -> None:  # several models may share images
            bar.update(min(count, bar.total - bar.n))

        found = interruptible(
            lambda token: library.incremental_mapping(
                database,
                images,
                work,
                options,
                initial_image_pair_callback=lambda: registered(2),
                next_image_callback=lambda: registered(1),
                cancellation_token=token,
            )
        )
        return list(found.values())
    except (RuntimeError, ValueError) as error:
        raise GeomatchError(f"COLMAP's {mapper} mapper failed: {first_line(error)}") from error


def summarise_model(model: Any) -> ModelSummary:
    """Count and average over a model."""
    values = [model.compute_mean_track_length(), model.compute_mean_reprojection_error()]
    length, error = (float(np.nan_to_num(value)) for value in values)
    return ModelSummary(
        model.num_reg_images(), model.num_points3D(), model.compute_num_observations(), length, error
    )
