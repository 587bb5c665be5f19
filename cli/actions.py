"""The small commands that change one thing in a running node (`scale`, `signal`), and `completion`."""

from __future__ import annotations

import signal as signals

import click

from otpd.cli.arguments import json_option, name_argument, to_signal
from otpd.cli.context import Context
from otpd.cli.output import say, say_json
from otpd.cli.words import count, listed


@click.command("scale")
@name_argument
@click.argument("n", type=click.IntRange(0))
@json_option
@click.pass_obj
def scale(context: Context, name: str, n: int, json_: bool) -> None:
    """Run N instances of NAME: NAME-1 ... NAME-N. The config is not changed; the next reload goes by the config."""
    with context.control() as control:
        found = control.ask("scale", timeout=None, name=name, n=n)
    if json_:
        say_json(found)
        return
    parts = [f"added {listed(found['added'])}"] if found.get("added") else []
    parts += [f"removed {listed(found['removed'])}"] if found.get("removed") else []
    done = ", ".join(parts) or f"nothing to do, there {'is' if n == 1 else 'are'} {count(n, 'instance')}"
    say(f"{name}: {done}")


@click.command("signal")
@click.argument("sig", callback=to_signal, metavar="SIG")
@name_argument
@json_option
@click.pass_obj
def signal(context: Context, sig: signals.Signals, name: str, json_: bool) -> None:
    """Send SIG (TERM, SIGUSR1, 9, ...) to the main process of NAME. What it then does is its supervisor's business."""
    with context.control() as control:
        found = control.ask("signal", signal=int(sig), name=name)
    if json_:
        say_json(found)
    else:
        say(f"{name}: {sig.name} sent to pid {found['pid']}")


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and names in SHELL.

    \b
    bash: otpd completion bash > ~/.local/share/bash-completion/completions/otpd
    zsh:  otpd completion zsh > "${fpath[1]}/_otpd"
    fish: otpd completion fish > ~/.config/fish/completions/otpd.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    say(found(ctx.find_root().command, {}, "otpd", "_OTPD_COMPLETE").source())
