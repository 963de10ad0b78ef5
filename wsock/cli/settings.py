"""``wsock config``: the effective settings."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import click

from wsock.config import HIDDEN, Config, describe, resolve
from wsock.errors import ConfigError

__all__ = ["config", "config_option"]

config_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The TOML file with the settings (default: the variable WSOCK_CONFIG).",
)


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object, for programs.")
def config(file: Path | None, as_json: bool) -> None:
    """Prints the effective settings and where each comes from; passwords are hidden."""
    try:
        resolved = resolve(file=file, environ=os.environ)
    except ConfigError as e:
        raise click.ClickException(str(e)) from e
    rows = [(s.key, _shown(resolved.config, s.key), resolved.sources[s.key]) for s in describe()]
    if as_json:
        click.echo(json.dumps({key: {"value": value, "source": source} for key, value, source in rows}, indent=2))
        return
    for key, value, source in rows:
        click.echo(f"{key} = {json.dumps(value)}  # {source}")


def _value(config: Config, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def _shown(config: Config, key: str) -> Any:
    value = _value(config, key)
    return "..." if key in HIDDEN and value else _hidden(value)


def _hidden(value: Any) -> Any:
    """The value without the user and password of a URL."""
    if isinstance(value, tuple):
        return [_hidden(part) for part in value]
    return re.sub(r"(?<=//)[^/@\s]+@", "...@", value) if isinstance(value, str) else value
