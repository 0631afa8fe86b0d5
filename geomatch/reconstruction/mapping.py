"""Running COLMAP's mappers."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from geomatch.cameras import pycolmap
from geomatch.colmap.library import database, interruptible
from geomatch.colmap.verification import Verification
from geomatch.errors import GeomatchError, first_line
from geomatch.files import new_folder
from geomatch.reconstruction.models import merit

Mapper = Literal["incremental", "global"]
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
    """COLMAP's mapper; ``global`` does not use planar pairs."""
    verification: Verification = "colmap"
    """What estimates the two-view geometry of each pair: COLMAP, or our `estimate_two_view`."""
    seed: int = 0
    """Random seed of COLMAP's RANSAC and mapper."""

    def __post_init__(self) -> None:
        if self.verification == "none":
            raise ValueError("mappers use verified pairs only: verification must be 'colmap' or 'geomatch'")


MAPPING = Mapping()


def map_database(
    path: Path, images: Path, out: Path, mapper: Mapper, seed: int, progress: bool = False
) -> list[Any]:
    """Run COLMAP's mapper and write ``out/0`` and on, in place of what is there; return the models.

    They are ``pycolmap.Reconstruction`` objects, that with most images first.
    """
    if out.exists():
        shutil.rmtree(out)
    best: list[Any] = []
    with database(str(path)) as opened:
        images_given = opened.num_images()
    with (
        new_folder(out) as temporary,
        tqdm(total=images_given, desc="mapping", unit="image", disable=None if progress else True) as bar,
    ):
        for start in _STARTS if mapper == "incremental" else _STARTS[:1]:
            bar.reset()
            with tempfile.TemporaryDirectory(dir=temporary.parent) as work:
                found = _run_mapper(mapper, (str(path), str(images), work), start, seed, bar)
            models = sorted((model for model in found if min(merit(model)) > 0), key=merit, reverse=True)
            if models and (not best or merit(models[0]) > merit(best[0])):
                best = models
            if best and best[0].num_reg_images() >= images_given / 2:
                break
        for number, model in enumerate(best):
            folder = temporary / str(number)
            folder.mkdir()
            model.write(str(folder))
    return best


def _run_mapper(
    mapper: Mapper, paths: tuple[str, str, str], start: dict[str, float], seed: int, bar: Any
) -> list[Any]:
    library = pycolmap()
    library.set_random_seed(seed)
    try:
        if mapper == "global":
            settings = library.GlobalPipelineOptions()
            settings.random_seed = seed
            return list(library.global_mapping(*paths, settings).values())
        options = library.IncrementalPipelineOptions()
        options.min_model_size, options.random_seed = _MIN_MODEL_SIZE, seed
        options.num_threads = 1  # with more, one database gives models of 7 images or of 10 (measured)
        options.mapper.random_seed = options.triangulation.random_seed = seed
        for name, value in start.items():
            setattr(options.mapper, name, value)

        def registered(count: int) -> None:  # several models may share images
            bar.update(min(count, bar.total - bar.n))

        found = interruptible(
            lambda token: library.incremental_mapping(
                *paths,
                options,
                initial_image_pair_callback=lambda: registered(2),
                next_image_callback=lambda: registered(1),
                cancellation_token=token,
            )
        )
        return list(found.values())
    except (RuntimeError, ValueError) as error:
        raise GeomatchError(f"COLMAP's {mapper} mapper failed: {first_line(error)}") from error
