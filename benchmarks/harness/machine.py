"""One JSON file per run: where and with what it was measured, and the rows."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from geomatch.files import replacing
from geomatch.provenance import versions


def write_record(
    folder: Path,
    study: str,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    device: str = "cpu",
) -> Path:
    """Write ``folder/<version>/<study>--<machine>--<device>.json`` and return its path."""
    name = f"{platform.system().lower()}-{platform.machine()}-{os.cpu_count()}cores"
    path = folder / version("geomatch-dift") / f"{study}--{name}--{device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"versions": versions(), **machine(), "settings": dict(settings)}
    content = {"metadata": metadata, "results": [dict(row) for row in rows]}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
