"""The costs that docs/models.md shows are those that are counted."""

from pathlib import Path

import pytest
from full_size import cost_of

from geomatch.dift import PRESETS

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.startswith("dift-tiny")])
def test_costs_of_presets(preset: str) -> None:
    assert cost_of(preset).row(preset) in PAGE.splitlines()
