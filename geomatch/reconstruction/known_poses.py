"""A model to begin with: its cameras, image ids and poses stay, its points are made anew from our matches."""

from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import pycolmap
from geomatch.colmap.library import database
from geomatch.errors import GeomatchError
from geomatch.reconstruction.models import nearest_rotation, read_model
from geomatch.reconstruction.transforms import read_transforms


def read_poses(path: Path, images: Path) -> Any:
    """Read a COLMAP model or ``transforms.json`` without points; GeomatchError when no image has a pose."""
    if path.suffix == ".json":
        return read_transforms(path, images)
    model = read_model(path)
    if not model.num_reg_images():
        raise GeomatchError(f"{path}: no image of the model has a pose")
    model.delete_all_points2D_and_points3D()
    return model


def begin_database(path: Path, known: Any) -> None:
    """Make a database that has the cameras, rigs, frames and images of a model, under their ids."""
    with database(str(path)) as opened, pycolmap().DatabaseTransaction(opened):
        for camera in known.cameras.values():
            camera.has_prior_focal_length = True
            opened.write_camera(camera, use_camera_id=True)
        for rig in known.rigs.values():
            opened.write_rig(rig, use_rig_id=True)
        for frame in known.frames.values():
            opened.write_frame(frame, use_frame_id=True)
        for image in known.images.values():
            opened.write_image(image, use_image_id=True)


def in_database(path: Path, known: Any, exact: bool) -> Any:
    """A model as the database has its images: their ids, frames and rigs, with the known poses and cameras.

    The database gets these cameras, too. Raises GeomatchError when it lacks an image that has a pose, when
    images of one camera there have several in the model, or other sizes; and, if ``exact``, when poses
    differ from those that the rigs of the database give.
    """
    model = pycolmap().Reconstruction()
    posed = {one.name: one for one in known.images.values() if one.has_pose}
    with database(str(path)) as opened:
        images = {image.image_id: image for image in opened.read_all_images()}
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        if lacking := sorted(set(posed) - {image.name for image in images.values()}):
            text = f"{len(lacking)} images of the model are not in the database, such as {lacking[0]!r}"
            raise GeomatchError(f"{text}: give the database that the model was made from")
        given = dict[int, Any]()
        for image in images.values():
            if image.name in posed:
                camera, old = copy(posed[image.name].camera), cameras[image.camera_id]
                camera.camera_id, camera.has_prior_focal_length = old.camera_id, True
                sizes = (camera.width, camera.height), (old.width, old.height)
                if given.setdefault(old.camera_id, camera).params_to_string() != camera.params_to_string():
                    text = "has one camera in the database with images that have others in the model"
                    raise GeomatchError(f"{image.name} {text}: give it one of its own there")
                if sizes[0] != sizes[1]:
                    text = "{}x{} pixels in the model, {}x{} in the database".format(*sizes[0], *sizes[1])
                    raise GeomatchError(f"{image.name} has {text}: both must be of the same files")
        for camera in given.values():
            opened.update_camera(camera)
        for camera in (cameras | given).values():
            model.add_camera(camera)
        for rig in opened.read_all_rigs():
            model.add_rig(rig)
        for frame in opened.read_all_frames():
            own = [images[one.id] for one in frame.image_ids]
            if found := [image for image in own if image.name in posed]:
                model.add_frame(frame)
                for image in own:
                    model.add_image(image)
                pose = posed[found[0].name].cam_from_world()
                model.frames[frame.frame_id].set_cam_from_world(found[0].camera_id, pose)
                model.register_frame(frame.frame_id)
    for image in model.images.values() if exact else ():
        if image.name in posed:
            pose, own = (one.cam_from_world().matrix() for one in (image, posed[image.name]))
            if not np.allclose(pose, own, rtol=1e-6, atol=1e-6):
                raise GeomatchError(f"{image.name}: its pose is not its rig's: leave out --fix-poses")
    return model


def restore_frame(model: Any, known: Any) -> None:
    """Move a model, in place, by the similarity that brings its cameras back to the known ones.

    The rotation is the mean of all images' differences, the scale the ratio of the spreads of the centres.
    """
    pairs = [(model.images[one.image_id], one) for one in known.images.values() if one.has_pose]
    pairs = [(new, old) for new, old in pairs if new.has_pose]
    new, old = (np.array([one.projection_center() for one in side]) for side in zip(*pairs, strict=True))
    turns = [_rotation(old).T @ _rotation(new) for new, old in pairs]
    turn = nearest_rotation(np.sum(turns, axis=0))
    spreads = [float(np.linalg.norm(side - side.mean(axis=0))) for side in (new, old)]
    scale = spreads[1] / spreads[0] if min(spreads) > 0 else 1.0
    library = pycolmap()
    shift = old.mean(axis=0) - scale * turn @ new.mean(axis=0)
    model.transform(library.Sim3d(scale, library.Rotation3d(turn), shift))


def _rotation(image: Any) -> NDArray[np.float64]:
    return np.asarray(image.cam_from_world().rotation.matrix(), np.float64)
