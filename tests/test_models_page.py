"""The cards of docs/models.md say what the code says."""

import re

import pytest
from layout import ROOT

from geomatch.dift import PRESETS, DIFTConfig
from geomatch.weights.models import MODELS

PAGE = (ROOT / "docs" / "models.md").read_text()
TABLE = [line for line in PAGE.splitlines() if line.startswith("| [")]
CARDS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))


def weights(config: DIFTConfig) -> list[str]:
    return [name for name in (config.model, config.unet_file) if name]


def size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def image(config: DIFTConfig) -> str:
    sides = config.image_size
    return f"{sides[0]}x{sides[1]}" if isinstance(sides, tuple) else f"{config.image_side} side {sides}"


def ensemble(config: DIFTConfig) -> str:
    count = config.ensemble_size
    return "no noise" if not config.noise else "1 noise" if count == 1 else f"{count} noises"


def test_every_preset_has_a_row_and_a_card() -> None:
    assert list(CARDS) == list(PRESETS)
    assert [line.split("`")[1] for line in TABLE] == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_row_and_card(name: str) -> None:
    """Weights with their size and licence, t, layers, image and ensemble; seconds and a command are there."""
    config, card = PRESETS[name], " ".join(CARDS[name].split())
    told = "; ".join(
        f"`{model}`, {size(MODELS[model].size)}, {MODELS[model].licence}" for model in weights(config)
    )
    assert f"**Weights and licence**: {told} -" in card
    layers = ", ".join(f"`{layer}`" for layer in config.layers)
    assert f"**Settings**: t = {config.timestep}; layer {layers}" in card
    for channel in config.discard:
        assert f"{channel}" in card.partition("discarded")[0]
    assert ("projection head" in card, "in patches" in card, ", L2;" in card) == (
        bool(config.head),
        config.sampling == "patch",
        config.metric == "l2",
    )
    assert f"; {image(config)}; {ensemble(config)} -" in card
    assert "**Seconds and memory**: " in card
    assert name == "dift-tiny" or f"--descriptor {name}" in card
    total = sum(MODELS[model].size for model in weights(config))
    download = "none" if config.embedded else size(total)
    (row,) = (line for line in TABLE if f"[`{name}`]" in line)
    assert row.startswith(f"| [`{name}`](#{name}) |")
    assert row.endswith(f"| {config.ensemble_size} | {download} |")
