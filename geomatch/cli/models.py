"""``geomatch models``: what there is, and how to get it."""

from pathlib import Path

import rich_click as click

from geomatch.cli.logs import FOUND, NOT_FOUND, finish
from geomatch.cli.options import complete_names


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List descriptors and their models: licence, size, where the weights are looked for, present or not."""
    if context.invoked_subcommand is None:
        from geomatch.dift.inventory import inventory

        click.echo("\n\n".join(inventory()))


@models.command()
@click.argument("name", shell_complete=complete_names)
@click.option("--revision", help="Branch, tag or commit on the hub.")
def fetch(name: str, revision: str | None) -> None:
    """Download the weights that NAME needs: a preset, a model, or superpoint.

    Goes on where an earlier download ended, and checks what can be checked.
    """
    from geomatch.dift.inventory import fetch_weights

    for path in (found := fetch_weights(name, revision)):
        click.echo(f"present     {click.format_filename(path)}")
    finish(f"{len(found)} files or folders are there")


@models.command()
@click.argument("model", shell_complete=complete_names)
@click.option("--revision", help="Branch, tag or commit on the hub.")
def layers(model: str, revision: str | None) -> None:
    """List the layers that MODEL, a preset, folder or hub id, can be read at: number, name, channels, stride.

    Blocks of transformers also as NAME.modulated (what enters their attention) and NAME.query. No weights are
    read.
    """
    from geomatch.dift import PRESETS
    from geomatch.dift.outline import list_layers
    from geomatch.weights.sources import outline_folder

    place = outline_folder(PRESETS[model].model if model in PRESETS else model, revision)
    for number, name, channels, stride in list_layers(place):
        click.echo(f"{'' if number is None else number:>4}  {name:50} {channels:5} channels  stride {stride}")


@models.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
def check(folder: Path) -> int:
    """Say what model is in FOLDER, what is missing, and what it can be used for; code 1 if for nothing."""
    from geomatch.dift.outline import describe_folder
    from geomatch.weights.sources import outline_folder

    found, usable = describe_folder(outline_folder(str(folder)))
    for what, words in found:
        click.echo(f"{what:12}{words}")
    return FOUND if usable else NOT_FOUND


@models.command("convert-adm")
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def convert_adm(checkpoint: Path, out: Path) -> None:
    """Turn OpenAI's CHECKPOINT (256x256_diffusion_uncond.pt) into a diffusers folder OUT."""
    from geomatch.weights import adm

    finish("converted", adm.convert_adm(checkpoint, out))
