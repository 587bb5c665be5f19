"""`otpd`: the group of commands, each loaded only when it is used, and the way from any failure to an exit code.

A failure is one or two lines on stderr (what and why; the next step), with --json one JSON object there. A traceback is
only shown with OTPD_DEBUG=1.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import click

from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.ipc.control import ControlError

#: In the environment: the shell asks for completions.
COMPLETE: Final = "_OTPD_COMPLETE"


class Entry(NamedTuple):
    """Where a command is and what `otpd --help` says of it."""

    module: str
    attribute: str
    help: str


COMMANDS: Final[Mapping[str, Entry]] = {
    "init": Entry("init", "init", "Write a commented otpd.toml and a first agent."),
    "check": Entry("check", "check", "Validate the config and the worker scripts."),
    "start": Entry("start", "start", "Run the tree, in the foreground or detached."),
    "stop": Entry("stop", "stop", "Stop the whole node in order."),
    "tree": Entry("tree", "tree", "The picture of the tree."),
    "status": Entry("status", "status", "All workers in a flat table; wait for a state."),
    "top": Entry("top", "top", "The table of workers, live, with cpu and memory."),
    "why": Entry("why", "why", "The last deaths of a child and what comes next."),
    "logs": Entry("logs", "logs", "What the children printed."),
    "events": Entry("events", "events", "What happened in the tree."),
    "errors": Entry("errors", "errors", "What died or went wrong, over all restarts."),
    "call": Entry("messages", "call", "Call a method of an agent and print its answer."),
    "cast": Entry("messages", "cast", "Send a message to an agent, one way."),
    "publish": Entry("messages", "publish", "Publish an event on a topic."),
    "describe": Entry("messages", "describe", "What an agent can be asked, with signatures."),
    "exec": Entry("commands", "exec_", "Run a command in the node's sandbox."),
    "commands": Entry("commands", "commands", "Commands that run, and what became of the last ones."),
    "health": Entry("health", "health", "Whether the children and the host are well; ask at once."),
    "letters": Entry("letters", "letters", "Durable messages that were given up, or wait."),
    "schedule": Entry("schedule", "schedule", "What runs by time: list, next, run, pause, resume."),
    "state": Entry("state", "state", "What agents have saved: show, export, import, drop, backup."),
    "breaker": Entry("breaker", "breaker", "Force an agent's circuit breaker, or give it back."),
    "child": Entry("child", "child", "Start, stop, restart or delete children by name."),
    "restart": Entry("child", "restart", "Restart children by name."),
    "scale": Entry("actions", "scale", "Change the number of instances of a child."),
    "signal": Entry("actions", "signal", "Send a signal to a worker."),
    "reload": Entry("reload", "reload", "Apply the difference between file and node."),
    "tasks": Entry("tasks", "tasks", "What the task pools are doing."),
    "pool": Entry("tasks", "pool", "Resize or drain a task pool."),
    "doctor": Entry("doctor", "doctor", "Check this machine and the node's files."),
    "metrics": Entry("metrics", "metrics", "The numbers of the node, for Prometheus."),
    "completion": Entry("actions", "completion", "Print the shell completion script."),
    "embed": Entry("embed", "embed", ""),  # for programs; not shown
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in COMMANDS.items() if entry.help]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(f"otpd.cli.{entry.module}"), entry.attribute)
        assert isinstance(command, click.Command)
        for each in _with_subcommands(command):
            _accept_config(each)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise Failure(Exit.USAGE, f"there is no command '{args[0]}'", _nearest(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items() if entry.help])


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, COMMANDS, 1, 0.5)
    return f"did you mean: otpd {found[0]}?" if found else "see all commands with: otpd --help"


def _with_subcommands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        yield from command.commands.values()


def _accept_config(command: click.Command) -> None:
    """Let `otpd tree --config FILE` mean `otpd --config FILE tree`; -f too, where it means nothing else."""
    taken = {name for param in command.params for name in param.opts}
    if "--config" not in taken:
        names = ["--config"] if "-f" in taken else ["--config", "-f"]
        command.params.append(
            click.Option(names, metavar="FILE", expose_value=False, hidden=True, callback=_use_config)
        )


def _use_config(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Context).option = value


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib import metadata

        click.echo(f"otpd {metadata.version('otpd')}")
        ctx.exit()


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--config", metavar="FILE", help="Default: $OTPD_CONFIG, or the nearest otpd.toml upwards.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@click.pass_context
def otpd(ctx: click.Context, config: str | None) -> None:
    """Runs a tree of operating-system processes the way Erlang/OTP runs a tree of its own.

    \b
    Exit codes: 0 done, 1 tried and failed, 2 usage or config, 3 state is not as asked, 4 no such child,
    5 permission, 7 node not running, 8 timed out, 9 already running, 70 internal error or root gave up.
    """
    ctx.obj = Context(config)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(Exit.USAGE)


def main() -> None:
    """The entry point: never returns, never shows a traceback that nobody asked for."""
    _tolerate_any_text()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    except OSError as error:
        _complain(f"otpd: can't write the output: {error.strerror}")
        _forget_stdout()
        code = code or Exit.FAILED
    sys.exit(int(code))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line; what went wrong is on stderr.

    click's own `main` is not used: it takes a broken pipe for a failure.
    """
    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(otpd, {}, "otpd", COMPLETE, instruction)
    try:
        with otpd.make_context("otpd", list(arguments)) as ctx:
            otpd.invoke(ctx)
    except click.exceptions.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        _forget_stdout()
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED
    except Exception as error:
        return _report(_failure(error), "--json" in arguments)
    return Exit.DONE


def _failure(error: Exception) -> Failure:
    """Every exception as a failure of the table."""
    from otpd.supervisor.paths import PathError
    from otpd.supervisor.problems import ConfigErrors

    match error:
        case Failure():
            return error
        case ControlError():
            return Failure(error.code, error.error, error.hint)
        case ConfigErrors():
            return config_failure(error)
        case PathError():
            return Failure(Exit.FAILED, str(error))
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "otpd"
            return Failure(Exit.USAGE, error.format_message(), f"see: {where} --help")
        case click.ClickException():
            return Failure(error.exit_code, error.format_message())
        case PermissionError():
            return Failure(Exit.PERMISSION, _of_os(error), "run otpd as the user who owns it")
        case OSError():
            return Failure(Exit.FAILED, _of_os(error), "look with: otpd doctor")
    return _unexpected(error)


def config_failure(error: Exception) -> Failure:
    """All problems of a config, one per line."""
    problems = getattr(error, "problems", ())
    found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    text = f"the config can't be used, {found}:\n" + "\n".join(f"  {problem}" for problem in problems)
    return Failure(Exit.USAGE, text, "correct it, then look with: otpd check", [p.to_dict() for p in problems])


def _of_os(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def _unexpected(error: Exception) -> Failure:
    import traceback

    if os.environ.get("OTPD_DEBUG"):
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return Failure(
        Exit.INTERNAL,
        f"internal error: {type(error).__name__}: {error}{where}",
        "this is a bug of otpd; set OTPD_DEBUG=1 to see the traceback",
    )


def _report(failure: Failure, as_json: bool) -> int:
    if as_json:
        import json

        _complain(json.dumps(failure.to_dict()))
    else:
        _complain(failure.text())
    return failure.code


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        pass


def _tolerate_any_text() -> None:
    """Names and output of children may hold what the locale can't show."""
    import io

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _forget_stdout() -> None:
    """The reader of our output has gone (`| head`): nothing more may be written, not even at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


if __name__ == "__main__":
    main()
