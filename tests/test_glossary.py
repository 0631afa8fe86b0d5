"""The glossary explains words that are used."""

import re

import pytest
from layout import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
TERMS = re.findall(r"^(\S.*)\n  \S", GLOSSARY.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def used() -> str:
    """All other pages, and the help of commands."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "geomatch" / "cli").glob("*.py")]
    return " ".join(
        " ".join(path.read_text().lower().replace("_", " ").split()) for path in pages if path != GLOSSARY
    )


def test_terms_are_used_elsewhere(used: str) -> None:
    assert len(TERMS) == len(set(TERMS)) > 80
    missing = [term for term in TERMS if re.sub("[ -]?(models?|pairs)$", "", term.lower()) not in used]
    assert not missing
