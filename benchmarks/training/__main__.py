"""``python -m geomatch.benchmarks.training OUT``: the whole recipe again."""

from pathlib import Path

import click

from geomatch.benchmarks.training.recipe import run_recipe


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", default=Path("training-images"),
              show_default=True, help="Where the Debian packages are, or will be, unpacked.")  # fmt: skip
@click.option("--steps", type=int, default=8000, show_default=True, help="Optimiser steps of the denoiser.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=int, help="CPU threads. [default: all]")
def train(out: Path, images: Path, steps: int, device: str, threads: int | None) -> None:
    """Train the embedded model and detector again, into the folder OUT; a second start resumes."""
    run_recipe(out, images, steps=steps, device=device, threads=threads)
    click.echo(f"wrote       {out}")


if __name__ == "__main__":
    train()
