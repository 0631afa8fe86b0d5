"""``geomatch models``: what there is, and how to get it."""

from pathlib import Path

import click


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List descriptors and their models: licence, size, where the weights are looked for, present or not."""
    if context.invoked_subcommand is None:
        from geomatch.dift.inventory import inventory

        click.echo("\n\n".join(str(entry) for entry in inventory()))


@models.command()
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit on the hub.")
def fetch(name: str, revision: str | None) -> None:
    """Download the weights that NAME needs: a preset, a model, or superpoint.

    Goes on where an earlier download ended, and checks what can be checked.
    """
    from geomatch.dift.inventory import fetch_weights

    for path in fetch_weights(name, revision):
        click.echo(f"present     {click.format_filename(path)}")


@models.command("convert-adm")
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--head-channels", type=int,
              help="Per attention head. [default: 64, or the base width if that is less]")  # fmt: skip
def convert_adm(checkpoint: Path, out: Path, head_channels: int | None) -> None:
    """Turn OpenAI's CHECKPOINT (256x256_diffusion_uncond.pt) into a diffusers folder OUT."""
    from geomatch.weights import adm
    from geomatch.weights.folders import read_config

    click.echo(f"wrote       {click.format_filename(adm.convert_adm(checkpoint, out, head_channels))}")
    if head_channels is None:
        heads = read_config(out)["attention_head_dim"]
        click.echo(
            f"assumed     attention heads of {heads} channels, which shapes do not tell (--head-channels)"
        )
