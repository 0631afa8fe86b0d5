"""UNets run in part: equal to diffusers', without it where they can be; their format, compiled or not."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geomatch import DIFTConfig, DIFTExtractor, Image, WeightsError
from geomatch.dift import PRESETS
from geomatch.dift.backends import compiled
from geomatch.dift.backends.compiled import COMPILE_FROM, Runner
from geomatch.dift.backends.loading import load_finite
from geomatch.dift.backends.model import DiffusionModel
from geomatch.dift.backends.pixel_unet import empty_unet
from geomatch.dift.backends.plain_unet import PlainUNet
from geomatch.dift.backends.wanted import WantedPart, steps_of
from geomatch.dift.ensemble import NOISES, drawn_noises
from geomatch.weights.checkpoint import fill_network
from geomatch.weights.sources import model_folder

CONVOLUTIONS: dict[str, Any] = {
    "block_out_channels": (8, 12, 16),
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "add_attention": False,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
ATTENTION = CONVOLUTIONS | {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "add_attention": True,
    "attention_head_dim": 4,
    "resnet_time_scale_shift": "scale_shift",
    "center_input_sample": True,
}


def random_unet(settings: dict[str, Any]) -> Any:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(**settings).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    return network


def outputs_of(unet: Any, maps: Tensor, timestep: int) -> dict[str, Tensor]:
    """What hooks see of every step in diffusers' own forward pass."""
    found: dict[str, Tensor] = {}
    for step in steps_of(unet):
        for name in step.names:

            def hook(module: nn.Module, inputs: object, output: Any, name: str = name) -> None:
                found[name] = output[0] if isinstance(output, tuple) else output

            unet.get_submodule(name).register_forward_hook(hook)
    unet(maps, timestep)
    return found


@pytest.mark.parametrize(
    "settings", [None, CONVOLUTIONS, ATTENTION], ids=["embedded", "convolutions", "attention"]
)
def test_every_layer_equals_diffusers(settings: dict[str, Any] | None) -> None:
    """Whichever is the last: alone, and all of them."""
    network: Any
    if settings is None:
        from diffusers import UNet2DModel

        folder = model_folder("dift-tiny")
        unet = UNet2DModel.from_config(UNet2DModel.load_config(folder))
        network, _ = empty_unet(folder)
        assert isinstance(network, PlainUNet)
        for each in (unet, network):
            fill_network(each, folder, torch.float32)
        network = network.to(memory_format=torch.channels_last)
    else:
        unet = network = random_unet(settings)
    maps = torch.rand(2, unet.config.in_channels, 20, 24)
    wanted = outputs_of(unet, maps, 41)
    for layers in ([name] for name in wanted), (list(wanted),):
        for some in layers:
            for name, found in zip(some, WantedPart(network, some)(maps, torch.tensor([41])), strict=True):
                torch.testing.assert_close(found, wanted[name], rtol=2e-5, atol=2e-5)


def test_embedded_networks_load_without_diffusers(monkeypatch: pytest.MonkeyPatch, photo0: Image) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("diffusers", "transformers")]:
        monkeypatch.setitem(sys.modules, name, None)
    extractor = DIFTExtractor(replace(PRESETS["dift-tiny-dense"], image_size=64, device="cpu"))
    assert extractor.dense(photo0).maps[0].isfinite().all()
    assert extractor.model.network.conv_in.weight.dtype == torch.float32


def test_other_blocks_are_refused(tmp_path: Path) -> None:
    kinds = {"down_block_types": ("SkipDownBlock2D",) * 3, "up_block_types": ("SkipUpBlock2D",) * 3}
    settings = CONVOLUTIONS | kinds | {"block_out_channels": (16, 16, 16)}
    random_unet(settings).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"down_blocks.0: blocks of the kind SkipDownBlock2D"):
        DIFTExtractor(DIFTConfig(str(tmp_path))).load_networks()


class Doubling(nn.Module):
    """Its values are as large as it is told."""

    def __init__(self, largest: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(largest, dtype=dtype))

    def forward(self, maps: Tensor, *others: object) -> tuple[Tensor, ...]:
        return (maps.sign().to(self.weight.dtype) * self.weight * 2,)


