"""The options of the descriptor, which several commands share."""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from geomatch.dift import DIFTConfig
    from geomatch.engine import Engine, RunContext

Command = TypeVar("Command", bound=Callable[..., Any])
_META = "geomatch.descriptor"
_ENGINE = "geomatch.engine"


def bundled(
    into: str, make: Callable[..., Any], *options: Callable[[Any], Any]
) -> Callable[[Command], Command]:
    """Options whose values a command gets as one argument.

    Args:
        into: name of that argument.
        make: gives its value from the options' values, by their names; a ``ValueError`` is the user's.
        options: made with ``click.option``.
    """

    def decorate(command: Command) -> Command:
        def run(*arguments: Any, **values: Any) -> Any:
            own = {name: values.pop(name) for name in names}
            return command(*arguments, **values, **{into: make(**own)})

        wrapped: Any = update_wrapper(run, command)
        earlier = list(getattr(command, "__click_params__", []))
        wrapped.__click_params__ = list(earlier)
        for option in reversed(options):
            wrapped = option(wrapped)
        names = [str(added.name) for added in wrapped.__click_params__[len(earlier) :]]
        return cast(Command, wrapped)

    return decorate


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """What was given on the command line goes to the context, so that commands need not name it."""
    if parameter.name is not None:
        _keep_as(context, parameter.name, value)


def _keep_as(context: click.Context, name: str, value: object) -> None:
    if value is not None:
        context.meta.setdefault(_META, {})[name] = value


