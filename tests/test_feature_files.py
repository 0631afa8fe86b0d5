"""Features that other programs have written: scored as their own, and hostile files refused."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_sequences import make_sequences, run

import geomatch
from geomatch.benchmarks.harness.report import write_report
from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.methods.features import FeatureFiles
from geomatch.benchmarks.tasks.homography.sequences import read_hpatches
from geomatch.cli import main
from geomatch.colmap import read_correspondences


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sequences(tmp_path_factory.mktemp("methods"), "p", (240, 180), seed=1)


MOOT = {"method": "", "seconds": {}}


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_features_from_files_score_as_the_program_that_wrote_them(
    kind: str, data: Path, tmp_path: Path
) -> None:
    method = create_method("rootsift", 150)
    root = tmp_path / ("features.h5" if kind == "h5" else "files")
    for path in data.glob("*/*.png"):
        image = geomatch.load_image(path)
        (found,) = method.describe([image], [method.detect(image)])
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
    result = run(data, tmp_path / "out", names, [text, "rootsift"], keypoints=150)
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
    result = run(data, tmp_path / "out", "mma", [text], keypoints=300)
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
