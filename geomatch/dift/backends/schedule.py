"""How much signal and noise a timestep means."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomatch.errors import WeightsError, reading
from geomatch.weights.folders import read_config

_FILE = "scheduler_config.json"
_SETTINGS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
             "rescale_betas_zero_snr")  # fmt: skip
"""What matters here; all of diffusers' discrete schedulers share these."""


def flow_schedule() -> tuple[Tensor, Tensor]:
    """(1000,) signal and noise of flow matching, 1 - t/1000 and t/1000 (Lipman et al., ICLR 2023)."""
    noise = torch.arange(1000, dtype=torch.float64, device="cpu") / 1000
    return 1 - noise, noise


def load_schedule(folder: Path) -> tuple[Tensor, Tensor]:
    """(T,) signal and noise, float64: the roots of alpha_bar_t and of 1 - alpha_bar_t (Ho et al., eq. 4).

    Of the scheduler in ``folder/scheduler`` or ``folder``; without a file it is DDPM's: betas from 1e-4 to
    0.02 in 1000 linear steps (Ho et al., NeurIPS 2020).
    """
    place = folder / "scheduler" if (folder / "scheduler" / _FILE).is_file() else folder
    config = read_config(place, _FILE) if (place / _FILE).is_file() else {"beta_start": 1e-4}
    if "beta_start" not in config and config.get("trained_betas") is None:
        kind = config.get("_class_name", "scheduler")
        raise WeightsError(
            f"{place / _FILE}: a {kind} without betas does not tell the noise level of a timestep; "
            "put a DDPMScheduler's configuration in its place"
        )
    with reading(place / _FILE, "noise schedule", WeightsError):
        alphas = _alphas({name: config[name] for name in _SETTINGS if name in config}).double()
        if alphas.ndim != 1 or not ((alphas >= 0) & (alphas <= 1)).all():
            raise ValueError("its betas give no noise levels between 0 and 1")
    return alphas.sqrt(), (1 - alphas).sqrt()


def _alphas(settings: Mapping[str, Any]) -> Tensor:
    """(T,) alpha_bar_t: products of 1 - beta (Ho et al., eq. 4); other betas than linear are diffusers'."""
    others = settings.get("trained_betas") is not None or settings.get("rescale_betas_zero_snr")
    if others or settings.get("beta_schedule", "linear") != "linear":
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        alphas: Tensor = DDIMScheduler(**settings).alphas_cumprod
        return alphas
    first, last = settings.get("beta_start", 1e-4), settings.get("beta_end", 0.02)
    count = settings.get("num_train_timesteps", 1000)
    betas = torch.linspace(first, last, count, dtype=torch.float32, device="cpu")
    return torch.cumprod(1 - betas, dim=0)
