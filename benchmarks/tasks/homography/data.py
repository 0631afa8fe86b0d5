"""Data in HPatches layout from photographs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image as PILImage

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.tasks.homography.sequences import read_hpatches
from geomatch.benchmarks.tasks.pairs.evaluation import PairScene
from geomatch.errors import GeomatchError
from geomatch.files import replacing
from geomatch.images import load_image, reduce_image
from geomatch.progress import progress_bar
from geomatch.synthetic import Motion, change_light, random_homography, render_view

SYNTHETIC_SIDE = 800  # photographs are reduced to this long side
STRONG_LIGHT = 1.6  # `change_light`'s strength in strong ``i_`` sequences
Style = Literal["mild", "strong", "oblique"]
UPRIGHT_VIEWS = (2, 3)  # views of strong ``v_`` sequences that stay upright; the others turn freely


def make_synthetic(
    photos: Sequence[Path], out: Path, seed: int = 0, style: Style = "mild"
) -> DataSet[PairScene]:
    """Two sequences per photograph: ``i_NAME`` by light, ``v_NAME`` by exact homographies.

    The name is the file's, with those of its folders where several have one; sequences of the same names are
    replaced. ``strong`` is stronger light in ``i_``, changed light in ``v_``, too, and in views 4 to 6 any
    rotation and scales from 0.5 to 2; ``oblique`` the same light, and in ``v_`` planes under tilts of 3 to
    5.5. The same seed gives the same pixels.
    """
    strong = style != "mild"
    names = progress_bar(sequence_names(photos), "sequences", "photo")
    for number, (name, path) in enumerate(zip(names, photos, strict=True)):
        image = reduce_image(load_image(path), SYNTHETIC_SIDE)
        for kind in ("i", "v"):
            rng = np.random.default_rng([seed, number, ord(kind)])
            folder = out / f"{kind}_{name}"
            folder.mkdir(parents=True, exist_ok=True)
            _save(folder / "1.png", image.pixels)
            for view in range(2, 7):
                motion: Motion = "rotated" if strong and view not in UPRIGHT_VIEWS else "upright"
                motion = "oblique" if style == "oblique" else motion
                matrix = np.eye(3) if kind == "i" else random_homography(rng, image.size, motion)
                samples = 3 if style == "oblique" and kind == "v" else 1
                pixels = render_view(image.pixels, matrix, image.size, samples)
                if kind == "i" or strong:
                    pixels = change_light(rng, pixels, STRONG_LIGHT if strong and kind == "i" else 1.0)
                _save(folder / f"{view}.png", pixels)
                with replacing(folder / f"H_1_{view}") as temporary:
                    np.savetxt(temporary, matrix)
    return read_hpatches(out)


def sequence_names(photos: Sequence[Path]) -> list[str]:
    """Names after ``i_`` and ``v_``; raises `GeomatchError` for a photograph given twice."""
    names = [path.stem for path in photos]
    for depth in range(2, max((len(path.parts) for path in photos), default=0) + 1):
        counts = Counter(names)
        names = [
            "_".join([*path.parts[-depth:-1], path.stem]) if counts[name] > 1 else name
            for name, path in zip(names, photos, strict=True)
        ]
    if len(set(names)) < len(names):
        raise GeomatchError("a photograph is given twice: sequences are named after them")
    return names


def _save(path: Path, pixels: np.ndarray) -> None:
    with replacing(path) as temporary:
        PILImage.fromarray(pixels).save(temporary)
