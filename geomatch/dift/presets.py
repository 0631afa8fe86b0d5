"""Named settings, as plain data."""

from geomatch.dift.config import DIFTConfig

_TINY_LAYERS = ("down_blocks.0.resnets.0", "down_blocks.1.resnets.0", "up_blocks.0.resnets.1")

PRESETS: dict[str, DIFTConfig] = {
    "dift-tiny": DIFTConfig(
        model="dift-tiny",
        timestep=20,
        layers=_TINY_LAYERS,
        noise=False,
        sampling="patch",
        image_size=2048,
        patch_scale=11.0,
        readout=True,
    ),
    "dift-tiny-dense": DIFTConfig(
        model="dift-tiny",
        timestep=20,
        layers=("down_blocks.1.resnets.0", "up_blocks.0", "up_blocks.1"),
        noise=False,
        image_size=1024,
    ),
}
"""By name: ``dift-tiny`` for keypoints with scale and orientation, ``dift-tiny-dense`` for others."""
