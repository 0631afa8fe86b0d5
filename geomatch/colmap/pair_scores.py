"""How well one plane registers each pair of a database: the score of `geomatch.match` for all of them."""

from collections.abc import Iterator
from pathlib import Path

from geomatch.colmap import sqlite
from geomatch.colmap.conventions import CONFIGURATIONS, PAIR_BASE
from geomatch.errors import FeaturesError
from geomatch.estimators import create_estimator
from geomatch.estimators.two_view import THRESHOLD

COLUMNS = ("image0", "image1", "matches", "configuration", "verified", "plane_inliers", "score", "reason")


def pair_scores(path: Path) -> Iterator[tuple[str, str, int, str, int, int, float, str]]:
    """Rows of `COLUMNS`, pair by pair, whoever wrote the database; nothing is changed.

    ``verified`` counts the inliers of the pair's two-view geometry. The score is the probability that the
    homography registers the images within 1 % of the diagonal: high for walls, maps and cameras that turned,
    low for scenes with depth, 0 without a homography. Raises `GeomatchError` for what is no such database, or
    has matches of keypoints that are not there.
    """
    found = sqlite.read(path)
    with sqlite.opened(path) as connection:
        names = dict(connection.execute("SELECT image_id, name FROM images"))
        kinds = {}
        if sqlite.columns(connection, "two_view_geometries"):
            query = "SELECT pair_id, config, rows FROM two_view_geometries"
            for pair, kind, rows in connection.execute(query):
                known = CONFIGURATIONS[kind] if 0 <= kind < len(CONFIGURATIONS) else str(kind)
                kinds[tuple(names.get(one) for one in divmod(pair, PAIR_BASE))] = known, rows
    estimator = create_estimator("usac_magsac", THRESHOLD)
    for pair in found.pairs:
        one, two = found.features[pair.name0], found.features[pair.name1]
        if (pair.matches.indices >= (len(one), len(two))).any():
            text = "matches point past the last keypoint; see `geomatch colmap check`"
            raise FeaturesError(f"{path}: {pair.name0} - {pair.name1}: {text}")
        i, j = pair.matches.indices.T
        plane = estimator.estimate(one.keypoints[i], two.keypoints[j], one.image_size)
        score = plane.score or 0.0 if plane else 0.0
        kind, rows = kinds.get((pair.name0, pair.name1), ("", 0))
        reason = "" if plane else plane.reason
        yield pair.name0, pair.name1, len(i), kind, rows, plane.num_inliers, round(score, 4), reason
