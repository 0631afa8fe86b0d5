"""Random command lines over every command and option, with files that are damaged in every way.

    python tests/helpers/command_lines.py --count 2000 --seed 0

Each line runs in a fork of this process, in a copy of a small folder, without a network, within a time and a
memory limit. It must end with 0, 1, 2 or 130, without a traceback, and an error must be one line.
"""

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENCV_LOG_LEVEL": "SILENT"}

import click
import cv2
import numpy as np
import torch

import geomatch
from geomatch.cli import app, main
from geomatch.weights.folders import HEAD_FILES

CODES = (0, 1, 2, 130)
CPU = 20  # seconds of a processor after which a line is ended
MEMORY = 6 * 2**30  # bytes of address space above what the parent has
VALUES = json.loads(Path(__file__).with_name("command_values.json").read_text())
"""Hostile ones, numbers, and what ``make_folder`` makes; ``given``, by names of parameters: those that may be
right, the best first."""
HOSTILE = VALUES["hostile"]
FOR_RAY = ("ray_address", "cpus_per_worker", "gpus_per_worker")


class Outcome(NamedTuple):
    """How a line ended."""

    line: list[str]
    code: int | None  # None for a defect, a crash or a line that took too long
    text: str  # standard error, or the traceback
    kind: str  # ``ended``, ``traceback``, ``crash``, ``time``, ``code`` or ``lines``
    seconds: float


def commands(
    group: click.Command, names: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its parameters."""
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*names, name))
    else:
        yield names, group


def random_line(rng: random.Random) -> list[str]:
    """A command line: a third of its options or fewer, values that make sense and others."""
    every = list(commands(app))
    ((names, command),) = rng.choices(every, [3 + len(command.params) for _, command in every])
    hostile = rng.choice((0.0, 0.05, 0.3))
    options: list[str] = []
    arguments: list[str] = []
    wanted = rng.choice((0.05, 0.1, 0.3))
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            often = {"workers": 1.0, "points": 0.8, **dict.fromkeys(FOR_RAY, hostile)}
            if not parameter.required and rng.random() > often.get(str(parameter.name), wanted):
                continue
            if parameter.required and rng.random() < 0.02:
                continue
            flag = rng.choice([*parameter.opts, *parameter.secondary_opts])
            times = rng.choice((1, 1, 2)) if parameter.multiple or rng.random() < 0.02 else 1
            for _ in range(times):
                values = 0 if parameter.is_flag else parameter.nargs
                options += [flag, *(value(parameter, rng, hostile) for _ in range(values))]
        else:
            count = rng.choice((1, 1, 2)) if parameter.nargs == -1 else parameter.nargs
            arguments += [value(parameter, rng, hostile) for _ in range(count)]
    if rng.random() < 0.03:
        rng.shuffle(options)
    if rng.random() < 0.03:
        arguments = arguments[:-1]
    return [*names, *options, *arguments] if rng.random() < 0.5 else [*names, *arguments, *options]


def value(parameter: click.Parameter, rng: random.Random, hostile: float) -> str:
    """A value; of a line without hostile ones most likely one that works."""
    if rng.random() < hostile:
        return rng.choice(HOSTILE + VALUES["numbers"] + VALUES["files"] + VALUES["folders"])
    name = str(parameter.name)
    listed = VALUES["given"].get(name) or VALUES["given"].get(name.removeprefix("dift_"))
    if listed:
        given = [one for word in listed for one in (VALUES[word[1:]] if word[:1] == "@" else [word])]
        return rng.choice(given[:2] if not hostile and rng.random() < 0.8 else given)
    if isinstance(parameter.type, click.Choice):
        return rng.choice(list(parameter.type.choices))
    number = parameter.type.name in ("integer", "float", "integer range", "float range")
    likely = VALUES["numbers"][:3] if not hostile and rng.random() < 0.8 else VALUES["numbers"]
    return rng.choice(likely if number else HOSTILE)


def run_line(line: list[str], folder: Path, seconds: float) -> Outcome:
    """Run a line in a fork of this process, in a copy of the folder."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "here"
        shutil.copytree(folder, place, symlinks=True)
        child = os.fork()
        if child == 0:
            _child(line, place, Path(name))
        status = None
        while time.monotonic() < start + seconds:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.01)
            status = None
        if status is None:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome(line, None, "", "time", time.monotonic() - start)
        spent = time.monotonic() - start
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # a server of processes that it started
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
            return Outcome(line, None, "", "time", spent)
        if not (Path(name) / "result").exists():
            return Outcome(line, None, f"status {status}", "crash", spent)
        result = json.loads((Path(name) / "result").read_text())
    code, text = result["code"], result["text"]
    kind = "traceback" if code is None else "code" if code not in CODES else "ended"
    if kind == "ended" and (stray := unexpected(code, text)):
        kind, text = "lines", f"{stray}\n{text}"
    return Outcome(line, code, text, kind, spent)


