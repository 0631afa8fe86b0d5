"""Options that several commands share."""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from geomatch.dift import DIFTConfig
    from geomatch.engine import RunContext

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Any], Any]  # made with ``click.option``


def bundled(
    into: str, make: Callable[[dict[str, Any]], Any], *options: Option
) -> Callable[[Command], Command]:
    """Options of which a command gets one argument ``into``: what ``make`` makes of their values by name.

    Without a name for it the command gets none, and finds them in click's context.
    """

    def decorate(command: Command) -> Command:
        def run(*arguments: Any, **values: Any) -> Any:
            made = make({name: values.pop(name) for name in names})
            return command(*arguments, **values, **({into: made} if into else {}))

        wrapped: Any = update_wrapper(run, command)
        earlier = list(getattr(command, "__click_params__", []))
        wrapped.__click_params__ = list(earlier)
        for option in reversed(options):
            wrapped = option(wrapped)
        names = [str(added.name) for added in reversed(wrapped.__click_params__[len(earlier) :])]
        return cast(Command, wrapped)

    return decorate


def in_order(values: dict[str, Any]) -> tuple[Any, ...]:
    """For `bundled`: the values alone, as the options are listed."""
    return tuple(values.values())


def complete_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Presets, or names of detectors or estimators, for the completion of a shell."""
    from geomatch.dift import PRESETS
    from geomatch.estimators import estimators
    from geomatch.keypoints import detectors

    names = {"detector": [*detectors()], "estimator": [*estimators()]}.get(str(parameter.name), [*PRESETS])
    return [name for name in names if name.startswith(incomplete)]


def refuse_given(names: Collection[str], why: str) -> None:
    """Raise `UsageError` when one of these options, by names of parameters, was given without effect."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{option.opts[0]} has no effect {why}")


_ENGINE = (
    click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                 help="This machine, or a Ray cluster."),
    click.option("--workers", type=click.IntRange(min=1),
                 help="Processes. [default: one per core, of a cluster as many as it has room for]"),
    click.option("--ray-address", metavar="ADDRESS",
                 help="Address of the cluster. [default: RAY_ADDRESS; without it Ray starts here]"),
    click.option("--cpus-per-worker", type=click.FloatRange(min=0.01),
                 help="Cores per Ray worker. [default: 1]"),
    click.option("--gpus-per-worker", type=click.FloatRange(min=0),
                 help="GPUs per Ray worker with a network. [default: 1 if the cluster has any]"),
)  # fmt: skip


def run_options(default: str) -> Callable[[Command], Command]:
    """Add the options of a `RunContext`, which the command gets as ``context``; its device is `DEVICE`."""

    def context(given: dict[str, Any]) -> "RunContext":
        from geomatch.engine import RunContext, create_engine

        store = given.pop("store")
        engine = click.get_current_context().with_resource(create_engine(*given.values()))
        return RunContext(store, engine, given_options().get("device", "auto"))

    place = click.option(
        "--store", metavar="PLACE",
        help=f"Cache of features and results: a folder, or a URL, s3://bucket/folder. [default: {default}]",
    )  # fmt: skip
    return bundled("context", context, place, *_ENGINE)


MASKS = (
    click.option("--masks", type=click.Path(path_type=Path), metavar="DIR",
                 help="Pictures, black where no keypoints are wanted: of a/b.jpg DIR/a/b.jpg.png, as for "
                      "COLMAP, or a/b.png."),
    click.option("--ignore-border", type=click.IntRange(min=0), default=0, metavar="N",
                 help="No keypoints in N pixels along each side, as of a watermark."),
)  # fmt: skip
"""Where no keypoints are wanted in the images of a folder or list."""


OVERWRITE = bundled(
    "", dict, click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote there.")
)
"""Lets `make_out` pass over files that are there."""


def make_out(folder: Path, names: Iterable[str] = ()) -> None:
    """Create a command's folder for results, which goes again if nothing comes into it.

    ``names`` are the files and folders that the command will write there. Raises `GeomatchError` when one is
    there already and the option `OVERWRITE` was not given.
    """
    from geomatch.errors import GeomatchError
    from geomatch.files import make_folder

    context = click.get_current_context()
    there = [folder / name for name in names if (folder / name).exists()]
    if there and not context.params.get("overwrite"):
        raise GeomatchError(f"{there[0]} exists already; give another folder, or --overwrite to replace it")
    made = [place for place in (folder, *folder.parents) if not place.exists()]

    def remove() -> None:
        with suppress(OSError):  # one is not empty
            for place in made:
                place.rmdir()

    context.call_on_close(remove)
    make_folder(folder)


def parse_layers(text: str) -> tuple[str | int, ...]:
    """``2`` or ``up_blocks.0,up_blocks.1`` as `DIFTConfig.layers`."""
    return tuple(int(part) if part.isascii() and part.isdigit() else part for part in text.split(","))


