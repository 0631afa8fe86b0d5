"""The store: local, S3-like on loopback; whole objects, checksums, manifests, upkeep."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import damaged_objects

from geomatch.cli import main
from geomatch.collection import Extraction, Matching, PairSelection, find_images, match_collection
from geomatch.collection.features import extract_features
from geomatch.collection.match import CollectionResult
from geomatch.collection.pair_matches import pair_blocks
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import DamagedError, FeaturesError, GeomatchError, StoreError
from geomatch.files import is_sound, pack_arrays, unpack_arrays
from geomatch.store import Manifest, Store
from geomatch.store.packs import PackIndex, as_keys, stored_results, write_pack
from geomatch.store.upkeep import inspect_store, prune_store
from geomatch.types import Features

KEY, OTHER = "ab" * 32, "cd" * 32
WORKERS = [1, pytest.param(2, marks=pytest.mark.slow)]
"""In this process, and in processes of their own."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3-like server on loopback; clients find it by their environment."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture
def s3(bucket: str, tmp_path: Path) -> str:
    """The URL of an empty folder."""
    return f"{bucket}/{tmp_path.name}"


@pytest.mark.parametrize("place", ["local", "s3"])
def test_objects_are_written_listed_and_removed(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = Store.at(tmp_path / "store" if place == "local" else request.getfixturevalue("s3"))
    assert store.sizes("features") == {}
    first, second = pack_arrays("thing", {"a": [1]}), pack_arrays("thing", {"a": [2, 3]})
    store.write("features", KEY, first)
    store.write("features", KEY, second)
    store.write("features", OTHER, first)
    store.write("matches", KEY, first)
    name = len(f"features/{KEY}")
    assert store.sizes("features") == {KEY: len(second) + name, OTHER: len(first) + name}
    assert unpack_arrays(store.read("features", KEY), "x", "thing", ("a",))["a"].tolist() == [2, 3]
    with pytest.raises(KeyError):
        store.read("global", KEY)
    store.remove("features", KEY)
    store.remove("features", KEY)
    assert list(store.sizes("features")) == [OTHER]


def test_places_that_are_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        Store.at(tmp_path / "file").write("features", KEY, pack_arrays("thing", {}))
    assert Store.at(f"file://{tmp_path}") == Store.at(f"file:{tmp_path}") == Store.at(tmp_path)
    assert Store.at("~/x") == Store.at(Path.home() / "x")
    for nowhere in ("s3://", "memory://x", "nothing://x"):
        with pytest.raises(ValueError, match="no store; give a folder, or s3://bucket/folder"):
            Store.at(nowhere)
    for package in ("s3fs", "fsspec"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(GeomatchError, match=rf"'{package}'; .*pip install 'geomatch-dift\[cluster\]'"):
            Store.at("s3://elsewhere/x")


def test_any_damage_of_our_npz_files_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "y.npz", kind=np.asarray("thing"), a=np.arange(3))
    plain = (tmp_path / "y.npz").read_bytes()  # files without a checksum are read, too
    for written in (plain, pack_arrays("thing", {"a": np.arange(3)})):
        with np.load(BytesIO(written)) as file:
            assert file["a"].tolist() == [0, 1, 2]
        assert unpack_arrays(written, "x", "thing", ("a",))["a"].tolist() == [0, 1, 2]
    features = Features(np.ones((3, 2)), np.ones(3), (9, 9), descriptors=np.eye(3))  # type: ignore[arg-type]
    data = features.to_bytes()
    assert is_sound(data)
    assert data == features.to_bytes()
    assert Features.from_bytes(data, "x") == features
    rng = np.random.default_rng(0)
    for place in [*rng.integers(0, len(data), 40).tolist(), len(data) - 1]:
        bad = bytearray(data)
        bad[place] ^= 1
        assert not is_sound(bytes(bad))
    for length in (0, 10, len(data) - 100, len(data) - 1):
        assert not is_sound(data[:length])
        with pytest.raises(GeomatchError, match="the file x"):
            Features.from_bytes(data[:length], "the file x")
    body = bytearray(data)
    body[len(body) // 2] ^= 1
    with pytest.raises(GeomatchError, match="checksum is wrong"):
        Features.from_bytes(bytes(body), "x")


def test_an_object_copied_under_another_key_is_damaged(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    keys = [bytes([place]) * 32 for place in range(4)]
    for place in range(3):
        store.write("features", keys[place].hex(), pack_arrays("thing", {"a": [place]}))
    arrays = {"counts": [1, 1], "indices": np.zeros((2, 2)), "similarity": np.ones(2)}
    packs = [write_pack(store, keys[k : k + 2], arrays) for k in (0, 2)]
    manifests = [Manifest.start(store, "x", str(n), {}, "").saved(store).key for n in range(2)]
    for kind, names in (
        ("features", [key.hex() for key in keys[:2]]),
        ("matches", packs),
        ("runs", manifests),
    ):
        file, other = (tmp_path / store.name(kind, name) for name in names)
        other.write_bytes(file.read_bytes())
        assert is_sound(other.read_bytes())
        with pytest.raises(DamagedError, match=f"{names[1]}.*copy of another object"):
            store.read(kind, names[1])
    index = PackIndex.read(store)
    assert index.names == (packs[0],)
    damaged = [store.name("runs", manifests[1]), store.name("features", keys[1].hex())]
    assert damaged_objects(store) == [*damaged, store.name("matches", packs[1])]
    assert Manifest.start(store, "x", "1", {}, "").source == "1"


@pytest.mark.parametrize(
    "change", [{"started": 3}, {"names": None}, {"failed": []}, {"source": "other"}, {"x": 1}]
)
def test_a_manifest_of_wrong_types_is_damaged(tmp_path: Path, change: dict[str, Any]) -> None:
    store = Store.at(tmp_path)
    key = Manifest.start(store, "x", "y", {}, "").saved(store).key
    arrays = unpack_arrays(store.read("runs", key), "", "Manifest", ("summary", "pair_keys"))
    summary = json.dumps({**json.loads(str(arrays["summary"])), **change})
    store.write("runs", key, pack_arrays("Manifest", {**arrays, "summary": summary}))
    with pytest.raises(DamagedError, match=f"{key}.*not a readable manifest"):
        Manifest.load(store, key)
    assert inspect_store(store)[2] == [key]


def test_packs_find_every_key(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (50, 32), dtype=np.uint8)
    rows[7, -3:] = 0  # NumPy's strings drop zeros at the end
    keys = [row.tobytes() for row in rows]

    def part(first: int, last: int) -> dict[str, Any]:
        values = np.arange(2 * first, 2 * last)
        return {
            "counts": np.full(last - first, 2),
            "indices": np.stack([values, values], 1),
            "similarity": values,
        }

    write_pack(store, keys[:20], part(0, 20))
    write_pack(store, keys[20:45], part(20, 45))
    index = PackIndex.read(store)
    places = index.find(rows)
    assert (places[45:] == -1).all()
    results = stored_results(store, index.names, places)
    found = {position: arrays["similarity"][own].tolist() for position, _, own, arrays in results}
    assert found == {k: [2 * k, 2 * k + 1] for k in range(45)}
    assert len(set(as_keys(rows).tolist())) == 50
    name = write_pack(store, keys[:20], part(0, 20))
    assert name in index.names  # the same keys, the same pack
    path = tmp_path / store.name("matches", name)
    path.write_bytes(path.read_bytes()[:-1])
    PackIndex.read(store)
    assert path.exists()  # who only looks changes nothing
    again = PackIndex.read(store, mend=True)  # a damaged pack is no pack
    assert (again.find(rows[:20]) == -1).all()
    assert (again.find(rows[20:45]) >= 0).all()
    assert not path.exists()


def test_blocks_of_pairs_load_few_images() -> None:
    rng = np.random.default_rng(3)
    names = [f"{k:03}" for k in range(300)]
    mixed = [f"{k:03}" for k in rng.permutation(300)]  # names say nothing about the order
    for bound, pairs in (
        (0.6, list(combinations(names[:60], 2))),
        (0.6, [(mixed[i], mixed[j]) for i in range(300) for j in range(i + 1, min(i + 11, 300))]),
        (2.0, [(names[i], names[j]) for i, j in rng.integers(0, 200, (900, 2)) if i != j]),
        (1.1, [("hub", name) for name in names[:100]]),
    ):
        blocks = pair_blocks(pairs)
        assert sorted(p for block in blocks for p in block) == list(range(len(pairs)))
        loads = [len({name for p in block for name in pairs[p]}) for block in blocks]
        assert max(loads) <= 32
        assert max(map(len, blocks)) <= 256
        assert blocks == pair_blocks(pairs)
        assert sum(loads) / len(pairs) < bound  # without blocks 2


def run(folder: Path, store: Any, *rules: str, keypoints: int = 60, **options: Any) -> CollectionResult:
    context = RunContext(store, options.pop("engine", LocalEngine(1)), progress=False)
    parts = {"extraction": Extraction(max_keypoints=keypoints), "pairs": PairSelection(rules), **options}
    return match_collection(find_images(folder), **parts, context=context)


def objects(store: Store) -> dict[str, bytes]:
    kinds = ("features", "matches", "global")
    return {f"{kind}/{key}": store.read(kind, key) for kind in kinds for key in store.sizes(kind)}


def test_features_damaged_after_their_pairs_were_done_are_made_again(
    small_views: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.at(tmp_path / "store")
    first = run(small_views, store, "retrieval:2")
    good = dict(first.correspondences.features)
    for kind in ("features", "global"):
        path = tmp_path / "store" / store.name(kind, min(store.sizes(kind)))
        path.write_bytes(path.read_bytes()[:-200] + b"?" * 200)
    again = run(small_views, store, "retrieval:2")
    assert again.computed == (0, 0)
    assert dict(again.correspondences.features.items()) == good
    assert len(again.remade) == 1
    assert damaged_objects(store) == []
    # the command says which, and ends well
    path = tmp_path / "store" / store.name("features", min(store.sizes("features")))
    path.write_bytes(path.read_bytes()[:300])
    export = ["colmap", "export", str(small_views), str(tmp_path / "a.db"), "--store", store.url]
    assert main([*export, "--workers", "1", "--max-keypoints", "60", "--pairs", "retrieval:2"]) == 0
    told = f"warning     {again.remade[0]}: features were damaged in the store, and are made again"
    assert told in capsys.readouterr().err
    # without the image it cannot be
    again = run(small_views, store, "retrieval:2")
    path.write_bytes(path.read_bytes()[:300])
    for image in small_views.iterdir():
        image.write_bytes(b"another")
    with pytest.raises(FeaturesError, match="damaged and cannot be made again: view"):
        list(again.correspondences.features.values())


@pytest.mark.parametrize("workers", WORKERS)
def test_object_storage_holds_the_same_bytes(
    small_views: Path, s3: str, tmp_path: Path, workers: int
) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Store.at("s3://no-such-bucket/x").write("features", KEY, pack_arrays("thing", {}))
    rules = ("retrieval:2", "sequential:1")
    local = run(small_views, tmp_path / "store", *rules)
    with LocalEngine(workers) as engine:
        remote = run(small_views, s3, *rules, engine=engine)
    assert objects(Store.at(s3)) == objects(Store.at(tmp_path / "store"))
    assert len(objects(Store.at(s3))) > 8
    for a, b in zip(local.correspondences.pairs, remote.correspondences.pairs, strict=True):
        assert (a.name0, a.name1, a.matches) == (b.name0, b.name1, b.matches)
    assert run(small_views, s3, *rules).computed == (0, 0)
    assert main(["store", "info", s3]) == 0
    assert damaged_objects(Store.at(s3)) == []
    export = ["colmap", "export", str(small_views), str(tmp_path / "s3.db"), "--store", s3, "--workers", "1"]
    assert main([*export, "--max-keypoints", "60", *chain(*(("--pairs", rule) for rule in rules))]) == 0


def test_info_and_prune(small_views: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "store")
    store = Store.at(place)
    assert main(["store", "info", place]) == 2
    assert "no store there" in capsys.readouterr().err
    (tmp_path / "store").mkdir()
    assert main(["store", "info", place]) == 0
    assert "nothing is there" in capsys.readouterr().out
    with pytest.raises(GeomatchError, match="no run would be left"):
        prune_store(store)
    run(small_views, place)
    run(small_views, place, keypoints=40)
    assert main(["store", "info", place]) == 0
    out = capsys.readouterr().out
    assert out.count("complete: 4 of 4 features, 6 of 6 pairs") == 2
    before = objects(store)
    prune_store(store)
    assert objects(store) == before  # all is needed
    first, second = inspect_store(store)[1]
    newest = first.manifest if first.manifest.settings["detector"]["max_keypoints"] == 40 else second.manifest
    (tmp_path / "store" / "runs" / "notes.txt").write_text("not ours")
    assert main(["store", "prune", place, "--forget", newest.key[:8]]) == 0
    assert "6 objects" in capsys.readouterr().out.splitlines()[-1]  # 4 of features, a pack, the manifest
    assert (tmp_path / "store" / "runs" / "notes.txt").exists()
    assert run(small_views, place).computed == (0, 0)
    assert run(small_views, place, keypoints=40).computed == (4, 6)
    assert damaged_objects(store) == []
    victim = next((tmp_path / "store" / "features").rglob("*.npz"))
    data = bytearray(victim.read_bytes())
    data[300] ^= 255
    victim.write_bytes(bytes(data))
    assert damaged_objects(store) == [f"features/{victim.parent.name}/{victim.name}"]
    found = [run(small_views, place, keypoints=count).correspondences.features for count in (60, 40)]
    assert sum(map(len, chain(*(features.values() for features in found)))) > 200  # it is made again
    assert damaged_objects(store) == []
    victim.unlink()
    assert main(["store", "info", place]) == 1  # a run lacks something
    assert "3 of 4 features" in capsys.readouterr().out
    assert sum(run(small_views, place, keypoints=k).computed[0] for k in (60, 40)) == 1
    assert main(["store", "info", place]) == 0
    manifest = tmp_path / "store" / store.name("runs", newest.key)
    manifest.write_bytes(b"x")
    with pytest.raises(GeomatchError, match="is damaged, so that what it needs is not known"):
        prune_store(store)
    with pytest.raises(GeomatchError, match="names 0 runs"):
        prune_store(store, ["zz"])
    assert damaged_objects(store) == [store.name("runs", newest.key)]


def test_interruptions_delete_nothing(
    small_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Callable[..., Any]
) -> None:
    rules = ("retrieval:2",)
    store = Store.at(tmp_path / "store")
    run(small_views, store, *rules)
    before = objects(store)
    with monkeypatch.context() as patch:
        patch.setattr("geomatch.collection.match.extract_features", dying(extract_features, 1))
        with pytest.raises(KeyboardInterrupt):
            run(small_views, store, *rules)
    assert not inspect_store(store)[1][0].manifest.complete
    prune_store(store)
    assert objects(store) == before
    assert run(small_views, store, *rules).computed == (0, 0)
    read = Store.read

    def reset(self: Store, kind: str, key: str) -> bytes:
        if kind == broken:
            raise StoreError("connection reset")
        return read(self, kind, key)

    monkeypatch.setattr(Store, "read", reset)
    broken = "matches"
    with pytest.raises(StoreError, match="connection reset"):
        inspect_store(store)
    broken = "features"
    with pytest.raises(StoreError, match=r"connection reset.*give the same command"):
        run(small_views, store, *rules, matching=Matching(max_ratio=0.7))
    broken = ""
    assert objects(store) == before


def test_a_manifest_says_what_a_run_is(small_views: Path, tmp_path: Path) -> None:
    (small_views / "broken.png").write_bytes(b"no image")
    store = Store.at(tmp_path / "store")
    run(small_views, store, "sequential:1")
    (state,) = inspect_store(store)[1]
    manifest = state.manifest
    assert (manifest.program, manifest.source) == ("collection", str(small_views))
    assert manifest.names == tuple(f"view{k}.png" for k in range(4))
    assert list(manifest.failed) == ["broken.png"]
    assert manifest.settings["rules"] == ["sequential:1"]
    assert manifest.complete
    assert state.done == {"features": (4, 4), "pairs": (3, 3)}
    assert Manifest.load(store, manifest.key).objects == manifest.objects
    with pytest.raises(KeyError):
        Manifest.load(store, OTHER)
    (small_views / "view3.png").unlink()  # other photographs are a run of their own
    assert run(small_views, store, "sequential:1").computed == (0, 0)
    assert len(inspect_store(store)[1]) == 2
    assert prune_store(store)[0] == 0


@pytest.mark.parametrize("workers", WORKERS)
def test_a_full_disk_ends_the_run_and_loses_nothing(small_views: Path, tmp_path: Path, workers: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", disk, "-o"]
    if os.geteuid() or subprocess.run([*mount, "size=64k"], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    store = Store.at(disk / "store")
    try:
        full = pytest.raises(StoreError, match=r"No space left.*give the same command")
        with LocalEngine(workers) as engine, full:
            run(small_views, store, engine=engine)
        assert len(store.sizes("features")) in (1, 2, 3)
        assert damaged_objects(store) == []
        assert not list((disk / "store").rglob(".geomatch-*"))
        subprocess.run([*mount, "remount,size=10m"], check=True)
        assert run(small_views, store).computed[0] < 4
        run(small_views, tmp_path / "store")
        assert objects(store) == objects(Store.at(tmp_path / "store"))
    finally:
        subprocess.run(["umount", disk], check=True)
