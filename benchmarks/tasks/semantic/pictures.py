"""Pictures of single pairs, from the kept maps of a run."""

import numpy as np

from geomatch.benchmarks.harness.pictures import SIDE, jpeg_url
from geomatch.benchmarks.harness.suite import Picture, Row, threshold_of
from geomatch.benchmarks.methods.dense import create_dense_method
from geomatch.benchmarks.tasks.semantic.maps import KeptMaps
from geomatch.benchmarks.tasks.semantic.protocols import SemanticProtocol
from geomatch.dift.maps.transfer import transfer_points
from geomatch.drawing.pairs import RIGHT, WRONG, draw_lines
from geomatch.errors import GeomatchError
from geomatch.images import load_image


def draw(dataset: str, protocol: SemanticProtocol, row: Row, wanted: Picture) -> str:
    """A JPEG as a data URL: the points of a pair joined with the places found for them.

    Raises:
        GeomatchError: when the category is another one in the folder, or an image or weights are missing.
    """
    from geomatch.benchmarks.tasks.semantic.harness import prompt_for, read_semantic

    name, _, pair_name = row["pair"].partition(" ")
    found = read_semantic(dataset, wanted.data, wanted.split)
    category = next((category for category in found.units if category.name == name), None)
    if category is None or category.fingerprint != wanted.fingerprints[name]:
        raise GeomatchError(f"{name} is not in the folder given, or is another one there")
    pair = next(pair for pair in category.pairs if pair.name == pair_name)
    method = create_dense_method(wanted.method, wanted.settings["device"])
    maps = KeptMaps(category.folder, method, method.identity, wanted.store)
    prompt = prompt_for(protocol, category)
    map0, map1 = (maps.kept(path, prompt) for path in (pair.image0, pair.image1))
    if map0 is None or map1 is None:
        raise GeomatchError("its maps are not in the folder of the record; give the run's --store")
    width, height = map0.image_size
    points0 = np.clip(pair.points0, 0, [width - 1, height - 1])
    points1 = transfer_points(map0, map1, points0, method.metric, protocol.rule).points
    alpha = threshold_of(protocol.headline)
    right = np.array([error is not None and error <= alpha for error in row["errors"]])
    groups = [(points0[~right], points1[~right], WRONG), (points0[right], points1[right], RIGHT)]
    images = [load_image(category.folder / path) for path in (pair.image0, pair.image1)]
    drawn = draw_lines(images[0], images[1], groups, SIDE)
    return jpeg_url(drawn)
