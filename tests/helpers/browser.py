"""Pages in headless Chromium, with everything that they ask for and complain about; tests skip without it.

    with launched() as browser, opened(browser, path, width=390, dark=True) as page:
        page.page.click("#go")
        assert not page.errors
        assert not page.requests
        assert not serious(axe_findings(page.page))

Playwright's event loop runs in this thread as long as `launched` is open: close it with the test or module.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from layout import ROOT

OWN = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "http://localhost", "ws://127.0.0.1")
"""Addresses that ask no other host."""


@dataclass(frozen=True)
class Opened:
    """A page, and what happened in it since it was opened."""

    page: Any  # of playwright
    requests: list[str] = field(default_factory=list)  # to other hosts, which are refused
    errors: list[str] = field(default_factory=list)  # of the console, and exceptions


@contextmanager
def launched() -> Iterator[Any]:
    """A browser of playwright; the test is skipped without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, address: str | Path, width: int = 1200, *, dark: bool = False, touch: bool = False
) -> Iterator[Opened]:
    """A file or URL in a window of 900 pixels height, with animations reduced, without the world outside."""
    context = browser.new_context(
        viewport={"width": width, "height": 900 if width > 500 else 844},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        has_touch=touch,
        is_mobile=touch,
    )
    context.set_default_timeout(20_000)
    found = Opened(context.new_page())

    def pass_on(route: Any) -> None:
        address = route.request.url
        if address.startswith(OWN):
            route.continue_()
        else:
            found.requests.append(address)
            route.abort()

    context.route("**/*", pass_on)
    found.page.on("console", lambda told: told.type == "error" and found.errors.append(told.text))
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    try:
        found.page.goto(address.absolute().as_uri() if isinstance(address, Path) else address)
        yield found
    finally:
        context.close()


def axe_findings(page: Any) -> list[dict[str, Any]]:
    """What axe-core finds on the page, each with ``id``, ``impact``, ``help`` and ``nodes``.

    Skips the test unless `make axe` was run, or GEOMATCH_AXE names an ``axe.min.js``.
    """
    file = Path(os.environ.get("GEOMATCH_AXE") or ROOT / "build" / "axe" / "axe.min.js")
    if not file.is_file():
        pytest.skip("there is no axe-core: run `make axe`")
    page.evaluate(file.read_text(encoding="utf-8") + "\n;0")
    findings: list[dict[str, Any]] = page.evaluate("axe.run(document).then(found => found.violations)")
    return findings


def serious(findings: list[dict[str, Any]]) -> list[str]:
    """The findings that axe calls serious or critical, a line each with the first place."""
    return [
        f"{one['id']}: {one['help']} ({one['nodes'][0]['html'][:120]})"
        for one in findings
        if one["impact"] in ("serious", "critical")
    ]
