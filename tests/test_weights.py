"""Downloads go on where they were broken off, never mix two versions of a file, and are checked."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from geomatch import WeightsError
from geomatch.places import cache_folder
from geomatch.weights.download import WeightsFile, locate_weights

CONTENT = bytes(range(256)) * 4000


class _Flaky(http.server.BaseHTTPRequestHandler):
    """Honours ranges, and breaks the connection after ``limit`` bytes."""

    content = CONTENT
    tag = '"first"'
    limit = 300_000
    ranges: list[str | None] = []  # noqa: RUF012 (shared on purpose)

    def do_GET(self) -> None:
        if self.path != "/big.pt":
            self.send_error(404)
            return
        asked = self.headers["Range"]
        _Flaky.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if self.headers["If-Range"] not in (None, self.tag):
            start = 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.tag)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.limit])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsFile]:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(_Flaky, "ranges", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Flaky) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield WeightsFile("big.pt", f"http://127.0.0.1:{server.server_port}/big.pt", "MIT", None)
        server.shutdown()


def test_resuming(flaky: WeightsFile) -> None:
    for done in (300_000, 600_000, 900_000):
        with pytest.raises(WeightsError, match=rf"got {done} of 1024000 bytes; try again to go on"):
            locate_weights(flaky)
        assert not (cache_folder() / "big.pt").exists()
    assert locate_weights(flaky).read_bytes() == CONTENT
    assert _Flaky.ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    locate_weights(flaky)
    assert len(_Flaky.ranges) == 4
    assert not list(cache_folder().glob("big.pt.part*"))


def test_another_version_starts_anew(flaky: WeightsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="got 300000"):
        locate_weights(flaky)
    other = CONTENT[::-1]
    for name, value in {"content": other, "tag": '"second"', "limit": len(other)}.items():
        monkeypatch.setattr(_Flaky, name, value)
    assert locate_weights(flaky).read_bytes() == other


def test_a_part_that_is_too_long_is_dropped(flaky: WeightsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_folder().mkdir(parents=True)
    (cache_folder() / "big.pt.part").write_bytes(CONTENT + b"more")
    (cache_folder() / "big.pt.part.etag").write_text(_Flaky.tag)
    monkeypatch.setattr(_Flaky, "limit", len(CONTENT))
    assert locate_weights(flaky).read_bytes() == CONTENT


def test_files_are_checked(flaky: WeightsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a known checksum, else by that of the first download."""
    monkeypatch.setattr(_Flaky, "limit", len(CONTENT))
    with pytest.raises(WeightsError, match=r"cannot download other.pt .*SHA-256"):
        locate_weights(replace(flaky, file_name="other.pt", sha256="0" * 64))
    with pytest.raises(WeightsError, match="404"):
        locate_weights(replace(flaky, file_name="none.pt", url=flaky.url + "x"))
    assert not list(cache_folder().glob("*.pt"))
    known = replace(flaky, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert locate_weights(known).read_bytes() == CONTENT
    assert [path.name for path in cache_folder().iterdir() if path.is_file()] == ["big.pt"]
    locate_weights(flaky)  # read without a known checksum: it is noted
    (cache_folder() / "big.pt").write_bytes(CONTENT[::-1])
    with pytest.raises(WeightsError, match="damaged or was replaced"):
        locate_weights(flaky)
