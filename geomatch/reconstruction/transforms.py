"""``transforms.json``, the cameras and poses of nerfstudio, instant-ngp and NeRF."""

import json
import math
import os
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import Camera, pycolmap
from geomatch.errors import GeomatchError, reading
from geomatch.files import read_json, replacing, write_whole
from geomatch.images import raw_size
from geomatch.reconstruction.models import nearest_rotation, posed_images

_PARAMETERS = {
    "SIMPLE_PINHOLE": "f cx cy", "SIMPLE_RADIAL": "f cx cy k1", "RADIAL": "f cx cy k1 k2",
    "PINHOLE": "fl_x fl_y cx cy", "OPENCV": "fl_x fl_y cx cy k1 k2 p1 p2",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k1", "RADIAL_FISHEYE": "f cx cy k1 k2",
    "OPENCV_FISHEYE": "fl_x fl_y cx cy k1 k2 k3 k4",
}  # fmt: skip
"""nerfstudio's names of COLMAP's parameters; ``f`` is both focal lengths."""


def write_transforms(model: Any, images: Path, folder: Path, progress: bool) -> list[Path]:
    """Write ``transforms.json`` and its points, ``sparse_pc.ply``, as nerfstudio's `colmap_to_json` does.

    Photographs are named by their paths from ``folder``. ``transform_matrix`` (4, 4) leads from the camera (x
    right, y up, z backward: OpenGL) to the world, the model's turned by ``applied_transform`` (3, 4).
    Intrinsics are of the file, or of each frame if there are several cameras, in COLMAP's pixels. Raises
    GeomatchError for cameras that nerfstudio lacks, and perspective beside fisheye: a file has one model.
    """
    placed = posed_images(model)
    lenses = {image.camera_id: _intrinsics(image.camera) for image in placed}
    kinds = {lens.pop("camera_model") for lens in lenses.values()}
    if len(kinds) > 1:
        raise GeomatchError("nerfstudio takes perspective or fisheye cameras, not both: undistort them first")
    library, turned, root = pycolmap(), copy(model), folder.resolve()
    up = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # as `colmap_to_json` turns the world
    turned.transform(library.Sim3d(1.0, library.Rotation3d(up), np.zeros(3)))
    frames = []
    for image in placed:
        pose = turned.images[image.image_id].cam_from_world().inverse().matrix() * [1, -1, -1, 1]
        frames.append({
            "file_path": Path(os.path.relpath(images.resolve() / image.name, root)).as_posix(),
            "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]],
            "colmap_im_id": image.image_id, **(lenses[image.camera_id] if len(lenses) > 1 else {}),
        })  # fmt: skip
    content = {
        "program": "geomatch", "camera_model": kinds.pop(),
        **(lenses[placed[0].camera_id] if len(lenses) == 1 else {}), "frames": frames,
        "applied_transform": np.column_stack([up, np.zeros(3)]).tolist(), "ply_file_path": "sparse_pc.ply",
    }  # fmt: skip
    with replacing(folder / "sparse_pc.ply") as temporary:
        turned.export_PLY(str(temporary))
    write_whole(folder / "transforms.json", json.dumps(content, indent=2) + "\n")
    return [folder / "transforms.json", folder / "sparse_pc.ply"]


def _intrinsics(camera: Any) -> dict[str, Any]:
    name = camera.model.name
    if name not in _PARAMETERS:
        raise GeomatchError(f"nerfstudio has no camera model {name}: undistort the images (--undistort)")
    values = dict(zip(_PARAMETERS[name].split(), map(float, camera.params), strict=True))
    both = values.pop("f", 0.0)
    kind, more = ("OPENCV_FISHEYE", ("k3", "k4")) if "FISHEYE" in name else ("OPENCV", ("p1", "p2"))
    whole = dict.fromkeys(("fl_x", "fl_y"), both) | dict.fromkeys(("k1", "k2", *more), 0.0) | values
    return {"camera_model": kind, "w": camera.width, "h": camera.height, **whole}