def _parsed(read: Callable[[str], Any], kind: str) -> Callable[..., Any]:
    """A callback of options that reads their text; ``kind`` is what wrong ones are not."""

    def parse(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if isinstance(value, tuple):  # of an option that may be repeated
            return [parse(context, parameter, one) for one in value]
        try:
            return None if value is None else read(value)
        except ValueError as error:
            raise click.BadParameter(f"{value!r} {kind}") from error

    return parse


def _point(text: str) -> tuple[float, float]:
    x, y = map(float, text.split(","))
    return x, y


def _image_size(text: str) -> int | tuple[int, ...] | str:
    sides = () if text == _NATIVE else tuple(map(int, text.lower().split("x")))
    if len(sides) > 2:
        raise ValueError(text)
    return text if not sides else sides[0] if len(sides) == 1 else sides


_NATIVE = "native"
parse_points = _parsed(_point, "is no point; give x,y such as 120,80")
parse_numbers = _parsed(
    lambda text: tuple(map(int, text.split(","))), "are no whole numbers; give such as 3,2"
)
_PREFIX = "dift_"


def _option(flag: str, help: str, kind: Any = None, callback: Any = None) -> tuple[str, Option]:
    name = flag.split("/")[0]
    key = _PREFIX + name[2:].replace("-", "_")
    return name, click.option(flag, key, type=kind, default=None, help=help, callback=callback)


_OPTIONS = dict([
    _option("--model", "Weights for these settings: a diffusers folder, a single file, or a hub id."),
    _option("--unet-file", "Weights in place of the UNet's: a file, or ORG/REPO/FILE[@REV]."),
    _option("--revision", "Branch, tag or commit of a model on the hub."),
    _option("--timestep", "Noise level of the forward pass.", int),
    _option("--layers", "Where the network is read, A,B,...: see `geomatch models layers MODEL`.",
            callback=_parsed(parse_layers, "are no layers")),
    _option("--discard", "Channels of the layers that are set to 0, A,B,...", callback=parse_numbers),
    _option("--noise/--no-noise", "Add noise of that level, as the paper does.", bool),
    _option("--ensemble-size", "Noises to average over.", int),
    _option("--seed", "Random seed of the noise.", int),
    _option("--latent", "Value of the autoencoder's distribution.", click.Choice(["mode", "sample"])),
    _option("--prompt", "For models conditioned on text."),
    _option("--metric", "How descriptors are compared; l2 takes the activations as they are.",
            click.Choice(["cosine", "l2"])),
    _option("--sampling", "Whole image, or patch by patch.", click.Choice(["dense", "patch"])),
    _option("--image-size", "Size at which the descriptor uses the images: a side, WxH, or native.",
            callback=_parsed(_image_size, "is no size: give a number, WxH such as 768x768, or native")),
    _option("--image-side", "Which side --image-size is about.", click.Choice(["long", "short"])),
    _option("--head", "End with this projection head: a folder that `geomatch head fit` wrote."),
    ("--no-head", click.option("--no-head", f"{_PREFIX}no_head", is_flag=True,
                               help="Leave the preset's projection head out.")),
    _option("--dtype", "Number format of the network; auto: float16 on CUDA if it does not overflow, else "
            "float32.", click.Choice(["auto", "float32", "bfloat16", "float16"])),
    _option("--compile", "Compile the network; auto: on CUDA when many images come.",
            click.Choice(["auto", "on", "off"])),
    _option("--device", "Where networks run: cpu, cuda, mps. [default: the best there is]"),
    _option("--batch-size", "Noisy images per forward pass.", int),
])  # fmt: skip


DEVICE = bundled("", dict, _OPTIONS["--device"])
"""For commands without the other options of a descriptor."""


def descriptor_options(leave_out: Collection[str] = ()) -> Callable[[Command], Command]:
    """Add the options that change a descriptor's settings, but those named; `changed_config` applies them."""
    return bundled("", dict, *(made for name, made in _OPTIONS.items() if name not in leave_out))


def changed_config(config: "DIFTConfig") -> "DIFTConfig":
    """The settings with the options that were given."""
    changes = given_options()
    if changes.get("image_size") == _NATIVE:
        changes["image_size"] = None
    return replace(config, **changes)


DENSE = click.option("--descriptor", metavar="NAME", default="dift-tiny-dense", show_default=True,
                     shell_complete=complete_names,
                     help="A dense preset (`geomatch models`), or a diffusers model: folder or hub id."
                     )  # fmt: skip


def dense_config(descriptor: str) -> "DIFTConfig":
    """The settings of what `DENSE` names, with the options that were given."""
    from geomatch.describers import dift_config

    config = changed_config(dift_config(descriptor))
    if config.sampling != "dense":
        raise click.UsageError(f"{descriptor} works in patches; choose a dense one, such as dift-tiny-dense")
    return config


def given_options() -> dict[str, Any]:
    """The options of the descriptor that were given, by the names of `DIFTConfig`."""
    values = {k: v for k, v in click.get_current_context().params.items() if v is not None}
    given = {k.removeprefix(_PREFIX): v for k, v in values.items() if k.startswith(_PREFIX)}
    if given.pop("no_head", False):
        given["head"] = False
    return given
