"""The command line: assembles the commands, and turns each way they can end into an exit code.

0 success · 1 some of several slides failed · 2 wrong usage · 65 invalid input · 70 internal error ·
75 temporary failure, try again · 78 broken installation · 130 interrupted · 143 terminated
(sysexits.h where it applies)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
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
    """The commands. On Ctrl-C they print a message, where typer ends silently."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.stderr.write("\nInterrupted; nothing half-written was left behind.\n")
            raise typer.Exit(INTERRUPTED) from None


_COMMANDS = {
    "report": ("Slides", "offline.report:report"),
    "tiles": ("Slides", "offline.tiles:tiles"),
    "encode": ("Slides", "offline.encode:encode"),
    "demo": ("Start here", "stream.demo:demo"),
    "doctor": ("Start here", "offline.doctor:doctor"),
    "up": ("The stream", "stream.up:up"),
    "submit": ("The stream", "stream.submit:submit"),
    "status": ("The stream", "stream.status:status"),
    "watch": ("The stream", "stream.watch:watch"),
    "search": ("The stream", "stream.search:search"),
    "sign": ("The stream", "stream.sign:sign"),
    "withdraw": ("The stream", "stream.sign:withdraw"),
    "cases": ("The stream", "stream.cases:app"),
    "replay": ("The stream", "stream.replay:replay"),
    "backfill": ("The stream", "stream.backfill:backfill"),
    "verify": ("The stream", "stream.verify:verify"),
    "supervise-models": ("The stream", "stream.supervise:supervise_models"),
    "prune": ("The stream", "stream.prune:prune"),
    "audit": ("The stream", "stream.audit:app"),
    "export": ("The stream", "offline.export:export_repository"),
    "compile": ("The stream", "offline.compile:compile_engines"),
    "config": ("The stream", "config:app"),
    "plan": ("The stream", "offline.plan:plan"),
    "synth": ("Training and evaluation", "offline.synth:synth"),
    "train-encoder": ("Training and evaluation", "offline.train:train_encoder"),
    "train": ("Training and evaluation", "offline.train:train"),
    "evaluate": ("Training and evaluation", "offline.evaluate:evaluate"),
    "compare": ("Training and evaluation", "offline.compare:compare"),
    "train-retrieval": ("Training and evaluation", "offline.train_retrieval:train_retrieval"),
    "evaluate-retrieval": ("Training and evaluation", "offline.evaluate_retrieval:evaluate_retrieval"),
    "compare-retrieval": ("Training and evaluation", "offline.compare_retrieval:compare_retrieval"),
    "mine-prompts": ("Training and evaluation", "offline.prompts:mine_prompts"),
    "model": ("Training and evaluation", "offline.model:app"),
}
"""Command: its panel in --help, and the function (or the group of commands) behind it, loaded when needed."""


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"histgen {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Accept the options before the command."""


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """Make the command line, with only the command that `arguments` name, if any: it loads faster."""
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
    command = arguments[0] if arguments else ""
    for name in [command] if command in _COMMANDS else _COMMANDS:
        _add(app, name)
    return app


def _add(app: typer.Typer, name: str) -> None:
    panel, place = _COMMANDS[name]
    module, _, attribute = place.partition(":")
    command = getattr(import_module(f"histgen_lib.cli.{module}"), attribute)
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name, rich_help_panel=panel)
    else:
        app.command(name, rich_help_panel=panel)(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; never raises. With HISTGEN_DEBUG=1 a traceback also goes to stderr."""
    as_json = "--json" in arguments
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not if it is ignored, as under nohup
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _send_again
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
    except Exception as error:  # last line of defence: people get a sentence, never a traceback
        return _fail(error, as_json)


def _fail(error: Exception, as_json: bool) -> int:
    if os.environ.get("HISTGEN_DEBUG") == "1":
        traceback.print_exception(error)
    if hasattr(error, "format_message") and hasattr(error, "show"):  # wrong usage, detected by typer
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

    CPython takes a plain KeyboardInterrupt that passed through `exec` of a string (as dataclasses use when
    they are imported) for an unhandled one, and then exits by the signal whatever code is returned.
    """


class _Terminated(SystemExit):
    """SIGTERM."""


def _send_again(dropped: sys.UnraisableHookArgs) -> None:
    """Resend a signal whose exception Python dropped because it arrived in a callback."""
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
