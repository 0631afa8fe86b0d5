"""Observations of a model moved to sub-pixel accuracy, by comparing the images about them.

A detector places a keypoint in each image alone, to half a pixel or so. A model says how the surroundings of
a point look from each camera: through the plane at the point that faces the cameras. One observation of each
track, seen frontally and at a middling scale, is its reference; its window is found in the track's other
images. Whatever place of the surface the reference shows, the others then show the same.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import pycolmap
from geomatch.colmap.conventions import from_colmap, to_colmap
from geomatch.colmap.library import interruptible
from geomatch.errors import GeomatchError, ImageError, first_line
from geomatch.images import load_image
from geomatch.progress import progress_bar
from geomatch.reconstruction.windows import SIDE, Array, Grey, align_windows, cut_windows, windows_inside

Rows = NDArray[np.int64]
_log = logging.getLogger(__name__)
_STEP = 4.0  # pixels over which the shape of a window is taken
_LARGEST = 3.0  # pixels of the other image for one of the reference: with more, some go unseen
_MAX_SHIFT = 3.0  # pixels off the model's place, and off the observation before
_MIN_CORRELATION, _MAX_DEVIATION = 0.8, 0.15  # pixels; 0.05 is the median of those moved (rendered)
_LOOSE, _TIGHT, _FILTER = 0.5, 0.1, 10.0
"""The Cauchy loss of the first adjustment has the first scale in pixels; of the second, twice the median
error that is left, but at least the second scale. What is off by ten such scales is removed before it."""


@dataclass(frozen=True, eq=False, slots=True)
class _View:
    image: Any
    rotation: Array
    centre: Array
    own: Rows
    """Rows of its observations among all."""

    def project(self, points: Array) -> Array:
        local = np.ascontiguousarray((points - self.centre) @ self.rotation.T)
        return np.asarray(self.image.camera.img_from_cam(local))

    def read(self, folder: Path) -> Grey:
        camera, read = self.image.camera, load_image(folder / self.image.name, apply_exif=False)
        if read.size != (camera.width, camera.height):
            text = f"{read.name}: the model's image has {camera.width}x{camera.height} pixels, this file "
            raise GeomatchError(text + f"{read.size[0]}x{read.size[1]}; give the images that were mapped")
        return np.asarray(cv2.cvtColor(read.pixels, cv2.COLOR_RGB2GRAY), np.float32)


def refine_tracks(
    model: Any,
    images: Path,
    *,
    known: Any = None,
    fixed_intrinsics: bool = False,
    priors: Sequence[Any] = (),
    progress: bool = False,
) -> tuple[int, int]:
    """Align the observations of a ``pycolmap.Reconstruction`` with the images, and adjust it, in place.

    Returns how many were moved, and how many stayed where the images there are not alike or too plain.

    Each image in the folder ``images`` is read twice; a window of 225 bytes per point stays in memory.
    Observations keep their index, so that the model still belongs to its database, whose keypoints stay.
    Poses and cameras of ``known``, another reconstruction with the same ids, stay; or else ``priors``,
    ``pycolmap.PosePrior`` of images, hold the model in their frame; without either, two cameras do.

    Observations in images that cannot be read stay where they are. Raises ImageError when none can be read;
    GeomatchError for images of another size than the model's, and when COLMAP cannot adjust it.
    """
    model.update_point_3d_errors()
    if not model.compute_num_observations():
        return 0, 0
    points, track, places, views = _observations(model)
    corners, reference = _references(points, track, places, views)
    windows, usable = np.zeros((len(points), SIDE**2), np.uint8), np.zeros(len(points), np.bool_)
    moved, rejected = 0, 0
    with progress_bar(None, "refinement", "image", 2 * len(views), progress) as bar:
        readable, unread = list[_View](), list[ImageError]()
        for view in views:
            try:
                image, own = view.read(images), view.own[reference[track[view.own]] == view.own]
            except ImageError as error:
                unread.append(error)
                continue
            readable.append(view)
            middles, shapes = from_colmap(places[own]), np.tile(np.eye(2), (len(own), 1, 1))
            windows[track[own]] = np.clip(np.rint(cut_windows(image, middles, shapes)), 0, 255)
            usable[track[own]] = windows_inside(image, middles, shapes)
            bar.update()
        if unread:
            if not readable:
                raise unread[0]
            _log.warning("not refined: %d images, such as %s", len(unread), unread[0])
        for view in readable:
            image, own = view.read(images), view.own[reference[track[view.own]] != view.own]
            own = own[usable[track[own]]]
            found, agrees = _aligned(view, image, corners[track[own]], windows[track[own]], places[own])
            rows = np.array(view.image.get_observation_point2D_idxs())[own[agrees] - view.own[0]]
            for row, place in zip(rows.tolist(), found[agrees], strict=True):
                view.image.points2D[row].xy = place
            moved += int(agrees.sum())
            rejected += int((~agrees).sum())
            bar.update()
    holding = known, fixed_intrinsics, priors
    _adjust(model, holding, _LOOSE)
    scale = float(np.clip(2 * np.median([point.error for point in model.points3D.values()]), _TIGHT, _LOOSE))
    manager = pycolmap().ObservationManager(model)
    manager.filter_points3D_with_large_reprojection_error(_FILTER * scale, model.point3D_ids())
    _adjust(model, holding, scale)
    return moved, rejected


def _observations(model: Any) -> tuple[Array, Rows, Array, list[_View]]:
    """(P, 3) points; (M,) their rows and (M, 2) COLMAP's pixels of observations; views with some."""
    ids, seen, views = np.array(sorted(model.point3D_ids())), list[int](), list[_View]()
    places = list[Any]()
    for image in (model.images[number] for number in sorted(model.reg_image_ids())):
        if own := image.get_observation_points2D():
            rows = np.arange(len(seen), len(seen) + len(own))
            seen += [one.point3D_id for one in own]
            places += [one.xy for one in own]
            rotation = np.asarray(image.cam_from_world().rotation.matrix())
            views.append(_View(image, rotation, np.asarray(image.projection_center()), rows))
    points = np.array([model.points3D[one].xyz for one in ids.tolist()])
    return points, np.searchsorted(ids, seen), np.array(places), views


