"""A model to begin with: its cameras, image ids and poses stay, its points are made anew from our matches."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import pycolmap
from geomatch.colmap.library import database, interruptible
from geomatch.errors import GeomatchError
from geomatch.reconstruction.models import read_model
from geomatch.reconstruction.transforms import read_transforms


def read_poses(path: Path, images: Path) -> Any:
    """Read a COLMAP model, or ``transforms.json``, as a ``pycolmap.Reconstruction`` without points.

    Raises GeomatchError when there is no model, or no image in it has a pose.
    """
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


def adopt_ids(path: Path, known: Any) -> None:
    """Give the model's images the ids that the database has for their names.

    Raises GeomatchError when the database lacks an image that has a pose.
    """
    with database(str(path)) as opened:
        names = {image.name: image.image_id for image in opened.read_all_images()}
        lacking = [image.name for image in known.images.values() if image.name not in names]
        if lacking:
            text = f"{len(lacking)} images of the model are not in the database, such as {lacking[0]!r}"
            raise GeomatchError(f"{text}: give the database that the model was made from")
        if any(names[image.name] != number for number, image in known.images.items()):
            known.transcribe_image_ids_to_database(opened)


def triangulate(path: Path, images: Path, out: Path, known: Any, options: Any) -> Any:
    """Points of the verified pairs of the database ``path``, from poses and cameras that stay as they are.

    ``out`` is a folder that pycolmap writes to, ``options`` are its pipeline's. Returns another
    ``pycolmap.Reconstruction`` than ``known``.
    """
    paths = str(path), str(images), str(out)
    return interruptible(
        lambda token: pycolmap().triangulate_points(
            deepcopy(known), *paths, clear_points=True, options=options, cancellation_token=token
        )
    )


def restore_frame(model: Any, known: Any) -> None:
    """Move a model, in place, by the similarity that brings its cameras back to the known ones.

    The rotation is nearest to all images' differences (chordal mean: Hartley et al., IJCV 2013);
    the scale is the ratio of the spreads of the centres.
    """
    pairs = [(model.images[one.image_id], one) for one in known.images.values() if one.has_pose]
    pairs = [(new, old) for new, old in pairs if new.has_pose]
    new, old = (np.array([one.projection_center() for one in side]) for side in zip(*pairs, strict=True))
    turns = [_rotation(old).T @ _rotation(new) for new, old in pairs]
    left, _, right = np.linalg.svd(np.sum(turns, axis=0))
    turn = left * [1, 1, np.linalg.det(left @ right)] @ right
    spreads = [float(np.linalg.norm(side - side.mean(axis=0))) for side in (new, old)]
    scale = spreads[1] / spreads[0] if min(spreads) > 0 else 1.0
    library = pycolmap()
    shift = old.mean(axis=0) - scale * turn @ new.mean(axis=0)
    model.transform(library.Sim3d(scale, library.Rotation3d(turn), shift))


def _rotation(image: Any) -> NDArray[np.float64]:
    return np.asarray(image.cam_from_world().rotation.matrix(), np.float64)
