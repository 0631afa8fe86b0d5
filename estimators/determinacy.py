"""How well inliers determine a plane model: the uncertainty of the image's corners."""

import numpy as np

from geomatch.estimators.epipolar import residuals_and_gradients
from geomatch.estimators.evidence import Points
from geomatch.estimators.planes import Plane
from geomatch.geometry import warp_points

_PRIOR_NOISE, _PRIOR_WEIGHT = 1 / 6, 2.0
"""Noise as a share of the threshold, and its weight in observations: few exact matches prove little."""
_MAX_REMOVED = 10  # places taken away
_CANDIDATES = 100  # inliers that are asked for their leverage again, of which the first was largest


def corner_deviations(
    plane: Plane, matrix: Points, p0: Points, residuals: Points, weights: Points, corners: Points,
    threshold: float,
) -> tuple[Points, Points, Points | None]:  # fmt: skip
    """Standard deviation in pixels of image 1 of the corners under a plane model fitted to inliers (K, 2).

    From the normal equations of the transfer error, with the noise that the residuals (K, 2) show (Hartley
    and Zisserman, Multiple View Geometry, 5.2). An inlier counts by its weight (K,), since neighbours are
    wrong together. Returns (4,) with all inliers, (4,) without the fifth of them, ten at most, that the fit
    leans on most, ``inf`` where they do not determine it, and the covariance (8, 8) of the matrix.
    """
    into0, into1 = _to_unit(np.vstack([p0, corners])), _to_unit(warp_points(matrix, np.vstack([p0, corners])))
    h = into1 @ matrix @ np.linalg.inv(into0)
    h = h / h[2, 2]
    rows, corner_rows = (_jacobian(h, warp_points(into0, points)) for points in (p0, corners))
    rows, corner_rows = rows / into1[0, 0], corner_rows / into1[0, 0]  # pixels of image 1 again
    tangent = plane.tangent(h)
    if plane.freedom < 8:
        rows, corner_rows = rows @ tangent, corner_rows @ tangent
    squares = (weights[:, None] * residuals**2).sum()
    variance = noise_variance(squares, 2 * weights.sum() - plane.freedom, threshold)
    flat = rows.reshape(-1, plane.freedom)
    normal = (flat * np.repeat(weights, 2)[:, None]).T @ flat
    inverse, full = inverse_of(normal), _deviations(normal, corner_rows, variance)
    if inverse is None:
        return full, full, None
    entries = np.kron(np.linalg.inv(into1), into0.T)[:, :8]  # of the matrix in pixels, by those of h
    last = (np.linalg.inv(into1) @ h @ into0)[2, 2]
    change = (entries[:8] - np.outer(matrix.ravel()[:8], entries[8])) @ tangent / last
    covariance = change @ (inverse * variance) @ change.T
    return full, _deviations(normal - leaned_on(rows, weights, normal), corner_rows, variance), covariance


def determines_lines(matrix: Points, p0: Points, p1: Points, weights: Points, threshold: float) -> bool:
    """True if inliers (K, 2) determine the seven parameters of a fundamental matrix.

    Noise moves matches as depth does: what it adds to the normal equations of Sampson's distances is taken
    away, and so is the part that is leaned on. Points on a line, or a plane, leave nothing.
    """
    scale = 1 / np.abs([p0, p1]).max()
    x0, x1 = (np.column_stack([own * scale, np.ones(len(own))]) for own in (p0, p1))
    f = matrix * np.outer([1, 1, scale], [1, 1, scale])
    values, gradients = residuals_and_gradients(f, x0[:, :2], x1[:, :2])
    squares = gradients.sum(axis=0)
    u, _, vt = np.linalg.svd(f)
    held = [f.ravel(), np.outer(u[:, 2], vt[2]).ravel()]  # its norm and its determinant stay
    free = np.linalg.svd(held)[2][2:].T * np.sqrt(weights / squares)[:, None, None]
    along = [np.broadcast_to(axis, x0.shape) for axis in np.eye(3)[:2]]
    pairs = [(x0, x1), *((unit, x1) for unit in along), *((x0, unit) for unit in along)]
    parts = [np.einsum("mi,mj,mijk->mk", h1, h0, free.reshape(-1, 3, 3, 7)) for h0, h1 in pairs]
    normal, *by_noise = (rows.T @ rows for rows in parts)
    squared = (weights * values**2 / squares).sum() / scale**2
    variance = noise_variance(squared, weights.sum() - 7, threshold)
    normal -= leaned_on(parts[0][:, None], np.ones(len(p0)), normal)
    return inverse_of(normal / scale**2 - variance * sum(by_noise)) is not None


def noise_variance(squares: float, freedom: float, threshold: float) -> float:
    """The variance that a sum of squared residuals shows, and a prior."""
    prior = _PRIOR_WEIGHT * (_PRIOR_NOISE * threshold) ** 2
    return (squares + prior) / (max(0.0, freedom) + _PRIOR_WEIGHT)


def leaned_on(rows: Points, weights: Points, normal: Points) -> Points:
    """The part of the normal matrix (P, P) of the fifth of the places, ten at most, that a fit leans on most.

    ``rows`` (N, k, P) are derivatives of N observations, which count by their weights (N,).
    """
    candidates = np.argsort(_leverage(rows, normal))[::-1][:_CANDIDATES]
    limit = min(_MAX_REMOVED, max(1, int(weights.sum() / 5))) - 1e-9
    rows, weights, removed, part = rows[candidates], weights[candidates], 0.0, np.zeros_like(normal)
    while len(rows) and removed < limit:
        worst = int(_leverage(rows, normal - part).argmax())
        removed += weights[worst]
        part = part + weights[worst] * rows[worst].T @ rows[worst]
        rows, weights = np.delete(rows, worst, 0), np.delete(weights, worst)
    return part


def _to_unit(points: Points) -> Points:
    """The similarity that centres points at the origin, with the farthest at distance one."""
    centre = points.mean(0)
    scale = 1 / max(np.linalg.norm(points - centre, axis=1).max(), 1e-300)
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])


def _jacobian(h: Points, points: Points) -> Points:
    """(N, 2, 8) derivatives of warped points (N, 2) by the first eight entries of the matrix."""
    x, y = points.T
    u, v = warp_points(h, points).T
    depth = h[2, 0] * x + h[2, 1] * y + 1
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = np.array(
        [[x, y, one, zero, zero, zero, -u * x, -u * y], [zero, zero, zero, x, y, one, -v * x, -v * y]]
    )
    return np.moveaxis(rows / depth, 2, 0)


def _leverage(rows: Points, normal: Points) -> Points:
    """(K,) how much each observation decides its own fit."""
    leverage: Points = ((rows @ np.linalg.pinv(normal)) * rows).sum(axis=(1, 2))
    return leverage


def _deviations(normal: Points, corner_rows: Points, variance: float) -> Points:
    inverse = inverse_of(normal)
    if inverse is None:
        return np.full(len(corner_rows), np.inf)
    variances = ((corner_rows @ (inverse * variance)) * corner_rows).sum(axis=(1, 2))
    return np.asarray(np.sqrt(np.maximum(variances, 0)))


def inverse_of(normal: Points) -> Points | None:
    """The inverse of a normal matrix; None where it has none."""
    values, vectors = np.linalg.eigh(normal)
    return None if values[0] <= 1e-12 * values[-1] else np.asarray((vectors / values) @ vectors.T)