def read_transforms(path: Path, images: Path | None = None) -> Any:
    """Read the ``transforms.json`` of nerfstudio, instant-ngp or NeRF as a reconstruction without points.

    Intrinsics are of the file or of each frame: ``fl_x``, ``fl_y``, else ``camera_angle_x`` (radians) or
    ``x_fov`` (degrees); ``w``, ``h``, else the size of the image; ``cx``, ``cy``, else its middle; ``k1`` to
    ``k4``, ``p1``, ``p2``. Equal ones are one camera. ``applied_transform`` and ``applied_scale`` are undone.
    Images are named by their paths from ``images``, else the file's folder; without an extension they are PNG
    files, as NeRF's. Raises GeomatchError, naming file and image, for what is missing or cannot be.
    """
    content, folder = read_json(path, "transforms.json"), Path(path).parent.resolve()
    library, cameras = pycolmap(), dict[Camera, int]()
    found = library.Reconstruction()
    if not isinstance(content.get("frames"), list) or not content["frames"]:
        raise GeomatchError(f"{path}: it has no frames; the transforms.json of nerfstudio was expected")
    for number, frame in enumerate(content["frames"], 1):
        with reading(f"{path}, frame {number}", "frame of transforms.json"):
            file = folder / frame["file_path"]
            file = file if file.suffix else file.with_suffix(".png")
            name = Path(os.path.relpath(file, (images or folder).resolve())).as_posix()
            try:
                camera, pose = _camera({**content, **frame}, file), _pose({**content, **frame})
                if found.find_image_with_name(name):
                    raise GeomatchError("the image comes twice")
            except GeomatchError as error:
                raise GeomatchError(f"{path}, {name}: {error}") from None
            if camera not in cameras:
                cameras[camera] = len(cameras) + 1
                found.add_camera_with_trivial_rig(library.Camera(
                    model=camera.model, width=camera.size[0], height=camera.size[1], params=camera.params,
                    camera_id=cameras[camera], has_prior_focal_length=True,
                ))  # fmt: skip
            image = library.Image(name=name, camera_id=cameras[camera], image_id=number)
            found.add_image_with_trivial_frame(image, library.Rigid3d(pose))
    return found


def _camera(values: dict[str, Any], file: Path) -> Camera:
    model = values.get("camera_model", "OPENCV")
    if model not in _PARAMETERS:
        raise GeomatchError(f"camera_model {model!r} cannot be read, but OPENCV and OPENCV_FISHEYE can")
    size = (int(values["w"]), int(values["h"])) if {"w", "h"} <= values.keys() else raw_size(file)
    focal = []
    for axis, side in zip("xy", size, strict=True):  # angles are those of a pinhole, as in instant-ngp
        angle = float(values.get(f"camera_angle_{axis}", math.radians(values.get(f"{axis}_fov", 0))))
        focal.append(float(values.get(f"fl_{axis}", side / 2 / math.tan(angle / 2) if angle else 0)))
    if not any(focal):
        raise GeomatchError("its focal length is missing: give fl_x (pixels) or camera_angle_x (radians)")
    centre = [float(values.get(key, side / 2)) for key, side in zip(("cx", "cy"), size, strict=True)]
    k1, k2, k3, k4, p1, p2 = (float(values.get(key, 0)) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    fisheye = bool(values.get("is_fisheye")) or "FISHEYE" in model
    if (p1 or p2) if fisheye else k4:
        raise GeomatchError("COLMAP has no fisheye lens with p1 or p2, and no other with k4: undistort first")
    model, lens = "PINHOLE", tuple[float, ...]()
    if fisheye:
        model, lens = "OPENCV_FISHEYE", (k1, k2, k3, k4)
    elif any((k1, k2, k3, p1, p2)):
        model, lens = ("FULL_OPENCV", (k1, k2, p1, p2, k3, 0, 0, 0)) if k3 else ("OPENCV", (k1, k2, p1, p2))
    return Camera(model, size, (focal[0] or focal[1], focal[1] or focal[0], *centre, *lens))


def _pose(values: dict[str, Any]) -> NDArray[np.float64]:
    """(3, 4) from the world to the camera with x right, y down, z forward."""
    pose = np.array(values["transform_matrix"], np.float64)[:3]
    applied = np.array(values.get("applied_transform", np.eye(4)), np.float64)[:3]
    if pose.shape != (3, 4) or applied.shape != (3, 4) or not np.isfinite(pose).all():
        raise GeomatchError("transform_matrix must be 4 x 4 finite numbers, applied_transform 3 x 4")
    pose = pose * [1, -1, -1, 1 / values.get("applied_scale", 1)] - [0, 0, 0, 1] * applied
    pose = np.linalg.solve(applied[:, :3], pose)
    turn = pose[:, :3]
    if not (np.abs(turn.T @ turn - np.eye(3)).max() < 1e-3 and np.linalg.det(turn) > 0):  # few digits will do
        raise GeomatchError("transform_matrix, or applied_transform, is no rotation with a shift")
    turn = nearest_rotation(turn).T
    return np.column_stack([turn, -turn @ pose[:, 3]])
