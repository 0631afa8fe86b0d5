"""What the page does with photographs: it runs the commands, and reads what they write."""

import filecmp
import html
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.demo import bundled_pair
from geomatch.files import write_whole
from geomatch.images import Image, load_image, reduce_image, write_png

Run = Callable[[Sequence[str]], int]
"""Runs a command line of ``geomatch`` in this process and returns its exit code."""


def run_command(run: Run, words: Sequence[str], folder: Path, images: Sequence[Path]) -> tuple[int, str]:
    """Exit code, and the command with what it printed, or its error; with names, not the server's paths."""
    if not all(images):
        return 2, "Choose two images first."
    screen, errors = StringIO(), StringIO()
    with redirect_stdout(screen), redirect_stderr(errors):
        code = run(words)
    told = f"The same on the command line:\n```\n{shlex.join(['geomatch', *words])}\n```\n"
    told += f"```\n{screen.getvalue()}```"
    if code > 1:
        told = "**Error**: " + errors.getvalue().strip().splitlines()[-1].removeprefix("geomatch: ")
    bundled = [bundled_pair().image0, bundled_pair().image1] if code < 2 else []
    for path in images:
        own = next((str(one) for one in bundled if filecmp.cmp(one, path, shallow=False)), path.name)
        told = told.replace(str(path), own)
    return code, told.replace(f"{folder}/", "")


def match_photographs(
    run: Run, images: Sequence[Path], options: Sequence[str], folder: Path
) -> tuple[str, list[Path], list[NDArray[np.uint8]] | None]:
    """Match two: found or why not, in Markdown; the files in ``folder``, none after an error; the pictures.

    With a homography these are image 0 and, as in the file ``warped.png``, image 1 in its frame, reduced."""
    out = folder / "matched"
    words = ["match", *map(str, images), *options, f"--out={out}"]
    code, told = run_command(run, words, folder, images)
    if code > 1:
        return told, [], None
    found, pictures = json.loads((out / "result.json").read_text(encoding="utf-8")), None
    for number, path in enumerate(images):  # not where the server has it
        found["settings"][f"image{number}"]["name"] = path.name
    write_whole(out / "result.json", json.dumps(found, indent=2) + "\n")
    if matrix := found.get("homography"):
        one, two = map(load_image, images)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpPerspective(two.pixels, np.array(matrix), one.size, flags=flags)
        whole = Image(np.asarray(warped, np.uint8), "warped")
        write_png(out / "warped.png", whole.pixels)
        pictures = [reduce_image(image, 1280).pixels for image in (one, whole)]
    good = f"Found: {found['num_inliers']} of {found['num_matches']} matches are inliers"
    status = good if code == 0 else f"Not found: {found['reason']}"
    return f"**{status}**\n\n{told}", sorted(out.iterdir()), pictures


def find_point(
    run: Run, images: Sequence[Path], options: Sequence[str], folder: Path
) -> tuple[str, Path | None]:
    """Run ``geomatch show`` with these options: what it says, in Markdown, and its picture in ``folder``."""
    words = ["show", *map(str, images), *options, f"--out={folder / 'shown'}"]
    code, told = run_command(run, words, folder, images)
    return told, None if code else next(folder.rglob("*.png"))


def reconstruct_photographs(
    run: Run, images: Sequence[Path], options: Sequence[str], folder: Path
) -> tuple[str, Path | None, str]:
    """Reconstruct: what the command says, in Markdown, the model packed in ``folder``, its page as HTML."""
    if len({path.name for path in images}) < len(images):
        return "**Error**: two photographs have the same name; rename one of them", None, ""
    photographs, out = folder / "photographs", folder / "model"
    photographs.mkdir()
    for path in images:
        (photographs / path.name).symlink_to(path)
    code, told = run_command(run, ["reconstruct", str(photographs), str(out), *options], folder, ())
    if code:
        return told, None, ""
    shutil.rmtree(out / "store", ignore_errors=True)
    view = html.escape((out / "model.html").read_text(encoding="utf-8"))
    frame = f'<iframe title="The model" sandbox="allow-scripts" srcdoc="{view}"></iframe>'
    return told, Path(shutil.make_archive(str(out), "zip", out)), frame
