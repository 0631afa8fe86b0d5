"""Many photographs localized in a model, and what is written of them."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from geomatch.cameras import pycolmap
from geomatch.collection.folder import find_images
from geomatch.collection.options import EXTRACTION, MATCHING, Extraction, Matching
from geomatch.engine import FailedItem, RunContext
from geomatch.engine.context import CONTEXT
from geomatch.engine.run import in_blocks
from geomatch.errors import GeomatchError
from geomatch.files import digest_of, folder_beside, make_folder, read_json, write_whole
from geomatch.images import Masks
from geomatch.reconstruction.localize.localizer import NEAREST, Localization, Localizer, Query, QueryTask

_PROGRAM = "geomatch localize"
_RESULTS, _POSES = "results.json", "poses.txt"
_COLMAP = ("cameras.txt", "images.txt", "points3D.txt", "rigs.txt", "frames.txt")
_BLOCK = 4  # queries of a block
_SAVED = 5.0  # seconds between two times that what is done is written


def localize(
    queries: Sequence[Path],
    model: Path,
    images: Path | None = None,
    out: Path | None = None,
    *,
    extraction: Extraction = EXTRACTION,
    matching: Matching = MATCHING,
    nearest: int = NEAREST,
    context: RunContext = CONTEXT,
) -> dict[str, Localization]:
    """Localize images, and those of folders, in a model; by their names, which are paths below the folder.

    Writes to ``out``, ``MODEL/localized`` if not given: ``results.json``; ``poses.txt``, hloc's lines of name,
    quaternion and translation; ``cameras.txt`` and ``images.txt`` of a COLMAP model of the queries with a
    pose. What is in ``results.json`` is not done again, and stays there when other queries come.

    Raises what `Localizer` does, and GeomatchError when there is no query, two have one name, or ``out`` has
    files of another program.
    """
    found = find_queries(queries, extraction.masks)
    out = out or model / "localized"
    entries = _read(out)
    make_folder(out)
    try:
        lock = FileLock(out / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise GeomatchError(
            f"{out}: another run is writing there; wait for it, or give another folder"
        ) from error
    with lock, context.started() as started:
        entries = _read(out)
        localizer = Localizer(
            model, images, extraction=extraction, matching=matching, nearest=nearest, context=started
        )
        keys = {}
        for query in found:
            with suppress(OSError):
                keys[query.name] = digest_of(
                    [localizer.key, localizer.file(query.path, query.name).checksum()]
                )
        todo = [q for q in found if q.name not in keys or entries.get(q.name, {}).get("key") != keys[q.name]]
        done = {query.name: entries[query.name] for query in found if query not in todo}
        task, saved = QueryTask(localizer, localizer.need), monotonic()
        work = started.work()
        try:
            for query, result in work.results(
                task, in_blocks(todo, _BLOCK), "localizing", "image", len(done)
            ):
                key = keys.get(query.name)
                if isinstance(result, FailedItem):
                    key, result = None, Localization((), reason=result.reason)  # another run may read it
                entries[query.name] = {"key": key, **result.to_json()}
                if monotonic() - saved >= _SAVED:
                    _save(out, entries)
                    saved = monotonic()
        finally:
            _save(out, entries)
        results = {name: Localization.from_json(entry) for name, entry in sorted(entries.items())}
        _write(out, {name: result for name, result in results.items() if result})
    return {query.name: results[query.name] for query in found}


def find_queries(given: Sequence[Path], masks: Masks) -> list[Query]:
    """The images that are named, and those of folders."""
    found: dict[str, Path] = {}
    for place in given:
        if not place.exists():
            raise GeomatchError(f"{place}: no such image or folder")
        names = find_images(place, masks=masks).names if place.is_dir() else (place.name,)
        for name in names:
            path = (place / name if place.is_dir() else place).absolute()
            if found.setdefault(name, path).resolve() != path.resolve():
                raise GeomatchError(f"{path} and {found[name]} have one name; localize them into two folders")
    return [Query(name, found[name]) for name in sorted(found)]


def _read(out: Path) -> dict[str, dict[str, Any]]:
    """What earlier runs found; GeomatchError for a folder with files of another program."""
    path = out / _RESULTS
    content = read_json(path, "file of results") if path.exists() else {}
    others = [name for name in (_RESULTS, _POSES, *_COLMAP) if (out / name).exists()]
    if others and content.get("program") != _PROGRAM:
        raise GeomatchError(f"{out / others[0]} was not written by `{_PROGRAM}`: give another folder")
    return dict(content.get("queries", {}))


def _save(out: Path, entries: dict[str, dict[str, Any]]) -> None:
    content = {"program": _PROGRAM, "queries": dict(sorted(entries.items()))}
    write_whole(out / _RESULTS, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write(out: Path, poses: dict[str, Localization]) -> None:
    """Write hloc's lines and COLMAP's files."""
    library = pycolmap()
    model = library.Reconstruction()
    shared, lines = Counter(name.rpartition("/")[2] for name in poses), []
    for number, (name, one) in enumerate(poses.items(), 1):
        pose = library.Rigid3d(one.cam_from_world)
        width, height = one.camera.size
        model.add_camera_with_trivial_rig(
            library.Camera(
                camera_id=number,
                model=one.camera.model,
                width=width,
                height=height,
                params=np.array(one.camera.params),
            )
        )
        image = library.Image(name=name, camera_id=number, image_id=number)
        model.add_image_with_trivial_frame(image, pose)
        x, y, z, w = pose.rotation.quat
        short = name.rpartition("/")[2]
        values = " ".join(repr(float(value)) for value in (w, x, y, z, *pose.translation))
        lines.append(f"{short if shared[short] == 1 else name} {values}\n")
    with folder_beside(out / "colmap") as work:
        model.write_text(str(work))
        for name in _COLMAP:
            if (work / name).exists():
                os.replace(work / name, out / name)
    write_whole(out / _POSES, "".join(lines))