def _layers(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        _keep(context, parameter, parse_layers(value))


def parse_layers(text: str) -> tuple[str | int, ...]:
    """``2`` or ``up_blocks.0,up_blocks.1`` as `DIFTConfig.layers`."""
    return tuple(int(part) if part.isascii() and part.isdigit() else part for part in text.split(","))


def parse_points(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> list[tuple[float, float]]:
    """``120,80`` as often as it was given; a callback of options."""
    points = []
    for value in values:
        try:
            x, y = (float(part) for part in value.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is no point; give x,y such as 120,80") from error
        points.append((x, y))
    return points


def _option(
    name: str, help: str, kind: Any = None, callback: Any = _keep, flag: bool = False
) -> tuple[str, Callable[[Command], Command]]:
    option = click.option(
        name, type=kind, default=None, expose_value=False, callback=callback, help=help, is_flag=flag or None
    )
    return name.split("/")[0], option


_OPTIONS = dict([
    _option("--model", help="Weights for these settings: a diffusers folder, or an id on the hub."),
    _option("--unet-file", help="Weights in place of the UNet's: a file, or ORG/REPO/FILE[@REV]."),
    _option("--revision", help="Branch, tag or commit of a model on the hub."),
    _option("--timestep", kind=int, help="Noise level of the forward pass."),
    _option("--layers", help="Where the UNet is read: the paper's indices or diffusers' names, A,B,...",
            callback=_layers),
    _option("--noise/--no-noise", kind=bool, help="Add noise of that level, as the paper does."),
    _option("--ensemble-size", kind=int, help="Noises to average over."),
    _option("--seed", kind=int, help="Of the noise."),
    _option("--latent", kind=click.Choice(["mode", "sample"]), help="Of the autoencoder's distribution."),
    _option("--prompt", help="For models conditioned on text."),
    _option("--metric", kind=click.Choice(["cosine", "l2"]),
            help="Of descriptors and matching; l2 takes the activations as they are."),
    _option("--sampling", kind=click.Choice(["dense", "patch"]), help="Whole image, or patch by patch."),
    _option("--image-size", help="Size at which the descriptor uses the images: a side, WxH, or native.",
            callback=lambda context, parameter, value: _keep(context, parameter, _image_size(value))),
    _option("--image-side", kind=click.Choice(["long", "short"]), help="Which side --image-size is about."),
    _option("--rotations", kind=int,
            help="Turned copies, to describe keypoints upright; 8 take 14 times as long."),
    _option("--scales", kind=int, help="Copies, each half as large, for keypoints of larger scale."),
    _option("--head", help="End with this projection head: a folder that `geomatch head fit` wrote."),
    _option("--no-head", help="Leave the preset's projection head out.", flag=True,
            callback=lambda context, _, value: _keep_as(context, "head", False if value else None)),
    _option("--dtype", kind=click.Choice(["float32", "bfloat16", "float16"]), help="Of the network."),
    _option("--device", help="cpu, cuda, mps. [default: the best there is]"),
    _option("--batch-size", kind=int, help="Noisy images per forward pass."),
])  # fmt: skip
_NATIVE = "native"


def engine_options(command: Command) -> Command:
    """Add the options that say who does the work; `chosen_engine` makes it."""
    options = [
        click.option("--engine", "_engine", type=click.Choice(["local", "ray"]), default="local",
                     show_default=True, expose_value=False, callback=_keep_engine,
                     help="This machine, or a Ray cluster."),
        click.option("--workers", "_workers", type=click.IntRange(min=1), expose_value=False,
                     callback=_keep_engine,
                     help="Processes. [default: one per core, of a cluster as many as it has room for]"),
        click.option("--ray-address", "_ray_address", metavar="ADDRESS", expose_value=False,
                     callback=_keep_engine,
                     help="Of the cluster. [default: RAY_ADDRESS; without it Ray starts here]"),
        click.option("--cpus-per-worker", "_cpus_per_worker", type=click.FloatRange(min=0.01),
                     expose_value=False, callback=_keep_engine, help="Of the cluster. [default: 1]"),
        click.option("--gpus-per-worker", "_gpus_per_worker", type=click.FloatRange(min=0),
                     expose_value=False, callback=_keep_engine,
                     help="For networks. [default: 1 if the cluster has any]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _keep_engine(context: click.Context, parameter: click.Parameter, value: object) -> None:
    context.meta.setdefault(_ENGINE, {})[str(parameter.name)] = value


def chosen_engine() -> "Engine":
    """The engine that the options name."""
    from geomatch.engine import create_engine

    given = click.get_current_context().meta[_ENGINE]
    return create_engine(
        given["_engine"],
        given["_workers"],
        given["_ray_address"],
        given["_cpus_per_worker"],
        given["_gpus_per_worker"],
    )


def run_options(store: str, device: bool = False) -> Callable[[Command], Command]:
    """Add the options of a `RunContext`, which the command gets as ``context``.

    Args:
        store: the default of ``--store``, in words.
        device: add ``--device``, for commands without the options of a descriptor.
    """

    def context(store: str | None, device: str = "auto") -> "RunContext":
        from geomatch.engine import RunContext

        return RunContext(store, click.get_current_context().with_resource(chosen_engine()), device)

    place = click.option("--store", metavar="PLACE",
                         help="Cache of features and results: a folder, or a URL, s3://bucket/folder. "
                         f"[default: {store}]")  # fmt: skip
    more = click.option(
        "--device", default="auto", show_default=True, help="Of the networks: cpu, cuda, mps."
    )
    add = bundled("context", context, place, *([more] if device else []))
    return lambda command: engine_options(add(command))


def descriptor_options(leave_out: Collection[str] = ()) -> Callable[[Command], Command]:
    """Add the options that change a descriptor's settings, but those named; `changed_config` applies them."""

    def add(command: Command) -> Command:
        for names, option in reversed(_OPTIONS.items()):
            if names not in leave_out:
                command = option(command)
        return command

    return add


def changed_config(config: "DIFTConfig") -> "DIFTConfig":
    """The settings with the options that were given."""
    changes = dict(given_options())
    if changes.get("image_size") == _NATIVE:
        changes["image_size"] = None
    return replace(config, **changes)


def given_options() -> dict[str, Any]:
    """The options of the descriptor that were given, by the names of `DIFTConfig`."""
    found: dict[str, Any] = click.get_current_context().meta.get(_META, {})
    return found


def _image_size(value: str | None) -> int | tuple[int, int] | str | None:
    if value is None or value == _NATIVE:
        return value
    parts = value.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{value!r} is no size: give a number, WxH such as 768x768, or native")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
