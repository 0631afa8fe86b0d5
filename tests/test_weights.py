"""Downloads go on where they were broken off, never mix two versions of a file, and are checked."""

import http.server
import io
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha1, sha256
from pathlib import Path

import pytest
import torch

import geomatch
from geomatch import WeightsError
from geomatch.cli import main
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.places import cache_folder
from geomatch.weights import download
from geomatch.weights.download import WeightsFile, check_file, locate_weights
from geomatch.weights.folders import SUMS, find_weights, read_config
from geomatch.weights.sources import model_folder
from geomatch.weights.tensors import load_tensors, save_tensors


def checkpoint(seed: int, numbers: int = 250_000) -> bytes:
    """A torch file, by default of a million bytes."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.rand(numbers, generator=torch.Generator().manual_seed(seed))}, buffer)
    return buffer.getvalue()


FIRST, SECOND, SHORTER = checkpoint(1), checkpoint(2), checkpoint(3, 200_000)


@dataclass
class Site:
    """What a server does: honours ranges, and breaks off after ``limit`` bytes."""

    content: bytes = FIRST
    tag: str = '"first"'
    limit: int = 300_000
    length: bool = True
    chunked: bool = False
    conditions: bool = True
    """False: a range is sent whatever If-Range says."""
    shift: int = 0
    """By how much the range that is sent is another one than was asked for."""
    pause: float = 0.0
    """Seconds after each 1,000 bytes."""
    moved: str = ""
    ranges: list[str | None] = field(default_factory=list)


class _Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, site: Site, *arguments: object) -> None:
        self.site = site
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        site = self.site
        self.close_connection = True
        if site.moved:
            self.send_response(302)
            self.send_header("Location", site.moved)
            self.end_headers()
            return
        if self.path != "/big.pt":
            self.send_error(404)
            return
        asked = self.headers["Range"]
        site.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if self.headers["If-Range"] not in (None, site.tag) and site.conditions:
            start = 0
        if start >= len(site.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            start += site.shift
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        self.send_header("ETag", site.tag)
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif site.length:
            self.send_header("Content-Length", str(len(site.content) - start))
        self.end_headers()
        body = site.content[start : start + site.limit]
        if site.chunked:
            body = b"%x\r\n" % len(body) + body + b"\r\n"
            body += b"0\r\n\r\n" if site.limit >= len(site.content) else b""
        for place in range(0, len(body), 1000 if site.pause else len(body)):
            self.wfile.write(body[place : place + 1000] if site.pause else body)
            time.sleep(site.pause)

    def log_message(self, *arguments: object) -> None:
        pass


def served(site: Site, certificate: Path | None = None) -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Server, site))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    return server


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    return Site()


@pytest.fixture
def big(site: Site) -> Iterator[WeightsFile]:
    with served(site) as server:
        yield WeightsFile("big.pt", f"http://127.0.0.1:{server.server_port}/big.pt", "MIT", None)
        server.shutdown()


def left() -> list[str]:
    """What lies in the cache."""
    return sorted(path.name for path in cache_folder().iterdir() if path.is_file())


def test_resuming(site: Site, big: WeightsFile) -> None:
    for done in (300_000, 600_000, 900_000):
        with pytest.raises(WeightsError, match=rf"got {done} of {len(FIRST)} bytes; try again to go on"):
            locate_weights(big)
        assert not (cache_folder() / "big.pt").exists()
    assert locate_weights(big).read_bytes() == FIRST
    assert site.ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    locate_weights(big)
    assert len(site.ranges) == 4
    assert left() == ["big.pt", "big.pt.sha256"]


@pytest.mark.parametrize(
    "fault",
    [
        {"tag": '"second"', "content": SECOND},
        {"tag": '"second"', "content": SECOND, "conditions": False},
        {"content": SHORTER},  # under the same tag
        {"shift": 1000},
        {"shift": -1000},
    ],
)
def test_a_part_that_does_not_fit_is_fetched_anew(
    site: Site, big: WeightsFile, fault: dict[str, object]
) -> None:
    """Another version, honestly or not, or bytes from another place."""
    with pytest.raises(WeightsError, match="got 300000"):
        locate_weights(big)
    for name, value in {**fault, "limit": 10**7}.items():
        setattr(site, name, value)
    assert locate_weights(big).read_bytes() == site.content
    assert site.ranges[:2] == [None, "bytes=300000-"]


def test_another_file_under_the_same_tag_is_found_out(site: Site, big: WeightsFile) -> None:
    """By the checksums inside; what was fetched is dropped."""
    with pytest.raises(WeightsError, match="got 300000"):
        locate_weights(big)
    site.content, site.limit = SECOND, len(SECOND)
    with pytest.raises(WeightsError, match=r"it is no whole \.pt file"):
        locate_weights(big)
    assert left() == []
    assert locate_weights(big).read_bytes() == SECOND


def test_a_part_that_is_too_long_is_dropped(site: Site, big: WeightsFile) -> None:
    with pytest.raises(WeightsError, match="got 300000"):
        locate_weights(big)
    (part,) = cache_folder().glob("part-big.pt")
    part.write_bytes(FIRST + b"more")
    site.limit = len(FIRST)
    assert locate_weights(big).read_bytes() == FIRST


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"length": False}, "does not say how long the file is"),
        ({"chunked": True}, "IncompleteRead|incomplete"),
        ({"content": b"\n <!DOCTYPE html><p>Sign in"}, "it is a page of the web"),
        ({"content": b"no weights"}, "it is no whole .pt file"),
        ({"content": FIRST[:-5000]}, "it is no whole .pt file"),
        ({"pause": 0.02}, "try again to go on"),
        ({"pause": 3.0}, "timed out"),
        ({"moved": "ftp://127.0.0.1/big.pt"}, "cannot download"),
    ],
)
def test_faulty_servers_leave_nothing(
    site: Site, big: WeightsFile, fault: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "pause" in fault:
        monkeypatch.setattr(download, "STALL", 0.2)
        monkeypatch.setattr(download, "SLOWEST", 1e6)
    site.limit = 300_000 if "chunked" in fault else 10**7
    for name, value in fault.items():
        setattr(site, name, value)
    with pytest.raises(WeightsError, match=words) as caught:
        locate_weights(big)
    assert len(str(caught.value).splitlines()) == 1
    assert not {"big.pt", "big.pt.sha256"} & set(left())
    for name, value in vars(Site(limit=10**7)).items():  # the server is mended
        setattr(site, name, value)
    assert locate_weights(big).read_bytes() == FIRST


def test_what_is_enough_to_know_of_a_length(site: Site, big: WeightsFile) -> None:
    """A chunked body tells its end, and a known checksum tells all."""
    site.limit, site.chunked = 10**7, True
    assert locate_weights(big).read_bytes() == FIRST
    site.chunked, site.length = False, False
    known = replace(big, file_name="known.pt", sha256=sha256(FIRST).hexdigest())
    assert locate_weights(known).read_bytes() == FIRST


def test_https_never_goes_on_in_http(
    site: Site, big: WeightsFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    site.limit = 10**7
    with served(elsewhere := Site(moved=big.url), certificate) as server, served(site, certificate) as other:
        safe = replace(big, url=f"https://127.0.0.1:{server.server_port}/big.pt")
        with pytest.raises(WeightsError, match=r"leads to http://.*, which is not encrypted"):
            locate_weights(safe)
        assert site.ranges == []
        elsewhere.moved = f"https://127.0.0.1:{other.server_port}/big.pt"
        assert locate_weights(safe).read_bytes() == FIRST
        server.shutdown()
        other.shutdown()


def self_signed(path: Path) -> Path:
    """Key and certificate of 127.0.0.1."""
    x509 = pytest.importorskip("cryptography.x509")
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


def test_files_are_checked(site: Site, big: WeightsFile) -> None:
    """By a known checksum, else by that of the first whole file."""
    site.limit = 10**7
    with pytest.raises(WeightsError, match=r"cannot download other.pt .*SHA-256"):
        locate_weights(replace(big, file_name="other.pt", sha256="0" * 64))
    with pytest.raises(WeightsError, match="404"):
        locate_weights(replace(big, file_name="none.pt", url=big.url + "x"))
    assert left() == []
    known = replace(big, sha256=sha256(FIRST).hexdigest())
    assert locate_weights(known).read_bytes() == FIRST
    assert left() == ["big.pt"]
    locate_weights(big)  # read without a known checksum: it is noted
    (cache_folder() / "big.pt").write_bytes(SECOND)
    with pytest.raises(WeightsError, match="damaged or was replaced"):
        locate_weights(big)
    (cache_folder() / "put.pt").write_bytes(b"<html>")  # by hand
    with pytest.raises(WeightsError, match=r"put.pt is damaged or was replaced.*a page of the web"):
        locate_weights(replace(big, file_name="put.pt"))


def flipped(data: bytes, places: range) -> Iterator[bytes]:
    """The data with one bit changed, at each of some places."""
    for bit in places:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_any_bit_of_our_tensor_files_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.rand(3, 4), "sha256": torch.arange(5).half()}
    save_tensors(path, tensors, {"training": json.dumps({"sha256": "0" * 64}), "n": "1"})
    found, metadata = load_tensors(path)
    assert all(found[name].equal(value) for name, value in tensors.items())
    assert metadata["n"] == "1"
    data = path.read_bytes()
    for changed in flipped(data, range(0, 8 * len(data), 11)):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="checksum"):
            load_tensors(path)


def test_damage_to_the_embedded_model_is_found(tmp_path: Path) -> None:
    """In any file of it: an error, or the numbers of before."""
    source = model_folder("dift-tiny")
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    config = replace(PRESETS["dift-tiny"], model=str(tmp_path), head=False)
    names = [path.name for path in source.iterdir() if path.suffix in (".json", ".safetensors", "")]
    assert SUMS in names
    for name in names:
        (tmp_path / name).write_bytes((source / name).read_bytes())
    expected = DIFTExtractor(config).activations(images)
    for name in ("config.json", "scheduler_config.json", SUMS, "diffusion_pytorch_model.safetensors"):
        data = (source / name).read_bytes()
        size, found = 8 * len(data), 0
        for changed in flipped(data, range(size // 11, size, size // 5)):
            (tmp_path / name).write_bytes(changed)
            try:
                again = DIFTExtractor(config).activations(images)
            except WeightsError:
                found += 1
            else:
                assert name == SUMS
                assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))
        assert found >= 4
        (tmp_path / name).write_bytes(data)


def test_damage_to_torch_files_is_found(tmp_path: Path) -> None:
    """Their CRC-32s are looked at, which torch does not; headers hold nothing that matters."""
    path, weights = tmp_path / "x.pth", WeightsFile("x.pth", "https://example.org/x.pth", "MIT", None)
    torch.save(torch.load(io.BytesIO(FIRST), weights_only=True), path)
    data, found = path.read_bytes(), 0
    expected = torch.load(path, weights_only=True)["weight"]
    for changed in flipped(data, range(1234, 8 * len(data), 8 * len(data) // 60)):
        path.write_bytes(changed)
        try:
            again = torch.load(locate_weights(weights, path), weights_only=True)["weight"]
        except WeightsError:
            found += 1
        else:
            assert again.equal(expected)
    assert found > 55


def test_the_hubs_cache_is_checked_by_the_names_of_its_blobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files once, and again when they have changed; what has no such name is taken as it is."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    weights, config = bytes(range(256)) * 1000, b'{"a": 1}'
    git = sha1(b"blob %d\0" % len(config) + config).hexdigest()
    names = {"big.safetensors": (sha256(weights).hexdigest(), weights), "config.json": (git, config)}
    for name, (digest, content) in {**names, "other.bin": ("some-etag", b"anything")}.items():
        (blobs / digest).write_bytes(content)
        (snapshot / name).symlink_to(Path("../../blobs") / digest)
        check_file(snapshot / name)
        if digest == "some-etag":
            continue
        (blobs / digest).write_bytes(content[::-1])
        with pytest.raises(WeightsError, match=rf"{name}: damaged .*; delete .*{digest} and get it again"):
            check_file(snapshot / name)
        (blobs / digest).write_bytes(content)
    monkeypatch.setattr(download, "LARGE", 1000)
    check_file(snapshot / "big.safetensors")
    monkeypatch.setattr(download, "sha256_of", lambda path: "not read again")
    check_file(snapshot / "big.safetensors")
    (blobs / sha256(weights).hexdigest()).write_bytes(weights[::-1])
    with pytest.raises(WeightsError, match="damaged"):
        check_file(snapshot / "big.safetensors")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{", b"", b"[]", b"1e999", None]
)
def test_odd_configurations_are_one_line(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model" / "config.json"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"config.json: not a readable diffusers configuration"):
        read_config(path.parent)
    pair = geomatch.bundled_pair()
    photos = [str(pair.image0), str(pair.image1)]
    assert main(["match", *photos, "--detector", "sift", "--descriptor", str(path.parent)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("geomatch: ")
    assert "readable diffusers configuration" in line
    assert str(path) in line
    index = path.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text('{"weight_map": {"a": 1}}')
    with pytest.raises(WeightsError, match=r"index.json: has no weight_map"):
        find_weights(path.parent)


def test_weights_that_an_installed_package_brings_are_read_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOMATCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GEOMATCH_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    weights = WeightsFile("net.pt", "https://example.org/net.pt", "MIT", None, package="made-up==1.0")
    with pytest.raises(geomatch.WeightsError, match=r"or: pip install --no-deps made-up==1\.0"):
        locate_weights(weights)
    for folder in ("made_up", "made_up-1.0.dist-info"):
        (tmp_path / "site" / folder).mkdir(parents=True)
    (tmp_path / "site/made_up-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n"
    )
    (tmp_path / "site/made_up-1.0.dist-info/RECORD").write_text("made_up/its-net.pt,,\n")
    (tmp_path / "site/made_up/__init__.py").write_text("raise ImportError('never imported')")
    with pytest.raises(geomatch.WeightsError, match="downloads are off"):
        locate_weights(replace(weights, file_name="other.pt"))  # which it has not
    torch.save({"a": torch.zeros(2)}, tmp_path / "site/made_up/its-net.pt")
    assert locate_weights(weights) == tmp_path / "site/made_up/its-net.pt"
    content = (tmp_path / "site/made_up/its-net.pt").read_bytes()
    (tmp_path / "site/made_up/its-net.pt").write_bytes(content.replace(bytes(8), bytes(range(8))))
    with pytest.raises(geomatch.WeightsError, match="damaged"):
        locate_weights(weights)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/net.pt").write_bytes(content)  # what the user has put into the cache comes first
    assert locate_weights(weights) == tmp_path / "home/net.pt"
