"""Many photographs localized in a model, and what is written of them."""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from geomatch.cameras import pycolmap
from geomatch.collection.folder import find_images
from geomatch.collection.options import EXTRACTION, MATCHING, Extraction, Matching
from geomatch.engine import RunContext
from geomatch.engine.context import CONTEXT
from geomatch.engine.run import grouped
from geomatch.errors import GeomatchError, ImageError, first_line
from geomatch.files import digest_of, folder_beside, read_json, refuse_others, write_whole
from geomatch.progress import progress_bar
from geomatch.reconstruction.folder import locked
from geomatch.reconstruction.localization.localizer import NEAREST, Localizer
from geomatch.reconstruction.localization.pose import Localization

_PROGRAM = "geomatch localize"
_RESULTS, _POSES = "results.json", "poses.txt"
_COLMAP = ("cameras.txt", "images.txt", "points3D.txt", "rigs.txt", "frames.txt")
_SAVED = 5.0  # seconds after which what is done is written
_log = logging.getLogger(__name__)


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
    """Localize images, and those of folders; by their names, which are paths below their folder.

    Writes to ``out``, ``MODEL/localized`` if not given: ``results.json``; ``poses.txt``, hloc's lines of
    name, quaternion and translation; a COLMAP model of the queries with a pose, as text. What is in
    ``results.json`` is not done again, and stays there when other queries come.

    Raises what `Localizer` does, and GeomatchError when there is no query, two have one name, or ``out`` has
    files of another program.
    """
    found = _find_queries(queries)
    out = out or model / "localized"
    _read(out)
    with context.started() as run:
        options = {"extraction": extraction, "matching": matching, "nearest": nearest, "context": run}
        localizer = Localizer(model, images, **options)  # type: ignore[arg-type]
        for line in grouped(localizer.skipped):
            _log.warning("left out of the model: %s", line)
        with locked(out):
            entries, keys = _read(out), dict[str, str]()
            for name, path in found.items():
                with suppress(OSError):
                    keys[name] = digest_of([localizer.key, localizer.file(path, name).checksum()])
            known = {name for name in keys if entries.get(name, {}).get("key") == keys[name]}
            todo, saved = [query for query in found.items() if query[0] not in known], monotonic()
            try:
                for name, path in progress_bar(todo, "localizing", "image", shown=run.progress):
                    key = keys.get(name)
                    try:
                        result = localizer.localize(localizer.file(path, name))
                    except (ImageError, OSError) as error:  # it may be read another time
                        key, result = None, Localization(first_line(error))
                    entries[name] = {"key": key, **result.to_json()}
                    if monotonic() - saved >= _SAVED:
                        _save(out, entries)
                        saved = monotonic()
            finally:
                _save(out, entries)
            results = {name: Localization.from_json(entry) for name, entry in sorted(entries.items())}
            _write(out, {name: one for name, one in results.items() if one})
    return {name: results[name] for name in found}


def _find_queries(given: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in given:
        if not place.exists():
            raise GeomatchError(f"{place}: no such image or folder")
        for name in find_images(place).names if place.is_dir() else (place.name,):
            path = (place / name if place.is_dir() else place).absolute()
            if found.setdefault(name, path).resolve() != path.resolve():
                raise GeomatchError(f"{path} and {found[name]} have one name: localize them one by one")
    return dict(sorted(found.items()))


def _read(out: Path) -> dict[str, dict[str, Any]]:
    """What earlier runs found, by name."""
    content = read_json(out / _RESULTS, "file of results") if (out / _RESULTS).exists() else {}
    names = _RESULTS, _POSES, *_COLMAP, "images.bin"
    refuse_others(out, names, content.get("program") == _PROGRAM, _PROGRAM)
    return dict(content.get("queries", {}))


def _save(out: Path, entries: dict[str, dict[str, Any]]) -> None:
    content = {"program": _PROGRAM, "queries": dict(sorted(entries.items()))}
    write_whole(out / _RESULTS, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write(out: Path, found: dict[str, Localization]) -> None:
    """Write hloc's lines and COLMAP's files."""
    library, lines = pycolmap(), list[str]()
    model, shared = library.Reconstruction(), Counter(Path(name).name for name in found)
    for number, (name, one) in enumerate(found.items(), 1):
        camera: Any = one.camera
        given = dict(zip(("width", "height"), camera.size, strict=True), params=camera.params)
        pose = library.Rigid3d(one.cam_from_world)
        model.add_camera_with_trivial_rig(library.Camera(camera_id=number, model=camera.model, **given))
        image = library.Image(name=name, camera_id=number, image_id=number)
        model.add_image_with_trivial_frame(image, pose)
        x, y, z, w = pose.rotation.quat
        values = " ".join(repr(float(value)) for value in (w, x, y, z, *pose.translation))
        lines.append(f"{Path(name).name if shared[Path(name).name] == 1 else name} {values}\n")
    write_whole(out / _POSES, "".join(lines))
    with folder_beside(out / "colmap") as work:
        model.write_text(str(work))
        for name in _COLMAP:
            os.replace(work / name, out / name)
