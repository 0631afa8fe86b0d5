"""The protocols of temporal correspondence by name: everything that decides a number, in one place."""

from dataclasses import dataclass
from typing import Any

from geomatch.benchmarks.harness.task import by_name
from geomatch.video.propagation import PropagationConfig

STRIDE = 8  # pixels of the network's input per cell of the labels


@dataclass(frozen=True, slots=True)
class TemporalProtocol:
    """One way to carry labels through a video; if a frame cannot be read, all are wrong."""

    name: str
    version: int
    source: str  # the paper or code that defines it
    context: int
    top_k: int
    radius: int
    temperature: float
    size: int | tuple[int, int]
    """The network's (width, height), or its short side; the long one is cut to a multiple of 32."""
    headline: str  # the measure by which methods are compared
    alphas: tuple[float, ...] = ()  # thresholds of PCK
    exceptions: tuple[tuple[str, int], ...] = ()  # videos with another context

    def propagation(self, video: str) -> PropagationConfig:
        """The settings for a video."""
        context = dict(self.exceptions).get(video, self.context)
        return PropagationConfig(context, self.top_k, self.radius, self.temperature)


_CODE = "Tang et al., 2023, eval_davis.py"
_DAVIS: dict[str, Any] = {"size": 480, "headline": "J&F"}
_TANG: dict[str, Any] = {"exceptions": (("shooting", 10),)}
"""The paper's code looks at fewer frames of one long video, for its memory."""
_JHMDB: dict[str, Any] = {"size": (320, 320), "headline": "PCK@0.1", "alphas": (0.1, 0.2, 0.3, 0.4, 0.5)}
_POSES = (
    "Gaussian label maps and PCK of Jabri et al., NeurIPS 2020; Tang et al. publish no settings: those of "
    "DAVIS for "
)

PROTOCOLS: dict[str, dict[str, TemporalProtocol]] = {
    "davis": by_name(
        TemporalProtocol("davis", 1, f"{_CODE} (SD)", 28, 15, 15, 0.2, **_DAVIS, **_TANG),
        TemporalProtocol("davis-adm", 1, f"{_CODE} (ADM)", 28, 10, 15, 0.1, **_DAVIS, **_TANG),
        TemporalProtocol("davis-dino", 1, "Caron et al., 2021, eval_video_segmentation.py", 7, 5, 12, 0.1,
                         **_DAVIS),
    ),
    "jhmdb": by_name(
        TemporalProtocol("jhmdb", 1, _POSES + "SD", 28, 15, 15, 0.2, **_JHMDB),
        TemporalProtocol("jhmdb-adm", 1, _POSES + "ADM", 28, 10, 15, 0.1, **_JHMDB),
    ),
}  # fmt: skip