def _references(points: Array, track: Rows, places: Array, views: list[_View]) -> tuple[Array, Rows]:
    """(P, 3, 3) where the plane at each point meets the lines of sight of its reference's middle and of what
    lies `_STEP` pixels right of it and below; (P,) the observation that is the reference."""
    sight, scale, error = np.zeros((len(track), 3)), np.zeros(len(track)), np.zeros(len(track))
    for view in views:
        seen = points[track[view.own]]
        sight[view.own] = seen - view.centre
        depth = np.maximum(sight[view.own] @ view.rotation[2], 1e-12)
        scale[view.own] = np.log2(view.image.camera.mean_focal_length() / depth)
        error[view.own] = np.linalg.norm(view.project(seen) - places[view.own], axis=1)
    sight /= np.linalg.norm(sight, axis=1, keepdims=True)
    normal = -np.stack([np.bincount(track, part, len(points)) for part in sight.T], axis=1).astype(np.float64)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    counts = np.bincount(track, minlength=len(points))
    first = np.cumsum(counts) - counts
    median = scale[np.lexsort((scale, track))[first + counts // 2]]
    cost = np.abs(scale - median[track]) + 2 * (1 + (sight * normal[track]).sum(1)) + error / 4
    reference = np.lexsort((cost, track))[first]  # NaN, behind a camera, comes last
    corners = np.zeros((len(points), 3, 3))
    for view in views:
        chosen = view.own[reference[track[view.own]] == view.own]
        own = track[chosen]
        for k, offset in enumerate(((0, 0), (_STEP, 0), (0, _STEP))):
            local = np.asarray(view.image.camera.cam_from_img(places[chosen] + offset))
            rays = np.column_stack([local, np.ones(len(own))]) @ view.rotation
            reach = ((points[own] - view.centre) * normal[own]).sum(1) / (rays * normal[own]).sum(1)
            corners[own, k] = view.centre + reach[:, None] * rays
    return corners, reference


def _aligned(
    view: _View, image: Grey, corners: Array, windows: NDArray[np.uint8], places: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """(N, 2) COLMAP's pixels where windows are found in a view, and (N,) where that can be believed."""
    middle, right, below = (view.project(corners[:, k]) for k in range(3))
    shapes = np.stack([right - middle, below - middle], axis=2) / _STEP
    start, found, agrees = from_colmap(middle), places.copy(), np.zeros(len(places), np.bool_)
    near = windows_inside(image, start, shapes) & (np.abs(shapes).max((1, 2)) < _LARGEST)
    aligned, correlation, deviation = align_windows(image, windows[near], start[near], shapes[near])
    found[near] = to_colmap(aligned)
    agrees[near] = (correlation >= _MIN_CORRELATION) & (deviation <= _MAX_DEVIATION)
    for known in (middle, places):
        agrees &= np.linalg.norm(found - known, axis=1) <= _MAX_SHIFT
    return found, agrees


def _adjust(model: Any, holding: tuple[Any, bool, Sequence[Any]], scale: float) -> None:
    """Adjust the bundle; ``holding`` are the known model, whether intrinsics stay, and priors."""
    library, (known, fixed_intrinsics, priors) = pycolmap(), holding
    config, options = library.BundleAdjustmentConfig(), library.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = options.refine_extra_params = not fixed_intrinsics
    ceres, cauchy = options.ceres, library.LossFunctionType.CAUCHY
    ceres.loss_function_type, ceres.loss_function_scale = cauchy, scale
    ceres.solver_options.num_threads = 1  # sums of several threads differ from run to run
    ceres.solver_options.max_num_iterations, ceres.solver_options.function_tolerance = 50, 1e-5
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
        if known is not None and image_id in known.images and known.images[image_id].has_pose:
            config.set_constant_rig_from_world_pose(model.images[image_id].frame_id)
            config.set_constant_cam_intrinsics(model.images[image_id].camera_id)
            sensor = model.cameras[model.images[image_id].camera_id].sensor_id
            if not model.images[image_id].frame.rig.is_ref_sensor(sensor):
                config.set_constant_sensor_from_rig_pose(sensor)
    try:  # not `pycolmap.bundle_adjustment`, which makes the whole process talk again (4.2.1)
        if priors and known is None:
            positions = library.PosePriorBundleAdjustmentOptions()
            positions.ceres.prior_position_loss_function_type = cauchy
            adjuster = library.create_pose_prior_bundle_adjuster(options, positions, config, priors, model)
        else:
            if known is None:
                config.fix_gauge(library.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
            adjuster = library.create_default_bundle_adjuster(options, config, model)
        interruptible(lambda token: adjuster.solve())
    except (RuntimeError, ValueError) as error:
        raise GeomatchError(f"COLMAP could not adjust the model ({first_line(error)})") from error
    model.update_point_3d_errors()
