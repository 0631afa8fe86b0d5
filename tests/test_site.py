"""The site has every page and no broken link, asks no other host, and finds words without the network."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from browser import axe_findings, launched, opened, serious
from layout import ROOT
from pages import PAGES

LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = ("collection", "colmap", "engine", "estimators", "keypoints", "matchers", "opencv", "reconstruction")
"""Packages whose names are public."""


class Parsed(HTMLParser):
    """A built page: places in it, links, what it loads, and its words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.links, self.loads = set[str](), list[str](), list[str]()
        self.article, self.words = False, 0
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.article |= tag == "article"
        self.ids |= {found[name] or "" for name in ("id", "name") if name in found}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
        self.loads += [found[name] or "" for name in ("src", "srcset", "data", "poster") if name in found]
        if tag == "link" and found.get("rel") not in ("index", "search", "next", "prev"):
            self.loads.append(found["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        self.article &= tag != "article"

    def handle_data(self, data: str) -> None:
        self.words += len(data.split()) * self.article


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    arguments = ["-q", "-W", "--keep-going", "-d", folder / "doctrees", ROOT / "docs", folder / "html"]
    done = subprocess.run([sys.executable, "-m", "sphinx", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Parsed]:
    return {path: Parsed(path) for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a static server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_links_within_the_site(site: Path, built: dict[Path, Parsed]) -> None:
    broken = []
    for path, page in built.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in ("https", "http", "mailto"), f"{path.name}: {link}"
                assert parts.scheme == "mailto" or "." in parts.netloc, f"{path.name}: {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target.exists() and (
                not parts.fragment or target not in built or unquote(parts.fragment) in built[target].ids
            )
            if not there:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


@pytest.mark.slow
def test_pages_load_nothing_from_other_hosts(site: Path, built: dict[Path, Parsed]) -> None:
    for path, page in built.items():
        assert not [load for load in page.loads if re.match("(https?:)?//", load)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text()), path


@pytest.mark.slow
def test_no_page_is_empty(built: dict[Path, Parsed]) -> None:
    made = {"genindex.html", "search.html", "py-modindex.html"}
    assert not [path.name for path, page in built.items() if path.name not in made and page.words < 80]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "http"])
def test_search_finds_a_page(way: str, site: Path, browser: Any) -> None:
    with served(site) as address:
        start = address + "/index.html" if way == "http" else site / "index.html"
        with opened(browser, start) as found:
            box = found.page.locator("input[type=search], input[name=q]").first
            box.fill("watermark")
            box.press("Enter")
            found.page.locator("ul.search li a[href*='gate.html']").first.wait_for()
            assert not found.requests


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_pages_are_usable(width: int, dark: bool, site: Path, browser: Any) -> None:
    """The answer of the three ways is on the first screen; nothing is wider than the window."""
    for name, answer in (
        ("evaluate", "geomatch benchmark hpatches"),
        ("colmap", "geomatch reconstruct"),
        ("opencv", "DIFT_create"),
    ):
        with opened(browser, site / f"{name}.html", width, dark=dark) as found:
            page = found.page
            assert page.locator("pre", has_text=answer).first.bounding_box()["y"] < 400
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert not found.requests
            assert not found.errors


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(dark: bool, site: Path, browser: Any) -> None:
    for name in ("index", "evaluate", "first-match", "gallery", "api/engine"):
        with opened(browser, site / f"{name}.html", dark=dark) as found:
            assert not serious(axe_findings(found.page)), name


def test_links_between_files() -> None:
    """Those of the README and the pages lead to files that are there, or have the form of an address."""
    for page in [*ROOT.glob("*.md"), *PAGES]:
        for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in ("https", "http"), f"{page.name}: {link}"
                assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), f"{page.name}: {link}"
            elif parts.path:
                assert (page.parent / unquote(parts.path)).exists(), f"{page.name}: {link}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8000


@pytest.mark.parametrize("package", NAMED)
def test_reference_has_every_public_name(package: str) -> None:
    """Those that a package imports under their own name, or lists, or that its protocols are."""
    page = (ROOT / "docs" / "api" / f"{package}.md").read_text()
    general = (ROOT / "docs" / "api" / "geomatch.md").read_text()
    listed = set(re.findall(rf"geomatch\.{package}\.(\w+)", page)) | set(
        re.findall(r"geomatch\.(\w+)$", general, re.M)
    )
    __import__(f"geomatch.{package}")
    tree = ast.parse(Path(sys.modules[f"geomatch.{package}"].__file__ or "").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names if alias.asname == alias.name}
    names |= set(getattr(sys.modules[f"geomatch.{package}"], "__all__", ()))
    assert names <= listed
