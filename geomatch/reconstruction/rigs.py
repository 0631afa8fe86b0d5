"""Rigs of cameras, from the configuration file of COLMAP's ``rig_configurator``."""

from pathlib import Path
from typing import Any

from geomatch.cameras import pycolmap
from geomatch.colmap.library import database
from geomatch.errors import GeomatchError, first_line, reading


def read_rigs(path: Path) -> list[Any]:
    """Read COLMAP's ``rig_config.json`` as pycolmap's configurations; GeomatchError without a rig."""
    with reading(path, "rig configuration of COLMAP"):
        path.open().close()
        try:
            found = list(pycolmap().read_rig_config(str(path)))
        except RuntimeError as error:
            raise ValueError(first_line(error)) from error
    if not found:
        raise GeomatchError(f"{path}: no rig in it; a list of rigs with their cameras was expected")
    return found


def apply_rigs(path: Path, rigs: list[Any], model: Any = None) -> None:
    """Make the database's images frames of rigs; ``model`` gives places in the rig where there are none.

    Raises GeomatchError unless the images of each camera's prefix, one at least, have a camera of their own.
    """
    with database(str(path)) as opened:
        prefix_of = dict[int, str]()
        for image in opened.read_all_images():
            fitting = [one.image_prefix for rig in rigs for one in rig.cameras]
            own = next((prefix for prefix in fitting if image.name.startswith(prefix)), None)
            if own is not None and (other := prefix_of.setdefault(image.camera_id, own)) != own:
                text = f"images of {other!r} and {own!r} share a camera"
                raise GeomatchError(f"{text}: put those of each camera of a rig in a folder of its own")
        try:
            pycolmap().apply_rig_config(rigs, opened, model)
        except (RuntimeError, ValueError) as error:
            text = first_line(error).partition("] ")[2] or first_line(error)
            raise GeomatchError(f"the rigs do not fit the images: {text}") from error
