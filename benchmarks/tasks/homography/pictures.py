"""Match pictures of single pairs, from the kept features of a run."""

from geomatch.benchmarks.harness.pictures import SIDE, jpeg_url
from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.methods.matchers import LoFTRMatcher
from geomatch.benchmarks.tasks.homography.evaluation import CORRECT_PX, limited, matched_points
from geomatch.benchmarks.tasks.homography.measures import match_distances
from geomatch.benchmarks.tasks.homography.protocols import Protocol
from geomatch.benchmarks.tasks.homography.sequences import HPatchesSequence
from geomatch.benchmarks.tasks.homography.views import Views
from geomatch.drawing.pairs import RIGHT, WRONG, draw_lines
from geomatch.images import load_image
from geomatch.store import Store

LINES = 60
"""Best matches drawn."""


def picture(
    sequence: HPatchesSequence, number: str, method: str, protocol: Protocol, store: Store, max_keypoints: int
) -> str:
    """A JPEG as a data URL: the best matches of images 1 and ``number``, green within 3 px of the truth.

    Args:
        sequence: of the pair.
        number: 2 to 6.
        method: see `create_method`.
        protocol: whose rules, in the original frame whatever the protocol's.
        store: the run's.
        max_keypoints: of the run.

    Raises:
        GeomatchError: when an image or weights are missing.
    """
    made = create_method(method, max_keypoints)
    path, truth = next((path, truth) for k, path, truth in sequence.targets if k == number)
    views = Views(made, made.feature_identity, store)
    match = None if isinstance(made.source, LoFTRMatcher) else made.match
    pair = limited(protocol, views.pair(sequence.reference, path, truth, "original", False), match)
    points0, points1, _ = matched_points(protocol, pair, match)
    points0, points1 = points0[:LINES], points1[:LINES]
    right = match_distances(points0, points1, truth) <= CORRECT_PX
    groups = [(points0[~right], points1[~right], WRONG), (points0[right], points1[right], RIGHT)]
    drawn = draw_lines(load_image(sequence.reference), load_image(path), groups, SIDE)
    return jpeg_url(drawn)
