"""The command ``geomatch``: parses, calls the functions of the package, prints."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from geomatch.errors import GeomatchError

if TYPE_CHECKING:
    from geomatch.dift import DIFTConfig

FOUND, NOT_FOUND, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141
"""Exit codes."""
OUT_OF_MEMORY = "out of memory; try a smaller --image-size or fewer --max-keypoints"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="geomatch-dift", prog_name="geomatch")
def app() -> None:
    """Register two photographs with diffusion features."""


@app.command()
@click.argument("image0", type=click.Path(path_type=Path))
@click.argument("image1", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Write result.json, matches.npz, matches.png and overlay.png here.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
@click.option(
    "--detector", metavar="NAME", help="sift, grid, superpoint, orb, ... [default: by the descriptor]"
)
@click.option(
    "--descriptor", metavar="NAME", help="dift-tiny, dift-tiny-dense, or the folder of a diffusers model."
)
@click.option("--estimator", metavar="NAME", default="usac_magsac", show_default=True,
              help="usac_magsac, ransac, lmeds, rho, ..., kornia, poselib.")  # fmt: skip
@click.option("--max-keypoints", type=int, default=3000, show_default=True, help="Per image.")
@click.option("--threshold", type=float, default=3.0, show_default=True,
              help="Largest error of an inlier, in pixels of image 1.")  # fmt: skip
@click.option("--min-similarity", type=float, help="Drop matches of a lower cosine similarity.")
@click.option("--max-ratio", type=float, help="Lowe's ratio test.")
@click.option("--metric", type=click.Choice(["cosine", "l2"]), default="cosine", show_default=True,
              help="Of the descriptors.")  # fmt: skip
@click.option("--timestep", type=int, help="Noise level of the descriptor's forward pass.")
@click.option("--layers", metavar="A,B", help="Layers of the UNet, by diffusers' names.")
@click.option(
    "--sampling", type=click.Choice(["dense", "patch"]), help="Whole image, or a patch per keypoint."
)
@click.option("--image-size", type=int, help="Long side at which the descriptor uses the images.")
@click.option("--noise/--no-noise", default=None, help="Add noise of that level, as the paper does.")
@click.option("--ensemble-size", type=int, help="Noises to average over.")
@click.option("--seed", type=int, help="Of the noise.")
@click.option("--readout/--no-readout", default=None, help="End with the model's read-out.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Of the network.")
@click.option("--device", help="cpu, cuda, mps.")
@click.option("--apply-exif/--no-apply-exif", default=True, show_default=True,
              help="Turn images as their EXIF data says.")  # fmt: skip
def match(
    image0: Path,
    image1: Path,
    out: Path | None,
    as_json: bool,
    detector: str | None,
    descriptor: str | None,
    estimator: str,
    max_keypoints: int,
    threshold: float,
    min_similarity: float | None,
    max_ratio: float | None,
    metric: Literal["cosine", "l2"],
    timestep: int | None,
    layers: str | None,
    sampling: str | None,
    image_size: int | None,
    noise: bool | None,
    ensemble_size: int | None,
    seed: int | None,
    readout: bool | None,
    dtype: str | None,
    device: str | None,
    apply_exif: bool,
) -> int:
    """Register IMAGE0 and IMAGE1: the homography from the first to the second.

    Exit code 0: found, 1: not found, 2: bad input or usage.
    """
    import geomatch
    from geomatch.output import make_folder, save_result, summary

    if out:
        make_folder(out)  # better now than after the work
    changes = {
        "timestep": timestep,
        "layers": None if layers is None else tuple(layers.split(",")),
        "sampling": sampling,
        "image_size": image_size,
        "noise": noise,
        "ensemble_size": ensemble_size,
        "seed": seed,
        "readout": readout,
        "dtype": dtype,
        "device": device,
    }
    result = geomatch.match(
        image0,
        image1,
        detector=detector,
        descriptor=_config(descriptor, detector, changes),
        estimator=estimator,
        metric=metric,
        min_similarity=min_similarity,
        max_ratio=max_ratio,
        max_keypoints=max_keypoints,
        threshold=threshold,
        apply_exif=apply_exif,
    )
    written = save_result(result, out) if out else []
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    else:
        click.echo(summary(result))
        for path in written:
            click.echo(f"wrote       {click.format_filename(path)}")
    return FOUND if result.homography else NOT_FOUND


def _config(descriptor: str | None, detector: str | None, changes: Mapping[str, Any]) -> "DIFTConfig | None":
    """The descriptor's settings with the options that were given; None leaves all of it to `match`."""
    from geomatch.keypoints.opencv import FRAMED
    from geomatch.pipeline import default_config, dift_config

    given = {name: value for name, value in changes.items() if value is not None}
    if descriptor is not None:
        return replace(dift_config(descriptor), **given)
    return replace(default_config(detector is None or detector in FRAMED), **given) if given else None


@app.command()
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("demo-out"),
              show_default=True, help="Folder for the pictures.")  # fmt: skip
def demo(out: Path) -> int:
    """Register the bundled pair and compare with the known truth."""
    import geomatch
    from geomatch.output import save_result, summary

    pair = geomatch.bundled_pair()
    result = geomatch.match(pair.image0, pair.image1)
    written = save_result(result, out)
    click.echo(summary(result))
    if result.homography:
        error = geomatch.corner_error(result.homography.matrix, pair.homography, result.image0.size)
        click.echo(f"truth       mean corner error {error:.2f} px against the known homography")
    for path in written:
        click.echo(f"wrote       {click.format_filename(path)}")
    click.echo(f"photograph  {pair.credit}")
    return FOUND if result.homography else NOT_FOUND


@app.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", default=Path("training-images"),
              show_default=True, help="Where the Debian packages are, or will be, unpacked.")  # fmt: skip
@click.option("--steps", type=int, default=8000, show_default=True, help="Optimiser steps.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=int, help="CPU threads. [default: all]")
def train(out: Path, images: Path, steps: int, device: str, threads: int | None) -> int:
    """Train the embedded model again, into the folder OUT; a second start goes on where the first ended."""
    from geomatch.training.recipe import run_recipe

    run_recipe(out, images, steps=steps, device=device, threads=threads)
    click.echo(f"wrote       {out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; every error is one line on standard error."""
    try:
        code = app.main(args=arguments, prog_name="geomatch", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _complain(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.echo("geomatch: interrupted", err=True)
        return INTERRUPTED
    except SystemExit:  # click's way out when the reader of a pipe has gone
        return PIPE_CLOSED
    except MemoryError:
        return _complain(OUT_OF_MEMORY)
    except RuntimeError as error:
        if "memory" not in str(error):  # torch's word for it, on every device
            raise
        return _complain(OUT_OF_MEMORY)
    except (GeomatchError, ValueError, OSError) as error:
        return _complain(str(error))
    return code if isinstance(code, int) else FOUND


def _complain(message: str) -> int:
    line = " ".join(message.split())
    click.echo("geomatch: " + line.encode(errors="replace").decode(), err=True)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
