"""Semantic correspondence: PCK, runs, prompts, searches and records on data of known motion."""

import json
import shutil
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from correspondence_data import make_semantic

import geomatch
from geomatch import DIFTExtractor
from geomatch.benchmarks.harness.report import write_report
from geomatch.benchmarks.harness.run import Methods, RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Settings, find_task
from geomatch.benchmarks.tasks.semantic.task import TASKS, counts, pack_map, pck, protocols_of, unpack_map
from geomatch.cli import main
from geomatch.dift import PRESETS, DIFTConfig, FeatureMap
from geomatch.engine import LocalEngine, RunContext
from geomatch.images import Image
from geomatch.types import Features, Traits

SCHEMA = json.loads(files("geomatch.benchmarks.harness").joinpath("record.schema.json").read_text())
TINY = "dift-tiny-dense"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, photo0: Image) -> Path:
    return make_semantic(tmp_path_factory.mktemp("semantic"), photo0.pixels)


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "data"))


def run(
    data: Path, out: Path, dataset: str, names: str | None = None, methods: Methods = (TINY,),
    settings: Settings | None = None, engine: LocalEngine | None = None,
) -> RunResult:  # fmt: skip
    context = RunContext(engine=engine or LocalEngine(1), device="cpu", progress=False)
    return run_benchmark(dataset, data / dataset, names or dataset, methods, out, context, settings)


