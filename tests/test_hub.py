"""Models from the hub: its cache, a hub on loopback, offline, removed ids."""

import hashlib
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geomatch import DIFTConfig, DIFTExtractor, WeightsError
from geomatch.dift.inventory import fetch_weights, inventory
from geomatch.dift.presets import PRESETS
from geomatch.images import Image
from geomatch.weights.hub import hub_folder
from geomatch.weights.models import CLEANDIFT, REMOVED, SD
from geomatch.weights.sources import model_folder, unet_file

WEIGHTS = "diffusion_pytorch_model.safetensors"
GATED = "somebody/gated"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNWANTED = dict.fromkeys(
    (
        "safety_checker/model.safetensors",
        f"unet/{WEIGHTS.replace('.', '.fp16.')}",
        "v2-1_768-ema-pruned.ckpt",
    ),
    False,
)


@pytest.fixture(scope="module")
def image() -> Image:
    return Image(np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8), "noise")


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of huggingface_hub."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def put_in_cache(cache: Path, repository: str, source: Path, files: list[str]) -> Path:
    """Files as huggingface_hub leaves them after a download."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    for name in files:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, snapshot / name)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(COMMIT)
    return snapshot


def files_of(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def config(folder: Path | str) -> DIFTConfig:
    return DIFTConfig(str(folder), timestep=0, layers=(2,), image_size=None, device="cpu")


def load(folder: Path | str) -> None:
    DIFTExtractor(config(folder)).load_networks()


def dense(folder: Path | str, image: Image, **changes: str) -> torch.Tensor:
    return DIFTExtractor(replace(config(folder), **changes)).dense(image).maps[0]


def test_hub_cache_is_used(hub_cache: Path, small_sd: Path, image: Image) -> None:
    """A download by another tool is found."""
    snapshot = put_in_cache(hub_cache, SD, small_sd, files_of(small_sd))
    expected = dense(small_sd, image)
    assert torch.equal(dense(SD, image), expected)
    assert torch.equal(dense(SD, image, revision=COMMIT), expected)
    with pytest.raises(WeightsError, match="at v9 is not in the cache"):
        dense(SD, image, revision="v9")
    (snapshot / "vae" / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=rf"vae/{WEIGHTS} is missing.*downloads are off"):
        load(SD)


def is_listed(name: str) -> bool:
    """True if the list of models says that the weights are there."""
    (entry,) = [entry for entry in inventory() if entry.startswith(f"{name}\n")]
    return entry.endswith("present     yes")


def test_a_cache_that_lacks_only_what_is_not_needed(hub_cache: Path, small_sd: Path, image: Image) -> None:
    """The hub's list of files is known, and some of them were never fetched; the text encoder is pickled."""
    trees = pytest.importorskip("huggingface_hub._tree_cache")
    transformers = pytest.importorskip("transformers")
    expected = dense(small_sd, image)
    source = Path(shutil.copytree(small_sd, hub_cache.parent / "source"))
    shutil.rmtree(source / "prompt_embeddings")
    encoder = transformers.CLIPTextModel.from_pretrained(source / "text_encoder")
    torch.save(encoder.state_dict(), source / "text_encoder" / "pytorch_model.bin")
    (source / "text_encoder" / "model.safetensors").unlink()
    snapshot = put_in_cache(hub_cache, SD, source, files_of(source))
    entry = trees.TreeCacheEntry(size=1, blob_id="0" * 40, lfs_sha256=None, lfs_size=None, xet_hash=None)
    listed = [*files_of(source), "safety_checker/config.json", "scheduler/notes.json", "tokenizer/extra.json"]
    trees.write_tree_cache(str(snapshot.parents[1]), COMMIT, dict.fromkeys(listed, entry))
    assert is_listed(SD)
    torch.testing.assert_close(dense(SD, image), expected)


def test_preset_from_the_cache(hub_cache: Path, small_sd: Path) -> None:
    put_in_cache(hub_cache, SD, small_sd, [name for name in files_of(small_sd) if name != f"unet/{WEIGHTS}"])
    repository, file = CLEANDIFT.rsplit("/", 1)
    shutil.copy(small_sd / "unet" / WEIGHTS, small_sd.parent / file)
    put_in_cache(hub_cache, repository, small_sd.parent, [file])
    assert DIFTExtractor(PRESETS["cleandift"]).model.text
    with pytest.raises(WeightsError, match="is not in the cache"):
        _ = DIFTExtractor(PRESETS["dift-sd"]).model


