"""Methods by their strings, with random weights where the real ones are not here."""

import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

import geomatch
from geomatch.benchmarks.harness.report import write_report
from geomatch.benchmarks.harness.run import RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Settings
from geomatch.benchmarks.methods import create_dense_method, create_method
from geomatch.benchmarks.methods.backbones import TransformersFeatures
from geomatch.benchmarks.methods.baselines import WEIGHTS, KorniaFeatures, OpenCVFeatures
from geomatch.benchmarks.methods.feature_files import FeatureFiles
from geomatch.benchmarks.methods.matchers import TRAINED_FOR, LightGlueMatcher, LoFTRMatcher
from geomatch.benchmarks.methods.strings import split_methods
from geomatch.benchmarks.studies.embedded import RootSIFT
from geomatch.benchmarks.tasks.homography.data import make_synthetic
from geomatch.benchmarks.tasks.homography.sequences import read_hpatches
from geomatch.cli import main
from geomatch.colmap import read_correspondences
from geomatch.dift import PRESETS
from geomatch.engine import LocalEngine, RunContext
from geomatch.images import Image
from geomatch.keypoints import GridDetector
from geomatch.types import Features

PAIR = geomatch.bundled_pair()


@pytest.fixture(scope="module")
def small() -> Image:
    whole = geomatch.load_image(PAIR.image0).pixels
    return Image(np.ascontiguousarray(whole[100:228, 200:360]), "part")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, small: Image) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    PILImage.fromarray(geomatch.load_image(PAIR.image0).pixels).resize((240, 180)).save(folder / "p.png")
    make_synthetic([folder / "p.png"], folder / "data", seed=1)
    return folder / "data"


MOOT = {"method": "", "seconds": {}}


def run(data: Path, out: Path, names: str, methods: list[str], keypoints: int = 100) -> RunResult:
    context = RunContext(engine=LocalEngine(1), device="cpu", progress=False)
    return run_benchmark("hpatches", data, names, methods, out, context, Settings(keypoints))


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize("name", ["disk", pytest.param("dedode", marks=pytest.mark.slow)])
def test_kornia_features_with_random_weights(name: Any, small: Image, tmp_path: Path) -> None:
    from kornia import feature

    if name == "disk":
        states = [{"extractor": seeded(feature.DISK).state_dict()}]
    else:
        network = seeded(partial(feature.DeDoDe, "L", "B", amp_dtype=torch.float32))
        states = [network.detector.state_dict(), network.descriptor.state_dict()]
    for file, state in zip(WEIGHTS[name], states, strict=True):
        torch.save(state, tmp_path / file.file_name)
    weights = str(tmp_path / WEIGHTS[name][0].file_name if name == "disk" else tmp_path)
    method = create_method(f"{name}:{weights}", 50)
    found = method.extract(small)
    assert 0 < len(found) <= 50
    assert found.descriptors is not None
    assert found.descriptors.shape == (len(found), 128 if name == "disk" else 256)
    # pixel centres are whole numbers: of DeDoDe the corner pixel would come as 0.5
    assert np.allclose(found.keypoints, np.round(found.keypoints), atol=1e-4)
    assert (np.diff(found.scores) <= 0).all()
    again = method.extract(small)
    assert np.array_equal(again.descriptors, found.descriptors)
    key = method.key()["source"]
    assert len(key["key"]["items"][1]["items"]) == len(states)  # the checksum of every file
    (tmp_path / WEIGHTS[name][-1].file_name).write_bytes(b"nothing")
    with pytest.raises(geomatch.WeightsError, match=f"does not hold weights of {name}"):
        KorniaFeatures(name, 50, weights).detect(small)


def test_superpoint_by_string(small: Image, tmp_path: Path) -> None:
    network = seeded(geomatch.keypoints.superpoint.SuperPointNetwork)
    torch.save(network.state_dict(), tmp_path / "sp.pth")
    method = create_method(f"superpoint:{tmp_path / 'sp.pth'}", 30)
    found = method.extract(small)
    assert found.descriptors is None or found.descriptors.shape[1] == 256
    assert str(tmp_path) not in str(method.key())  # weights count by their content