@pytest.fixture(scope="module")
def spair(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(pristine, tmp_path_factory.mktemp("runs"), "spair", "all")


def test_pck_by_hand() -> None:
    protocol = protocols_of("spair")["spair"]
    rows: list[dict[str, Any]] = [
        {"split": "cat", "errors": [0.0, 0.1, 0.100001, 0.04], "reason": None},
        {"split": "cat", "errors": [0.2], "reason": None},
        {"split": "dog", "errors": [9.0, 9.0], "reason": "it failed"},
    ]
    assert pck(counts(rows, 0.1)) == pytest.approx(100 * 3 / 7)
    assert pck(counts(rows, 0.1), per_image=True) == pytest.approx(100 * (3 / 4 + 0 + 0) / 3)
    found = {row["split"]: row for row in TASKS["spair"].summarise(protocol, rows)}
    assert list(found) == ["cat", "dog", "all"]
    assert (found["cat"]["PCK@0.1"], found["cat"]["PCK@0.05"]) == (60, 40)
    assert [found[split]["failures"] for split in found] == [0, 1, 1]
    # what reports compare is the same measure, for any choice of pairs
    task = find_task("spair")
    for headline in ("PCK@0.1", "PCK@0.05 per image"):
        other = replace(protocol, headline=headline)
        assert task.statistic(other, task.values(other, rows)) == pytest.approx(found["all"][headline])
    x, y = task.curve(protocol, rows)
    assert y[np.searchsorted(x, 0.1)] == pytest.approx(100 * 3 / 7)
    assert y[-1] == pytest.approx(100 * 5 / 7)


def test_an_image_against_itself_is_100(spair: RunResult, pristine: Path, tmp_path: Path) -> None:
    """The second image of every data set is the first again: all points, whatever alpha."""
    willow, cub = (run(pristine, tmp_path / "out", name) for name in ("willow", "cub"))
    for result, still in ((spair, "2008_0-2008_1"), (willow, "060_0000-060_0001"), (cub, "1-2")):
        own = [row for row in result.record["rows"] if row["pair"].endswith(" " + still)]
        assert own
        for row in own:
            if row["protocol"].endswith("-soft"):
                assert max(row["errors"]) < 0.1, row  # it is pulled towards the middle of its window
            else:
                assert max(row["errors"]) <= 1 / 90, row  # a pixel of the box or of half of one


def test_a_known_motion_is_followed(spair: RunResult) -> None:
    by_pair = {(row["protocol"], row["pair"]): row["errors"] for row in spair.record["rows"]}
    for category in ("cat", "dog"):
        box, image = (np.array(by_pair[p, f"{category} 2008_0-2008_2"]) for p in ("spair", "spair-image"))
        assert (box < 0.05).mean() >= 0.8
        np.testing.assert_allclose(box * 100, image * 160, atol=1e-5)  # box of 100, image of 160 pixels


def test_the_second_run_computes_nothing_and_maps_are_cached_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(data, tmp_path / "out", "spair")
    assert first.computed == 2
    maps = list((tmp_path / "out" / "maps").rglob("*.npz"))
    assert len(maps) == 2  # the two first images are one, and the model takes no text
    second = run(data, tmp_path / "out", "spair")
    assert (second.computed, second.record) == (0, first.record)
    # other protocols need no network, nor do broken rows
    monkeypatch.setattr("geomatch.dift.extractor.mean_activations", lambda *_: pytest.fail("maps are cached"))
    assert run(data, tmp_path / "out", "spair", "all").computed == 4
    for path in (tmp_path / "out" / "rows").rglob("*.npz"):
        path.write_bytes(b"half")
    assert run(data, tmp_path / "out", "spair").record["rows"] == first.record["rows"]
    monkeypatch.undo()
    for path in maps:
        path.write_bytes(b"half")
    shutil.rmtree(tmp_path / "out" / "rows")
    assert run(data, tmp_path / "out", "spair").record["rows"] == first.record["rows"]


def test_an_accelerator_is_asked_for(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(data, tmp_path / "a", "spair")
    monkeypatch.setattr(LocalEngine, "device", lambda self, name: "cpu:0")
    stages: list[str] = []
    original = LocalEngine.map

    def heard(self: LocalEngine, task: Any, blocks: Any) -> Any:
        stages.append(task.need)
        return original(self, task, blocks)

    monkeypatch.setattr(LocalEngine, "map", heard)
    assert run(data, tmp_path / "b", "spair").record["rows"] == plain.record["rows"]
    assert stages == ["large network"]


def test_cached_maps_are_exact() -> None:
    found = FeatureMap((torch.rand(8, 5, 7), torch.rand(4, 10, 14)), (160, 120))
    back = unpack_map(pack_map(found), "map")
    assert back.image_size == found.image_size
    for one, other in zip(found.maps, back.maps, strict=True):
        assert np.array_equal(one.numpy(), other.numpy())
    with pytest.raises(geomatch.GeomatchError, match="map: "):
        unpack_map(pack_map(found)[:-100], "map")


def test_missing_and_damaged_images_are_counted(data: Path, tmp_path: Path) -> None:
    (data / "spair" / "JPEGImages" / "cat" / "2008_1.png").unlink()
    (data / "spair" / "JPEGImages" / "dog" / "2008_2.png").write_bytes(b"no picture")
    result = run(data, tmp_path / "out", "spair")
    missing, *unreadable = result.record["skipped"].items()
    assert missing == ("JPEGImages/cat/2008_1.png", "no such image")
    assert len({name.partition(" on ")[0] for name, _ in unreadable}) * 2 == len(unreadable)
    rows = {row["pair"]: row for row in result.record["rows"]}
    assert "no such file" in rows["cat 2008_0-2008_1"]["reason"]
    assert "not an image" in rows["dog 2008_0-2008_2"]["reason"]
    assert "errors" not in rows["cat 2008_0-2008_1"]
    assert rows["cat 2008_0-2008_2"]["reason"] is None
    assert [row["failures"] for row in result.summaries()] == [0, 0, 0]  # they count for nobody
    assert not result.record["data"]["complete"]


def test_a_prompt_per_category(
    small_sd: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    config = DIFTConfig(str(small_sd), timestep=261, layers=(1,), image_size=(64, 64), device="cpu")
    plain = DIFTExtractor(config)
    image = geomatch.load_image(data / "spair" / "JPEGImages" / "cat" / "2008_0.png")
    shared, whole = plain.at_prompt("a photo of a cat"), replace(config, prompt="a photo of a cat")
    assert shared.model.network is plain.model.network
    assert shared.config == whole
    cat = shared.dense(image).maps[0]
    assert np.array_equal(cat, DIFTExtractor(whole).dense(image).maps[0])
    assert not np.allclose(cat, plain.dense(image).maps[0])
    assert DIFTExtractor(PRESETS[TINY]).at_prompt("any").dense(image) is not None  # takes no text

    asked: list[str] = []
    original = DIFTExtractor.at_prompt

    def heard(self: DIFTExtractor, prompt: str) -> DIFTExtractor:
        asked.append(prompt)
        return original(self, prompt)

    monkeypatch.setattr(DIFTExtractor, "at_prompt", heard)
    run(data, tmp_path / "out", "spair", methods=[str(small_sd)])
    assert asked == ["a photo of a cat", "a photo of a dog"]
    assert len(list((tmp_path / "out" / "maps").rglob("*.npz"))) == 4  # two images, with two prompts


def test_the_baselines_run_beside_dift(data: Path, tmp_path: Path) -> None:
    """DINO, DINOv2 and CLIP of random weights: an image against itself is found whatever they learned."""
    transformers: Any = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
             "patch_size": 32, "image_size": 224}  # fmt: skip
    torch.manual_seed(0)
    for name, kind in (("dino", "ViT"), ("dinov2", "Dinov2"), ("clip", "CLIPVision")):
        config = getattr(transformers, f"{kind}Config")(**sizes)
        options = {"add_pooling_layer": False} if name == "dino" else {}
        getattr(transformers, f"{kind}Model")(config, **options).save_pretrained(tmp_path / name)
    methods = [TINY, *(f"{name}:{tmp_path / name}" for name in ("dino", "dinov2", "clip"))]
    result = run(data, tmp_path / "out", "willow", methods=methods)
    assert list(result.record["methods"]) == [TINY, "dino:dino", "dinov2:dinov2", "clip:clip"]
    still = [row for row in result.record["rows"] if row["pair"].endswith("060_0000-060_0001")]
    assert [row["method"] for row in still] == list(result.record["methods"])
    for row in still:
        assert max(row["errors"]) <= 1 / 90


@dataclass(frozen=True)
class Colours:
    """A user's own dense describer: the colours of the image, reduced."""

    cells: int = 20
    traits = Traits(dense=True)

    def dense_many(self, images: list[Image]) -> list[FeatureMap]:
        """Maps of (3, h, w)."""
        grids = [torch.tensor(image.pixels).permute(2, 0, 1)[None].float() for image in images]
        size = (self.cells * 3 // 4, self.cells)
        small = [torch.nn.functional.adaptive_avg_pool2d(grid, size)[0] - 128 for grid in grids]
        return [FeatureMap((one,), image.size) for one, image in zip(small, images, strict=True)]

    def describe(self, image: Image, features: Features) -> Features:
        """Not asked for here."""
        raise NotImplementedError


class Accelerated(LocalEngine):
    """Says that its networks run on CUDA."""

    def device(self, name: str) -> str:
        return "cuda"


def test_maps_come_first_on_an_accelerator(data: Path, tmp_path: Path) -> None:
    """The same records and maps; an image that is missing is counted as without."""
    next((data / "spair" / "JPEGImages" / "cat").iterdir()).unlink()
    found = []
    for name, engine in (("plain", LocalEngine(1)), ("ahead", Accelerated(1))):
        methods: Methods = {"colours": Colours()}
        record = run(data, tmp_path / name, "spair", None, methods, engine=engine).record
        maps = {path.name: path.read_bytes() for path in (tmp_path / name / "maps").rglob("*.npz")}
        found.append((record["rows"], record["skipped"], maps))
    assert len(found[0][2]) > 1
    assert found[0][1]
    assert found[0] == found[1]


def test_a_users_dense_describer(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "out", "spair", methods={"colours": Colours(), "tiny": TINY})
    assert list(result.record["methods"]) == ["colours", "tiny"]
    assert run(data, tmp_path / "out", "spair", methods={"other name": Colours()}).computed == 0
    assert run(data, tmp_path / "out", "spair", methods={"colours": Colours(8)}).computed == 2
    with pytest.raises(ValueError, match="mine: spair needs a string, or a describer of whole images"):
        run(data, tmp_path / "out", "spair", methods={"mine": object()})  # type: ignore[dict-item]


def test_records_and_reports(spair: RunResult, tmp_path: Path) -> None:
    jsonschema.validate(json.loads(spair.path.read_text()), SCHEMA)
    wrong = json.loads(spair.path.read_text())
    wrong["rows"][0]["errors"] = ["far"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)
    pytest.importorskip("matplotlib")
    page, *_ = write_report([spair.path], tmp_path / "report")
    text = page.read_text()
    assert "SPair-71k" in text
    assert text.count("<svg") == 3  # a curve per protocol
    assert "2 of 18 categories" in text
    assert "59.57" in text  # published, with its source
    assert "CleanDIFT" in text


def test_the_commands(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    command = ["benchmark", "willow", str(data / "willow"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--protocol", "willow,willow-soft"]) == 0
    printed = capsys.readouterr()
    assert main([*command, "--prompt", "a {category}"]) == 0
    assert "### willow:a {category}" in capsys.readouterr().out
    report = ["benchmark", "report", str(tmp_path / "out"), "--out", str(tmp_path / "report")]
    assert main(report) == 0  # both texts in one folder
    assert "report.html" in capsys.readouterr().out
    assert "### willow-soft" in printed.out
    assert "not the whole of PF-WILLOW (1 of 10 classes)" in printed.err
    for option, value, words in (
        ("--protocol", "spair", "unknown protocol 'spair'; choose from: willow"),
        ("--method", "dift-tiny", "works in patches"),
        ("--method", "sift", "unknown descriptor 'sift'"),
        ("--method", "dinov2:nowhere/x", "nothing can run"),
    ):
        assert main([*command, option, value]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    search = ["benchmark", "cub", str(data / "cub"), "--method", f"{TINY}[head=false,t={{20,40}},layer=0]"]
    assert main([*search, "--workers", "1", "--out", str(tmp_path / "search")]) == 0
    out = capsys.readouterr().out
    assert all(f"{TINY}[head=false,t={t},layer=0] | all | 6 |" in out for t in (20, 40))
