"""``wsock completion``: what a shell is told to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from wsock.cli.output import Output

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--json", "as_json", is_flag=True, help="A JSON object, for programs.")
def completion(shell: str, as_json: bool) -> None:
    """Prints the script that completes wsock's commands and options in a shell.

    \b
    bash:  eval "$(wsock completion bash)"        in ~/.bashrc
    zsh:   eval "$(wsock completion zsh)"         in ~/.zshrc, after compinit
    fish:  wsock completion fish | source         in ~/.config/fish/config.fish
    """  # noqa: D301  # Click takes this for lines to be left as they are
    kind = get_completion_class(shell)
    assert kind is not None, "Click knows these three"
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "wsock", "_WSOCK_COMPLETE").source()
    Output(as_json=as_json).answer({"shell": shell, "script": script}, lambda: script)