@pytest.mark.parametrize("name", ["aliked", "rootsift", "xfeat"])
def test_lightglue_reads_published_names_and_is_symmetric(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    from kornia import feature

    settings = {**feature.LightGlue.features[TRAINED_FOR[name]], "weights": None}
    network = seeded(lambda: feature.LightGlue(features=None, **settings))
    state = {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        if name != "xfeat" and parts[0] == "transformers":  # as the authors' files have it
            parts[:3] = [parts[2], parts[1]]
        state[("matcher." if name == "xfeat" else "") + ".".join(parts)] = value
    unread = {
        "xfeat": "extractor.model.net.skip1.1.weight",
        "aliked": "log_assignment.0.r",
    }  # in files as well
    state |= {unread[name]: torch.ones(1)} if name in unread else {}
    torch.save(state, tmp_path / "lg.pth")
    matcher = LightGlueMatcher(name, str(tmp_path / "lg.pth"))
    loaded = matcher.network.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())
    matcher.network.conf.filter_threshold = 0.0
    dimension = settings["input_dim"]

    def features(count: int) -> Features:
        rows = rng.normal(size=(count, dimension)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        points = rng.uniform(0, 99, (count, 2))
        return Features(points, np.ones(count), (100, 120), np.full(count, 4), rng.uniform(0, 6, count), rows)

    first, second = features(20), features(25)
    found = matcher.match(first, second)
    assert len(found)
    assert (np.diff(found.similarity) <= 0).all()
    order = rng.permutation(20)
    again = matcher.match(first[order], second)
    assert {(order[i], j) for i, j in again.indices} == {tuple(pair) for pair in found.indices}
    assert len(matcher.match(first[:0], second)) == 0
    # kornia refuses points beyond the edge, where resizing may move those on the border
    beyond = replace(first, keypoints=first.keypoints + np.float32([[0, 0]] * 18 + [[-99, -99], [199, 299]]))
    edge = replace(beyond, keypoints=np.clip(beyond.keypoints, 0, [100, 120]))
    assert matcher.match(beyond, second) == matcher.match(edge, second)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(geomatch.WeightsError, match="does not hold weights of LightGlue"):
        LightGlueMatcher(name, str(tmp_path / "other.pth")).match(first, second)


@pytest.fixture(scope="module")
def loftr_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from kornia import feature

    path = tmp_path_factory.mktemp("loftr") / "loftr.ckpt"
    torch.save({"state_dict": seeded(lambda: feature.LoFTR(pretrained=None)).state_dict()}, path)
    return path


def test_loftr_matches_images_at_pixel_centres(loftr_file: Path, small: Image) -> None:
    matcher = LoFTRMatcher(str(loftr_file), max_matches=40)
    matcher.network.coarse_matching.thr = 0.0
    first, second = matcher.match_images(small, small)
    assert 0 < len(first) == len(second) <= 40
    assert (np.diff(first.scores) <= 0).all()
    # its coarse cells lie on every eighth pixel of a frame whose pixel centres are at halves
    assert np.array_equal((first.keypoints + 0.5) % 8, np.zeros_like(first.keypoints))


@pytest.mark.slow
def test_loftr_in_the_harness(loftr_file: Path, data: Path, tmp_path: Path) -> None:
    text = f"loftr:{loftr_file}"
    result = run(data, tmp_path / "out", "mma,superpoint", [text])
    skipped = {"loftr:loftr.ckpt under superpoint": "it has no keypoints that could repeat"}
    assert result.record["skipped"] == skipped
    assert {row["protocol"] for row in result.record["rows"]} == {"mma"}
    again = run(data, tmp_path / "out", "mma,superpoint", [text])
    assert again.computed == 0
    assert again.record["rows"] == result.record["rows"]


@pytest.mark.parametrize(("name", "kind"), [("dino", "ViT"), ("dinov2", "Dinov2"), ("clip", "CLIPVision")])
def test_backbones_describe_where_the_image_says(name: Any, kind: str, small: Image, tmp_path: Path) -> None:
    import transformers

    config, model = (getattr(transformers, f"{kind}{part}") for part in ("Config", "Model"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    made = config(**sizes, patch_size=8, image_size=64)
    options = {"add_pooling_layer": False} if name == "dino" else {}
    seeded(lambda: model(made, **options)).save_pretrained(tmp_path / name)
    backbone = TransformersFeatures(name, str(tmp_path / name), (96, 96))
    grid = GridDetector(step=16).detect(small)
    found = backbone.describe(small, grid)
    assert found.descriptors is not None
    assert found.descriptors.shape == (len(grid), 32)
    assert np.allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    # a change at the right edge changes descriptors there most
    pixels = small.pixels.copy()
    pixels[:, -24:] = 0
    other = backbone.describe(Image(pixels, "changed"), grid).descriptors
    assert other is not None
    change = np.linalg.norm(other - found.descriptors, axis=1)
    right = grid.keypoints[:, 0] > 130
    assert change[right].mean() > 2 * change[grid.keypoints[:, 0] < 100].mean()
    method = create_method(f"sift+{name}:{tmp_path / name}", 20)
    assert str(tmp_path) not in str(method.key())
    assert len(method.extract(small)) == 20
    (tmp_path / "empty").mkdir()
    with pytest.raises(geomatch.WeightsError, match=r"config\.json is missing"):
        create_method(f"sift+{name}:{tmp_path / 'empty'}", 20).key()


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_features_from_files_score_as_the_program_that_wrote_them(
    kind: str, data: Path, tmp_path: Path
) -> None:
    method = create_method("rootsift", 150)
    root = tmp_path / ("features.h5" if kind == "h5" else "files")
    for path in data.glob("*/*.png"):
        found = method.extract(geomatch.load_image(path))
        order = np.random.default_rng(0).permutation(len(found))  # scores say which are best
        arrays = {"keypoints": found.keypoints, "scores": found.scores, "descriptors": found.descriptors}
        arrays = {name: np.asarray(array)[order] for name, array in arrays.items()}
        if kind == "h5":
            with h5py.File(root, "a") as file:
                group = file.create_group(f"{path.parent.name}/{path.name}")
                for name, array in arrays.items():
                    group[name] = array.T if name == "descriptors" else array
        else:
            (root / path.parent.name).mkdir(parents=True, exist_ok=True)
            with (root / path.parent.name / f"{path.name}.mine").open("wb") as stream:
                np.savez(stream, **arrays)
    text = f"npz:{root}:mine" if kind == "npz" else f"h5:{root}"
    names = "mma,sweep,auc480,superpoint" if kind == "npz" else "mma,sweep"
    result = run(data, tmp_path / "out", names, [text, "rootsift"], 150)
    rows = {(r["method"], r["protocol"], r["pair"]): r for r in result.record["rows"]}
    for (name, protocol, pair), row in rows.items():
        if name == text and protocol in ("mma", "sweep"):
            assert {**row, **MOOT} == {**rows["rootsift", protocol, pair], **MOOT}
    for name, protocol, pair in rows:
        if protocol in ("auc480", "superpoint") and pair == "i_p 1-2":  # moved to the frame, not found there
            assert rows[name, protocol, pair]["errors_px"][0] < 3
    with pytest.raises(geomatch.GeomatchError, match=r"no files of features|no such file"):
        create_method(f"{kind}:{tmp_path}/none{':x' if kind == 'npz' else ''}").key()
    with pytest.raises(geomatch.errors.FeaturesError):
        FeatureFiles(kind, str(root), "mine").read(Path("v_other/1.png"), (10, 10))  # type: ignore[arg-type]


def test_broken_files_of_features_fail_their_pairs_only_and_are_named(
    data: Path, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "files"
    for sequence in read_hpatches(data).units:
        (root / sequence.name).mkdir(parents=True)
        for number in (1, 2, 3, 4, 5):
            points, rows = rng.uniform(5, 90, (30, 2)), np.eye(30)
            with (root / sequence.name / f"{number}.png.mine").open("wb") as stream:
                np.savez(stream, keypoints=points, descriptors=rows)
    (root / "v_p" / "5.png.mine").write_bytes(b"PK broken")
    text = f"npz:{root}:mine"
    result = run(data, tmp_path / "out", "mma", [text], 300)
    reasons = {row["pair"]: row["reason"] for row in result.record["rows"]}
    assert "6.png.mine" in reasons["v_p 1-6"]
    assert [reasons[f"v_p 1-{k}"] for k in (2, 3, 4)] == [None] * 3
    # each is named and counted, and the command ends with 1
    skipped = result.record["skipped"]
    assert {name: "5.png.mine" in reason for name, reason in skipped.items() if "v_p" in name} == {
        "npz:files:mine on v_p 1-5": True, "npz:files:mine on v_p 1-6": False,
    }  # fmt: skip
    arguments = ["--out", str(tmp_path / "out"), "--method", text, "--protocol", "mma", "--workers", "1"]
    assert main(["benchmark", "hpatches", str(data), *arguments]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    assert len(lines) == len(skipped)
    named = f"skipped     npz:files:mine on v_p 1-5: {root}/v_p/5.png.mine: not a readable .npz file"
    assert named in "".join(lines)
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    (text, *_) = (path.read_text() for path in write_report([result.path], tmp_path / "report"))
    assert text.count("not a readable .npz file") == 2  # reasons, of which one has two pairs


def _bomb(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, keypoints=np.zeros((50_000, 2), np.float32))
    assert path.stat().st_size < 2000


def _claims_much(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824, 128)}".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("keypoints.npy", b"\x93NUMPY\x01\x00v\x00" + header)


def _encrypted(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), keypoints=np.ones((3, 2)), descriptors=np.eye(3))
    data = bytearray(path.with_suffix(".npz").read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + place] |= 1
    path.write_bytes(bytes(data))


def _pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, keypoints=np.array([{}], object), descriptors=np.eye(3))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (_bomb, "would unpack to"), (_claims_much, "another number of bytes"), (_encrypted, "encrypted"),
        (_pickled, "another number of bytes"), (Path.touch, "not a zip file"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.write_bytes(b"PK\3\4" + bytes(90)), "not a zip file"),
    ],
)  # fmt: skip
def test_hostile_archives_are_refused_before_they_are_unpacked(
    write: Callable[[Path], object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geomatch.files.MAX_UNPACKED", 100_000)
    (tmp_path / "v").mkdir()
    write(tmp_path / "v" / "1.png.mine")
    with pytest.raises(geomatch.errors.FeaturesError, match=rf"1\.png\.mine: not a readable .*{says}"):
        FeatureFiles("npz", str(tmp_path), "mine").read(Path("v/1.png"), (100, 100))


def test_h5_files_are_not_read_beyond_themselves(tmp_path: Path) -> None:
    """External links, raw storage and virtual datasets would read any file of this machine."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.full((4, 2), 7, np.float32).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["keypoints"] = np.full((4, 2), 7, np.float32)
        file["group/keypoints"] = np.full((4, 2), 7, np.float32)
        file["group/descriptors"] = np.ones((8, 4), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("good", "link", "soft", "raw", "virtual", "huge"):
            file[f"v/{name}/descriptors"] = np.ones((8, 4), np.float32)
        file["v/good/keypoints"] = np.ones((4, 2), np.float32)
        file["v/link/keypoints"] = h5py.ExternalLink("other.h5", "keypoints")
        file["v/soft/keypoints"] = h5py.SoftLink("/v/link/keypoints")
        file["v/group"] = h5py.ExternalLink("other.h5", "group")
        file["v/raw"].create_dataset("keypoints", (4, 2), "f4", external=[(str(secret), 0, 32)])
        layout = h5py.VirtualLayout((4, 2), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "keypoints", (4, 2))
        file["v/virtual"].create_virtual_dataset("keypoints", layout)
        file["v/huge"].create_dataset("keypoints", (2**40, 2), "f4", chunks=(1024, 2))
    files = FeatureFiles("h5", str(tmp_path / "a.h5"))
    assert len(files.read(Path("v/good"), (10, 10))) == 4
    shutil.copy(tmp_path / "a.h5", tmp_path / "matches.h5")
    for name, says in {
        "link": "is a link", "soft": "is a link", "group": "is a link", "raw": "another file",
        "virtual": "another file", "huge": "more than", "none": "lacks 'none'",
    }.items():  # fmt: skip
        label = rf"a\.h5: v/{name}: not a readable"
        with pytest.raises(geomatch.errors.FeaturesError, match=rf"{label} .*{says}"):
            files.read(Path(f"v/{name}"), (10, 10))
    with pytest.raises(geomatch.errors.FeaturesError, match="is a link"):
        read_correspondences(tmp_path / "a.h5", tmp_path)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        for name in ("link", "soft", "huge"):
            del file["v"][name]
    features = read_correspondences(tmp_path / "a.h5", tmp_path).features
    assert "v/group" not in features
    for name in ("v/raw", "v/virtual"):
        with pytest.raises(geomatch.errors.FeaturesError, match="lies in another file"):
            features[name]


def test_extraction_ahead_of_the_evaluation_changes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does: features in batches, rows from the cache."""
    methods = ["sift+dift-tiny-dense[image_size=64]"]
    plain = run(data, tmp_path / "plain", "mma", methods)
    monkeypatch.setattr(LocalEngine, "device", lambda self, name: "cpu:0")
    ahead = run(data, tmp_path / "ahead", "mma", methods)
    assert ahead.computed == plain.computed > 0
    counts = [len(list((tmp_path / out / "views").rglob("*.npz"))) for out in ("ahead", "plain")]
    assert counts[0] == counts[1] > 0
    for one, other in zip(plain.record["rows"], ahead.record["rows"], strict=True):
        assert one["matches"] == pytest.approx(other["matches"], abs=3)


def test_strings_that_are_no_method() -> None:
    for text in ("", "surf", "sift+dift-tiny+dift-tiny", "sift+dift-tiny+lightglue", "orb+lightglue", "npz:"):
        with pytest.raises(ValueError, match=r"no method|LightGlue has weights for"):
            create_method(text)


def test_settings_in_strings() -> None:
    text = "orb,sift+dift-sd[t=0,layer=2],orb,mine=aliked:a/b.pth,aliked:a/b.pth,aliked:c/b.pth"
    assert split_methods(text) == {
        "orb": "orb", "sift+dift-sd[t=0,layer=2]": "sift+dift-sd[t=0,layer=2]", "mine": "aliked:a/b.pth",
        "aliked:b.pth": "aliked:a/b.pth", "aliked:c/b.pth": "aliked:c/b.pth",
    }  # fmt: skip
    with pytest.raises(ValueError, match="two methods are called 'mine': orb and sift"):
        split_methods("mine=orb,mine=sift")
    assert [*split_methods("sift+/models/my sd,xfeat:/my models/a.pt")] == ["sift+my sd", "xfeat:a.pt"]
    method = create_method("sift+dift-sd[t=5,layer=up_blocks.1|2,ensemble=3,image_size=640x480,seed=7]+lmeds")
    assert method.estimator == "lmeds"
    changed = replace(PRESETS["dift-sd"], timestep=5, layers=("up_blocks.1", 2), ensemble_size=3)
    assert method.dift == replace(changed, image_size=(640, 480), seed=7, device="cpu")
    for setting, name, value in (
        ("image_size=320", "image_size", 320), ("image_size=native", "image_size", None),
        ("noise=false,latent=mode,ensemble=1", "noise", False), ("dtype=bfloat16", "dtype", "bfloat16"),
        ("patch_scale=2.5", "patch_scale", 2.5), ("batch_size=3", "batch_size", 3),
        ("prompt=a+b", "prompt", "a+b"), ("head=some/folder", "head", "some/folder"),
    ):  # fmt: skip
        assert getattr(create_dense_method(f"dift-sd[{setting}]").dift, name) == value
    for given, words in (
        ("depth=1", "unknown setting 'depth=1'; give NAME=VALUE with one of: t, layer, ensemble, model"),
        ("t", "unknown setting 't'"),
        ("t=x", "t cannot be 'x'"),
        ("noise=maybe", "noise cannot be 'maybe'"),
        ("t=1000", "timestep must be a whole number in 0..999"),
        ("device=cuda", "unknown setting 'device=cuda'"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            create_dense_method(f"dift-sd[{given}]")


def test_rootsift_of_any_keypoints_is_that_of_its_own(photo0: Image) -> None:
    """The octave and layer that OpenCV's descriptors need come back from the size alone."""
    features = OpenCVFeatures("rootsift", 300).detect(photo0)
    again = RootSIFT().describe(photo0, replace(features, descriptors=None))
    assert again.descriptors is not None
    np.testing.assert_allclose(again.descriptors, features.descriptors, atol=1e-5)