def unexpected(code: int, text: str) -> str:
    """What standard error holds besides what the command says of its work, and one line about an error."""
    lines = [part for line in text.splitlines() for part in line.split("\r")[-1:] if part.strip()]
    said = ("skipped ", "warning ", "broken ", "missing ", "run ", "debug ", "geomatch: ")
    bars = ("it/s", "s/it", "/s]", "?it", "?,", "%|", "/s")
    strange = [
        line for line in lines
        if not line.startswith(said) and not line.endswith(" ...") and not any(bar in line for bar in bars)
    ]  # fmt: skip
    errors = sum(line.startswith("geomatch: ") for line in lines)
    if code == 2 and errors != 1:
        return f"{errors} lines about an error"
    return f"a line besides: {strange[0]}" if strange else ""


def _child(line: list[str], place: Path, above: Path) -> None:
    os.setpgid(0, 0)
    os.chdir(place)
    # not where a model or a release might be
    os.environ |= {"GEOMATCH_HOME": str(above / "cache"), "HF_HOME": str(above / "hub"), "HOME": str(above)}
    out = os.open(above / "out", os.O_CREAT | os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)  # what libraries print from C
    if os.geteuid() == 0:  # nothing outside may be written, whatever the line says
        for path in (above, *above.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 9))  # SIGXCPU, which ends it

    def refused(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            raise OSError("no network")
        connect(self, address)

    tracker = resource_tracker._resource_tracker  # that of the parent, which this process must not use
    tracker._fd = tracker._pid = None
    connect, socket.socket.connect = socket.socket.connect, refused  # type: ignore[method-assign]
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    code: int | None = None
    try:
        code = main(line)
        text = sys.stderr.getvalue()
    except BaseException:
        text = traceback.format_exc()
    with suppress(BaseException):
        content = json.dumps({"code": code, "text": text.encode(errors="replace").decode()})
        (above / "result.part").write_text(content)
        os.replace(above / "result.part", above / "result")
    os._exit(0)


def make_folder(folder: Path) -> None:
    """Small images, data sets, a store and records as they should be, and each of them damaged."""
    from geomatch.benchmarks.tasks.homography.data import make_synthetic
    from geomatch.types import Features

    folder.mkdir()
    os.chdir(folder)
    photo = cv2.resize(
        cv2.imread(str(geomatch.bundled_pair().image0)), (192, 144), interpolation=cv2.INTER_AREA
    )
    a, b = photo[20:116, 20:148], photo[30:126, 40:168]
    for name, pixels in {
        "a.png": a, "b.png": b, "grey.png": a[..., 0], "a.jpg": a, "one.png": a[:1, :1], "é.png": b,
        "deep.tif": a.astype(np.uint16) * 100, "mask.png": (a[..., 0] > 150).astype(np.uint8),
        "rgba.png": np.dstack([a, np.eye(96, 128, dtype=np.uint8) * 255]),
    }.items():  # fmt: skip
        cv2.imwrite(name, pixels)
    data = Path("a.png").read_bytes()
    Path("cut.png").write_bytes(data[: len(data) // 2])
    Path("cut.jpg").write_bytes(Path("a.jpg").read_bytes()[:700])
    Path("bomb.png").write_bytes(data[:16] + struct.pack(">II", 60_000, 60_000) + data[24:])
    Path("ps.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    Path("empty.png").touch()
    Path("text.png").write_text("words")
    with suppress(OSError):
        Path(os.fsdecode(b"caf\xe9.png")).write_bytes(data)
    Path("junk.bin").write_bytes(random.Random(0).randbytes(3000))
    Path("junk.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    Path("junk.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    for name in ("images", "frames", "mixed", "void", "records"):
        Path(name).mkdir()
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    for number in range(3):
        view = photo[20 + 3 * number : 116 + 3 * number, 20 + 4 * number : 148 + 4 * number]
        for place in ("images", "frames", "mixed"):
            cv2.imwrite(f"{place}/{number}.png", view)
        writer.write(view)
    writer.release()
    Path("cut.avi").write_bytes(Path("clip.avi").read_bytes()[:4000])
    for name in ("cut.png", "empty.png", "text.png", "deep.tif", "one.png"):
        shutil.copy(name, "mixed")
    make_synthetic([Path("a.png")], Path("hpatches"), seed=0)
    shutil.copytree("hpatches", "spoilt")
    for number, path in enumerate(sorted(Path("spoilt").rglob("H_*"))):
        path.write_bytes(
            (b"", b"1 2\n3 4\n", b"\xff\xfe", b"1 0 0\n0 1 0\n0 0 nan\n", path.read_bytes())[number % 5]
        )
    Path("spair/Layout/large").mkdir(parents=True)
    Path("spair/PairAnnotation/test").mkdir(parents=True)
    Path("spair/Layout/large/test.txt").write_text("1-a-b:cat\n")
    Path("spair/PairAnnotation/test/1-a-b:cat.json").write_text("[" * 100_000)
    Path("willow").mkdir()
    Path("willow/test_pairs_pf.csv").write_text('a,b\n"' + "x" * 200_000 + '",b\n')
    Path("pairs.txt").write_text("0.png 1.png\n1.png 2.png 0.5\n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00 \x80\n")
    Path("list.json").write_text("[1, 2]")
    Path("deep.json").write_text("[" * 100_000)
    for name, config in (("network", "[1]"), ("deepnetwork", "[" * 100_000), ("head", '{"a": 1}')):
        Path(name).mkdir()
        Path(name, "config.json").write_text(config)
        Path(name, "model_index.json").write_text(config)
        Path(name, "pairs.json").write_text(config)
        for file in (*HEAD_FILES.values(), "diffusion_pytorch_model.safetensors", "model.safetensors"):
            shutil.copy("junk.safetensors", f"{name}/{file}")
    quiet = ["--max-keypoints", "50", "--workers", "1"]
    for line in (
        ["colmap", "export", "images", "a.db", "--store", "store", *quiet],
        ["colmap", "export", "images", "text", "--format", "text", "--store", "store", *quiet],
        ["colmap", "export", "images", "npz", "--format", "npz", "--store", "store", *quiet],
        ["colmap", "export", "images", "h5", "--format", "hloc", "--store", "store", *quiet],
        [
            "benchmark",
            "hpatches",
            "hpatches",
            "--method",
            "orb",
            "--out",
            "records",
            "--protocol",
            "mma",
            *quiet,
        ],
    ):
        main(line)
    for name in ("features.h5", "matches.h5"):
        shutil.copy(f"h5/{name}", name)
    (record,) = Path("records").glob("hpatches-*.json")
    record.rename("records/good.json")
    content = json.loads(Path("records/good.json").read_text())
    Path("edited.json").write_text(json.dumps({**content, "protocols": {"x": 3}}))
    Path("records/hpatches-0.json").write_text(json.dumps({**content, "rows": [{"protocol": "mma"}]}))
    shutil.copytree("store", "bad-store")
    for number, path in enumerate(sorted(Path("bad-store").rglob("*.npz"))):
        path.write_bytes(path.read_bytes()[: (0, 50, 300)[number % 3]])
    shutil.copytree("npz", "deepnpz")
    Path("deepnpz/pairs.json").write_text('{"images": 3, "pairs": [[1]]}')
    found = Features(
        np.ones((3, 2), np.float32), np.ones(3, np.float32), (9, 9), descriptors=np.eye(3, dtype="f4")
    )
    found.save("good.npz")
    Path("cut.npz").write_bytes(Path("good.npz").read_bytes()[:200])
    for root in ("npz", "deepnpz"):
        for number in range(1, 7):
            for sequence in ("i_a", "v_a"):
                Path(root, sequence).mkdir(exist_ok=True)
                name = Path(root, sequence, f"{number}.png.mine")
                shutil.copy(
                    "good.npz" if root == "npz" else ("cut.npz", "junk.bin", "a.png")[number % 3], name
                )
    for name, flag in (("locked.zip", 1), ("odd.zip", 0)):
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("keypoints.npy", b"x" * 50)
            archive.writestr("../escape", b"x")
        blob = bytearray(Path(name).read_bytes())
        for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            blob[blob.index(mark) + place] |= flag
        blob[blob.index(b"PK\1\2") + 10] = 0 if flag else 99  # a way of packing that does not exist
        Path(name).write_bytes(bytes(blob))
    Path("cut.zip").write_bytes(Path("locked.zip").read_bytes()[:60])
    shutil.copy("a.db", "view.db")
    connection = sqlite3.connect("view.db")
    connection.executescript("ALTER TABLE images RENAME TO old; CREATE VIEW images AS SELECT * FROM old")
    connection.close()
    Path("cut.db").write_bytes(Path("a.db").read_bytes()[:9000])
    Path("text.db").write_text("no database")
    import pycolmap

    model = pycolmap.synthesize_dataset(pycolmap.SyntheticDatasetOptions())
    Path("model/images").mkdir(parents=True)
    model.write("model")
    pycolmap.synthesize_images(pycolmap.SyntheticImageOptions(), model, "model/images")
    import h5py

    with h5py.File("links.h5", "w") as file:
        for name in ("i_a/1.png", "v_a/1.png"):
            file[f"{name}/keypoints"] = h5py.ExternalLink("features.h5", "/0.png/keypoints")
            file[f"{name}/descriptors"] = np.eye(3)
    Path("cut.h5").write_bytes(Path("features.h5").read_bytes()[:3000])


def run_lines(
    count: int, seed: int, folder: Path, seconds: float, workers: int, first: int = 0
) -> list[Outcome]:
    """Run the lines of a seed, each the same whatever their number; several at a time."""
    results = []
    readers = []
    for worker in range(workers):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            with os.fdopen(writer, "w") as out:
                for number in range(first + worker, first + count, workers):
                    line = random_line(random.Random(f"{seed} {number}"))
                    if line[0] == "app":  # which works until it is told to end
                        continue
                    outcome = run_line(line, folder, seconds)
                    out.write(json.dumps([number, *outcome]) + "\n")
                    out.flush()
                    if outcome.kind != "ended":
                        print(f"--- {number} {outcome.kind} {outcome.code} {outcome.line}")
                        print("\n".join(outcome.text.splitlines()[-12:]), flush=True)
            os._exit(0)
        os.close(writer)
        readers.append(os.fdopen(reader))
    for stream in readers:
        results += [json.loads(text) for text in stream]
        os.wait()
    return [Outcome(*fields) for _, *fields in sorted(results)]


def prepare() -> None:
    """One thread of each library, so that forks of this process work, and what commands import, since forks
    read no other files."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    import colorsys
    import encodings.unicode_escape
    import http.cookies
    import xml.etree.ElementTree

    import diffusers.models.unets.unet_2d
    import h5py
    import jinja2
    import matplotlib.backends.backend_pdf
    import matplotlib.backends.backend_svg
    import matplotlib.pyplot
    import pycolmap
    import rasterio
    import scipy.optimize
    import transformers

    from geomatch.drawing.canvas import FORMATS, Picture, Words

    with tempfile.TemporaryDirectory() as name:  # fonts are read once
        for suffix in FORMATS:
            Picture((9, 9), marks=(Words("a", (0, 0)),)).write(Path(name) / f"a.{suffix}")
    from geomatch.benchmarks.harness.task import FOLDERS as TASKS
    from geomatch.benchmarks.harness.task import find_task

    for name in TASKS:
        find_task(name)
    del (
        colorsys,
        encodings,
        diffusers,
        h5py,
        http,
        jinja2,
        matplotlib,
        pycolmap,
        rasterio,
        scipy,
        transformers,
        xml,
    )


def study() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "folder"
        back = os.getcwd()
        make_folder(folder)
        os.chdir(back)
        outcomes = run_lines(given.count, given.seed, folder, given.seconds, given.workers, given.first)
    kinds = Counter(outcome.kind for outcome in outcomes)
    print(kinds, Counter(outcome.code for outcome in outcomes))
    sys.exit(not set(kinds) <= {"ended", "time"})


if __name__ == "__main__":
    study()