def test_without_a_network(
    hub_cache: Path, small_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dead, successor in REMOVED.items():
        with pytest.raises(WeightsError, match=rf"the hub removed {dead}: use {successor}, or the folder"):
            load(dead)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("GEOMATCH_OFFLINE", "1")
    with pytest.raises(
        WeightsError, match=rf"{SD} .* downloads are off; `geomatch models fetch dift-sd` .*--model FOLDER"
    ):
        load(SD)
    with pytest.raises(ValueError, match="unknown model 'sd'; choose one of: superpoint, dift-tiny"):
        fetch_weights("sd")
    shutil.copytree(small_sd, tmp_path / SD)
    monkeypatch.chdir(tmp_path)
    assert model_folder(SD) == Path(SD)  # a local folder comes first


class _Hub(http.server.SimpleHTTPRequestHandler):
    """The two answers of a hub that snapshot_download needs: the list of files, and the files."""

    requests: list[str] = []  # noqa: RUF012 (shared on purpose)

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, body = self.path.split("?")[0], self.command == "GET"
        if body:
            _Hub.requests.append(path)
        root = Path(self.directory)
        if path.startswith(f"/api/models/{SD}/revision/"):
            files = [{"rfilename": name} for name in files_of(root)]
            self._send(json.dumps({"id": SD, "sha": COMMIT, "siblings": files}).encode(), body)
        elif path.startswith(f"/api/models/{SD}/tree/"):
            sizes = {name: (root / name).stat().st_size for name in files_of(root)}
            entries = [{"type": "file", "path": n, "size": s, "oid": "0" * 40} for n, s in sizes.items()]
            self._send(json.dumps(entries).encode(), body)
        elif path.startswith(f"/{SD}/resolve/"):
            name = path.split("/resolve/")[1].split("/", 1)[1]
            content = (root / name).read_bytes()
            self._send(content, body, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'})
        elif GATED in path:
            self._send(b"", body, {"X-Error-Code": "GatedRepo"}, 403)
        else:
            self._send(b"", body, {"X-Error-Code": "RepoNotFound"}, 404)

    def _send(self, content: bytes, body: bool, headers: Mapping[str, str] = {}, code: int = 200) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": len(content), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(small_sd: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on loopback with the small pipeline and things nobody needs; yields the paths asked for."""
    root = Path(shutil.copytree(small_sd, hub_cache.parent / "served"))
    shutil.rmtree(root / "prompt_embeddings", ignore_errors=True)
    (root / "safety_checker").mkdir()
    for name in UNWANTED:
        (root / name).write_bytes(b"not wanted")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        constants = {"HF_HUB_OFFLINE": False, "ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": template}
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        for name, value in constants.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        _Hub.requests.clear()
        yield _Hub.requests
        server.shutdown()
        thread.join()


def test_fetch_from_a_hub(hub: list[str], image: Image, small_sd: Path) -> None:
    pytest.importorskip("transformers")
    assert not is_listed(SD)
    (folder,) = fetch_weights("dift-sd-fast")
    got = "\n".join(hub)
    for name, wanted in {f"unet/{WEIGHTS}": 1, "text_encoder/model.safetensors": 1, **UNWANTED}.items():
        assert (name in got) == wanted
    assert is_listed(SD)
    hub.clear()
    assert torch.equal(dense(SD, image), dense(small_sd, image))
    assert fetch_weights("dift-sd") == [folder]
    assert hub == []  # nothing is asked twice
    for name, words in ((f"unet/{WEIGHTS}", "damaged"), ("vae/config.json", "no readable|damaged")):
        path = folder / name
        blob, content = path.resolve(), bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name}: ({words}) .*{blob.name}"):
            load(SD)
        blob.unlink()
        fetch_weights("dift-sd")  # again
    assert torch.equal(dense(SD, image), dense(small_sd, image))


def test_a_hub_that_lacks_something_or_cannot_be_reached(
    hub: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        WeightsError, match="nobody/nothing: the hub has no such model; `geomatch models fetch"
    ):
        load("nobody/nothing")
    with pytest.raises(WeightsError, match="the hub removed runwayml/stable-diffusion-v1-5"):
        load("runwayml/stable-diffusion-v1-5")
    with pytest.raises(WeightsError, match=r"neither the hub .* has all files: gone.safetensors is missing"):
        unet_file(f"{SD}/gone.safetensors")
    assert unet_file(f"{SD}/unet/{WEIGHTS}@{COMMIT}").is_file()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="cannot be downloaded"):
        hub_folder("some/model", None, [["*"]], lambda folder: ["x is missing"])


def test_offline_the_way_out_is_named(hub_cache: Path) -> None:
    for name in ("dift-flux", "cleandift"):
        with pytest.raises(WeightsError, match=f"`geomatch models fetch {name}` .* or --model FOLDER"):
            DIFTExtractor(PRESETS[name]).cache_key()
    with pytest.raises(WeightsError, match=f"`geomatch models fetch {CLEANDIFT}` .* or --unet-file FILE"):
        unet_file(CLEANDIFT)
    for path in ("./folder", "../folder", "org/model.gguf", "org/model.ckpt"):
        with pytest.raises(WeightsError, match="nor a folder or file with a model"):
            model_folder(path)


def test_a_gated_model(hub: list[str]) -> None:
    page = f"https://huggingface.co/{GATED}"
    with pytest.raises(WeightsError, match=f"^{GATED}: accept its licence at {page} and log in: `hf auth"):
        load(GATED)


def test_shards_that_did_not_all_come(hub: list[str], hub_cache: Path, image: Image, small_sd: Path) -> None:
    """What an interrupted download left is completed, of text encoders, too."""
    pytest.importorskip("transformers")
    served = hub_cache.parent / "served"
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        whole = served / part / f"{stem}.safetensors"
        state, found = load_file(whole), {}
        whole.unlink()
        for number in (1, 2):
            shard = f"{stem}-0000{number}-of-00002.safetensors"
            names = sorted(state)[number - 1 :: 2]
            save_file({name: state[name] for name in names}, whole.with_name(shard), {"format": "pt"})
            found |= dict.fromkeys(names, shard)
        index = json.dumps({"metadata": {"total_size": 1}, "weight_map": found})
        whole.with_name(f"{stem}.safetensors.index.json").write_text(index)
    put_in_cache(
        hub_cache, SD, served, [name for name in files_of(served) if not re.search("00002-of|fp16", name)]
    )
    (folder,) = fetch_weights("dift-sd")
    assert len(list(folder.glob("*/*-of-00002.safetensors"))) == 4
    assert torch.equal(dense(SD, image), dense(small_sd, image))