@pytest.mark.parametrize(
    ("name", "device", "unet", "encoder", "expected"),
    [
        ("auto", "cpu", 60000, 60000, ("float32", "float32")),
        ("auto", "cuda", 1, 1, ("float16", "float16")),
        ("auto", "cuda:1", 60000, 1, ("bfloat16", "float16")),
        ("auto", "cuda", 1, 60000, ("float16", "bfloat16")),
        ("auto", "cuda", 60000, 60000, ("bfloat16", "bfloat16")),
        ("float16", "cuda", 60000, 60000, ("float16", "bfloat16")),
        ("bfloat16", "cpu", 60000, 60000, ("bfloat16", "bfloat16")),
    ],
)
def test_the_format_that_does_not_overflow(
    name: Any, device: str, unet: float, encoder: float, expected: tuple[str, str]
) -> None:
    def load(dtype: torch.dtype, encoder_dtype: torch.dtype) -> DiffusionModel:
        network, reader = Doubling(unet, dtype), Doubling(encoder, encoder_dtype)
        found.append((dtype, encoder_dtype))
        tables = (torch.ones(1000), torch.zeros(1000))
        return DiffusionModel(
            network,
            Runner(network, "off"),
            lambda images: (reader(images)[0].float(), None),
            tables,
            8,
            torch.device("cpu"),
        )

    found: list[tuple[torch.dtype, torch.dtype]] = []
    load_finite(load, name, device, 0)
    assert found[-1] == tuple(getattr(torch, each) for each in expected)


def test_when_networks_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def network(batch: Any) -> tuple[Any, ...]:
        calls.append("plain")
        return (batch,)

    def compiling(network: Any, **options: object) -> Callable[..., Any]:
        return lambda batch: (calls.append("compiled"), network(batch))[1]

    monkeypatch.setattr(compiled.torch, "compile", compiling)

    def ways(runner: Runner, device: str, shapes: list[int]) -> list[bool]:
        found = []
        for rows in shapes:
            calls.clear()

            class Batch(SimpleNamespace):
                def __len__(self) -> int:
                    return int(self.shape[0])

            runner(Batch(shape=torch.Size([rows, 3]), device=torch.device(device)))  # type: ignore[arg-type]
            found.append("compiled" in calls)
        return found

    many = COMPILE_FROM // 2
    assert ways(Runner(network, "auto"), "cuda", [many, many, many, 1]) == [False, False, True, False]  # type: ignore[arg-type]
    assert ways(Runner(network, "auto", coming=COMPILE_FROM), "cuda", [8, 8, 8]) == [False, True, True]  # type: ignore[arg-type]
    assert ways(Runner(network, "auto", coming=COMPILE_FROM), "cpu", [many] * 4) == [False] * 4  # type: ignore[arg-type]
    assert ways(Runner(network, "on"), "cpu", [1]) == [True]  # type: ignore[arg-type]
    assert ways(Runner(network, "off", coming=COMPILE_FROM), "cuda", [many] * 4) == [False] * 4  # type: ignore[arg-type]


def test_without_a_compiler_networks_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch, photo0: Image, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*inputs: object) -> object:
        raise RuntimeError(error)

    monkeypatch.setattr(compiled.torch, "compile", lambda network, **options: failing)
    caplog.set_level("INFO", "geomatch")
    config = replace(PRESETS["dift-tiny-dense"], image_size=64, device="cpu", compile="on")
    error = "no compiler here\nlong words"
    for _ in range(2):
        assert DIFTExtractor(config).dense(photo0).maps[0].isfinite().all()
    assert [r.getMessage() for r in caplog.records if "compile" in r.getMessage()] == [
        "the network is not compiled: no compiler here"
    ] * 2
    error = "out of memory"
    with pytest.raises(MemoryError, match="smaller image_size"):
        DIFTExtractor(config).dense(photo0)


@pytest.mark.parametrize(
    "kind",
    [
        "dift-tiny",
        pytest.param("attention", marks=pytest.mark.slow),
        pytest.param("sd", marks=pytest.mark.slow),
    ],
)
def test_the_wanted_part_is_one_graph(kind: str, small_sd: Path) -> None:
    """For the compiler: ``fullgraph`` raises at a break."""
    inputs: list[Any] = [torch.rand(1, 3, 16, 16), torch.tensor([41])]
    if kind == "attention":
        part: nn.Module = WantedPart(random_unet(ATTENTION), ["up_blocks.1.attentions.0"])
    else:
        config = DIFTConfig(str(small_sd), layers=(2,)) if kind == "sd" else PRESETS["dift-tiny"]
        model = DIFTExtractor(replace(config, device="cpu")).model
        part, channels = model.part.network, 4 if kind == "sd" else 12
        inputs = [torch.rand(1, channels, 16, 16), torch.tensor([41])]
        if model.text is not None:
            inputs.append(model.text)
    whole = torch.compile(part, backend="eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        for found, wanted in zip(whole(*inputs), part(*inputs), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_noises_are_drawn_once_and_kept_within_bounds() -> None:
    shape, here = (1, 4, 8, 8), torch.device("cpu")
    first, second = drawn_noises(3, shape, 2, here)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(first, torch.randn(shape, generator=generator))
    assert torch.equal(second, torch.randn(shape, generator=generator))
    assert drawn_noises(3, shape, 2, here)[0] is first
    for seed in range(NOISES):
        drawn_noises(seed, shape, 1, here)
    assert drawn_noises(3, shape, 2, here)[0] is not first
