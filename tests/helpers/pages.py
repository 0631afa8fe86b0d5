"""Pages of Markdown as tests: their blocks of code, and a folder with what their commands name, small.

A block says after its language what a test needs to know: ``slow`` for processes and long runs, ``courtyard``
for photographs that make a model, and ``skip="why"`` for downloads and the like, which are only parsed.
"""

import glob
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import correspondence_data as synthetic
import cv2
import numpy as np
import rendered_scene
from layout import ROOT

import geomatch
from geomatch.cli import app, main
from geomatch.demo import BundledPair

PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md"))]
GALLERY = ROOT / "docs" / "gallery.md"
"""Its commands run beside its photographs."""
SMALLER = {"512x512": "128x128", "768x768": "128x128"}
FENCE = re.compile(r"^```(\w+)([^\n{]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Code on a page."""

    page: Path
    number: int  # from 1, of all blocks that are Python or commands
    language: str
    words: str
    text: str

    @property
    def name(self) -> str:
        """Page and number, as failures say it."""
        return f"{self.page.relative_to(ROOT)}, block {self.number}"

    @property
    def skipped(self) -> bool:
        return "skip=" in self.words

    @property
    def slow(self) -> bool:
        return "slow" in self.words.split()

    @property
    def commands(self) -> list[str]:
        """Lines without comments; one that ends in a backslash goes on."""
        joined = self.text.replace("\\\n", "")
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


def blocks(page: Path) -> list[Block]:
    """Those in Python or of commands, in order."""
    found = [match for match in FENCE.findall(page.read_text()) if match[0] in ("sh", "bash", "py", "python")]
    return [
        Block(page, number, "sh" if language in ("sh", "bash") else "python", words, text)
        for number, (language, words, text) in enumerate(found, 1)
    ]


def parse(command: str) -> None:
    """Raise click's error for a line that the command line would not understand; files need not be there."""
    name, *rest = shlex.split(command)
    assert name == "geomatch"
    with ExitStack() as stack:
        context = stack.enter_context(click.Context(app, info_name=name))
        found: click.Command = app
        while isinstance(found, click.Group) and rest:
            _, found, rest = found.resolve_command(context, rest)  # type: ignore[assignment]
            context = stack.enter_context(click.Context(found, parent=context))
        found.make_parser(context).parse_args(rest)


@dataclass
class Workplace:
    """Photographs of 200x150, models of small width with random weights, data sets of three images."""

    material: Path
    pair: BundledPair
    ran: dict[str, BaseException | None] = field(default_factory=dict)
    names: dict[Path, dict[str, Any]] = field(default_factory=dict)

    def folder(self, page: Path) -> Path:
        """The page's own copy of everything."""
        place = self.material.parent / str(page.relative_to(ROOT)).replace("/", "-")
        if not place.exists():
            source = GALLERY.with_suffix("") / "photos" if page == GALLERY else self.material
            shutil.copytree(source, place)
        return place

    def run(self, block: Block) -> None:
        """Run it in the page's folder, after the blocks before it, each once; raises what it raises."""
        for other in blocks(block.page)[: block.number]:
            wanted = other.number == block.number
            if other.name in self.ran or other.skipped or (other.slow and not block.slow):
                continue
            self.ran[other.name] = None
            os.chdir(self.folder(other.page))
            try:
                self._run(other)
            except BaseException as error:
                self.ran[other.name] = error
                if wanted or not isinstance(error, Exception):
                    raise
        if (failed := self.ran[block.name]) is not None:
            raise failed

    def _run(self, block: Block) -> None:
        if "courtyard" in block.words and not Path("known").exists():
            _make_courtyard(Path())
        if block.language == "python":
            # blocks of the README are read alone
            alone = block.page.name == "README.md"
            names = {} if alone else self.names.setdefault(block.page, {})
            names["__name__"] = "__main__"
            exec(compile(block.text, block.name, "exec"), names)
            return
        for command in block.commands:
            if command.startswith("geomatch "):
                code = run(command)
                codes = (0, 1) if block.page == GALLERY else allowed(command)
                assert code in codes, f"{block.name}: {command} ended with {code}"


def allowed(command: str) -> tuple[int, ...]:
    """Exit codes: random weights need not find a homography, and two views of one plane are no model."""
    random = command.startswith("geomatch match") and re.search("--(descriptor|model) ", command)
    return (0, 1) if random or command.startswith("geomatch reconstruct photos") else (0,)


def run(command: str) -> int:
    """Run a command in this process; patterns of files stand for the files, as in a shell."""
    for large, small in SMALLER.items():
        command = command.replace(large, small)
    words = [sorted(glob.glob(word)) or [word] for word in shlex.split(command)[1:]]
    return main([word for some in words for word in some])


def make_workplace(folder: Path, small_sd: Path, seeded: Callable[..., dict[str, Any]]) -> Workplace:
    """Write everything that commands on pages name to an empty folder."""
    import torch

    pair = geomatch.bundled_pair()
    names = ("a.jpg", "b.jpg"), ("1.jpg", "2.jpg"), ("image0.jpg", "image1.jpg")
    for place, path in enumerate((pair.image0, pair.image1)):
        reduced = cv2.resize(cv2.imread(str(path)), (200, 150), interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", reduced)[1].tobytes()
        for where, name in zip((".", "hpatches-sequences/v_demo", "photos"), names, strict=True):
            (folder / where).mkdir(parents=True, exist_ok=True)
            (folder / where / name[place]).write_bytes(jpeg)
    scale = np.diag([200 / 640, 150 / 480, 1])
    truth = scale @ pair.homography @ np.linalg.inv(scale)
    np.savetxt(folder / "hpatches-sequences" / "v_demo" / "H_1_2", truth)
    home = folder.parent / "hub" / "models--sd2-community--stable-diffusion-2-1"
    shutil.copytree(small_sd, home / "snapshots" / "0123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123")
    shapes = json.loads(str(np.load(ROOT / "tests" / "golden" / "adm_tiny.npz")["state_dict_shapes"]))
    torch.save(seeded(dict(shapes), "geomatch-adm:"), folder / "256x256_diffusion_uncond.pt")
    small = geomatch.load_image(folder / "a.jpg").pixels
    motions = [synthetic.moved(0, 0), synthetic.moved(4, -2), synthetic.moved(8, -4)]
    synthetic.make_spair(folder / "SPair-71k", small, motions)
    synthetic.make_davis(folder / "DAVIS", small, {"walk": motions})
    walk = cv2.VideoWriter(str(folder / "walk.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, synthetic.SIZE)
    (folder / "stack").mkdir()
    for number, motion in enumerate(motions):
        view = np.ascontiguousarray(synthetic.view(small, motion))
        walk.write(view[..., ::-1])
        synthetic.save(folder / "stack" / f"{number}.png", view)
    walk.release()
    (folder / "pairs.txt").write_text("a.jpg b.jpg\n")
    synthetic.save(folder / "objects.png", synthetic.first_mask())
    painted = np.zeros((*small.shape[:2], 4), np.uint8)
    painted[55:85, 80:120] = 255, 200, 0, 200
    synthetic.save(folder / "edit.png", painted)
    images = folder / "photos" / "image0.jpg", folder / "photos" / "image1.jpg"
    return Workplace(folder, BundledPair(*images, truth, pair.credit))


def _make_courtyard(folder: Path) -> None:
    """``photos`` becomes views of a courtyard with ``known`` poses, one of which is new to the model."""
    rendered_scene.write(folder / "known", 8, 320)
    shutil.rmtree(folder / "photos")
    (folder / "known" / "images").rename(folder / "photos")
    (folder / "more").mkdir()
    view = folder / "photos" / "view04.jpg"
    shutil.copy(view, folder / "more" / "other.jpg")
    view.rename(folder / "new.jpg")


def everything_small(workplace: Workplace, patch: Any) -> Iterator[None]:
    """The bundled pair, what presets look at and views are small; one worker, and no charts.

    ``patch`` is pytest's."""
    from geomatch.benchmarks.methods.strings import create_dense_method
    from geomatch.dift import PRESETS

    patch.chdir(workplace.material)
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(workplace.material.parent / "hub"))
    patch.setattr("os.cpu_count", lambda: 1)
    patch.setattr("geomatch.training.VIEW_SIZE", (320, 240))
    patch.setattr("geomatch.benchmarks.harness.report.draw_curves", lambda *_: "")
    patch.setattr("geomatch.bundled_pair", lambda: workplace.pair)
    patch.setattr("geomatch.demo.real_pair", lambda: workplace.pair)
    for name, config in PRESETS.items():
        size = config.image_size
        if config.sampling == "dense":
            small = (128, 128) if isinstance(size, tuple) else 128
            patch.setitem(PRESETS, name, replace(config, image_size=small))
    yield
    create_dense_method.cache_clear()  # other tests want the presets as they are
