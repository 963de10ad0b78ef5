"""The command ``wsock`` itself: which commands there are. Each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from wsock import __version__

__all__ = ["main"]

_SECTIONS: dict[str, dict[str, str]] = {
    "Logging in": {
        "login": "session:login",
        "logout": "session:logout",
        "whoami": "session:whoami",
        "account": "accounts:account",
        "token": "tokens:token",
    },
    "Apps": {
        "app": "apps:app",
        "key": "keys:key",
        "namespace": "namespaces:namespace",
        "revoke": "revocations:revoke",
        "webhook": "webhooks:webhook",
        "usage": "usage:usage",
        "analytics": "usage:analytics",
    },
    "Channels and connections": {
        "channels": "channels:channels",
        "channel": "channels:channel",
        "history": "channels:history",
        "presence": "channels:presence",
        "publish": "channels:publish",
        "tail": "tail:tail",
        "connections": "connections:connections",
        "disconnect": "connections:disconnect",
        "push": "push:push",
    },
    "Teams and the server": {
        "team": "teams:team",
        "plan": "plans:plan",
        "audit": "audit:audit",
        "config": "settings:config",
        "doctor": "doctor:doctor",
        "bench": "benchmark:bench",
        "bench-member": "benchmark:bench_member",
        "completion": "completion:completion",
    },
}
_PLACES = {name: place for commands in _SECTIONS.values() for name, place in commands.items()}


class _Program(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Click's hook."""
        return sorted(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Click's hook."""
        place = _PLACES.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(import_module(f"wsock.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Click's hook: by what they are for."""
        room = formatter.width - 6 - max(map(len, _PLACES))
        for title, names in _SECTIONS.items():
            found = {name: self.get_command(ctx, name) for name in names}
            shown = {name: command for name, command in found.items() if command is not None and not command.hidden}
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(room)) for name, command in shown.items()])


@click.command(cls=_Program)
@click.version_option(__version__, prog_name="wsock")
def main() -> None:
    """Administers a wsock server."""
