"""Puts the commands together, and turns every way in which they can end into an exit code.

0 done · 1 some of several slides failed · 2 wrong usage · 65 the input is at fault · 70 our fault
(internal-error) 75 worth trying again · 78 the installation is at fault · 130 interrupted · 143 terminated
(sysexits.h where it fits)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from histgen_lib import __version__
from histgen_lib.cli.output import Failure, emit_error
from histgen_lib.errors import HistgenError

INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141
_AGAIN_S = 0.05


class _Commands(TyperGroup):
    """The commands; Ctrl-C is told to the person who pressed it, which typer ends without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.stderr.write("\nInterrupted; nothing half-written was left behind.\n")
            raise typer.Exit(INTERRUPTED) from None


_PANELS = {
    "Slides": "report tiles encode",
    "Start here": "stream.demo doctor",
    "The stream": "stream.up stream.submit stream.status stream.watch stream.replay stream.backfill "
    "stream.verify stream.prune stream.audit export config",
    "Training and evaluation": "synth train-encoder train evaluate compare model",
}
_GROUPS = ("audit", "config", "model")
"""Commands that have commands of their own."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"histgen {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Hold what stands before the command."""


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """Make the command line: of the one command that is asked for, since making all takes as long again."""
    app = typer.Typer(
        name="histgen",
        cls=_Commands,
        help="Draft the pathology report of a whole-slide image, with evidence. Drafts are not for clinical "
        "use.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback()(_options)
    commands = [(path, panel) for panel, paths in _PANELS.items() for path in paths.split()]
    asked = [command for command in commands if [_name(command[0])] == list(arguments[:1])]
    _add(app, asked or commands)
    return app


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _add(app: typer.Typer, commands: Iterable[tuple[str, str]]) -> None:
    """Add commands, each from the module whose name it has; `commands`: that module and a panel."""
    for path, panel in commands:
        name = _name(path)
        function = name.replace("-", "_")
        module = import_module(f"histgen_lib.cli.{path.replace('-', '_')}")
        if name in _GROUPS:
            app.add_typer(module.app, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(getattr(module, function))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; never raises. With HISTGEN_DEBUG=1 a traceback also goes to stderr."""
    as_json = "--json" in arguments
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not where it is ignored: behind nohup
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _come_again
    try:
        code = make_app(arguments)(args=list(arguments), prog_name="histgen", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):  # before or after the command itself
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    except Exception as error:  # the last line of defence: a person gets a sentence, never a traceback
        return _fail(error, as_json)


def _fail(error: Exception, as_json: bool) -> int:
    if os.environ.get("HISTGEN_DEBUG") == "1":
        traceback.print_exception(error)
    if hasattr(error, "format_message") and hasattr(error, "show"):  # wrong usage, found by typer
        return _usage(error, as_json)
    failure = Failure.of(error)
    emit_error(failure, as_json=as_json)
    return error.exit_code if isinstance(error, HistgenError) else failure.exit_code


def _usage(error: Any, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "histgen"
    failure = Failure("usage", error.format_message(), f"See {command} --help.", 2)
    emit_error(failure, as_json=as_json)
    return failure.exit_code


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C.

    CPython takes a plain KeyboardInterrupt that passed through `exec` of a string (as dataclasses do while
    they are imported) for one that nobody handled, and ends by the signal whatever code is returned.
    """


class _Terminated(SystemExit):
    """SIGTERM."""


def _come_again(dropped: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception Python dropped: it came in a callback, amid an import, say."""
    number = signal.SIGTERM if dropped.exc_type is _Terminated else signal.SIGINT
    if dropped.exc_type in (_Terminated, _Interrupted):
        main_thread = threading.main_thread().ident
        threading.Timer(_AGAIN_S, signal.pthread_kill, [main_thread, number]).start()
    else:
        sys.__unraisablehook__(dropped)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Interrupted


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated(TERMINATED)
