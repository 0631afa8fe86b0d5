"""What ``--help`` shows besides the options: panels and examples, which ``help.toml`` has."""

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import click

_MANY = 12  # options from which on a command has them in panels


def commands_of(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group by the words that call it, groups among them."""
    for name, command in group.commands.items():
        yield path + name, command
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{path}{name} ")


def add_help(app: click.Group) -> dict[str, Any]:
    """Give every command its examples, at the end of its help; returns settings of rich-click."""
    content = tomllib.loads(files(__package__).joinpath("help.toml").read_text(encoding="utf-8"))
    long = []
    for path, command in [("", app), *commands_of(app)]:
        command.epilog = "\n\n".join(["Examples:", *content["examples"][path]])
        long += [f"geomatch {path}"] * (len(command.params) > _MANY)
    options = dict.fromkeys(long, content["options"])
    return {**content["looks"], "command_groups": {"geomatch": content["commands"]}, "option_groups": options}
