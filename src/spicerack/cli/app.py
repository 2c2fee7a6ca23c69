"""`spicerack`: the commands, and how a run that fails ends.

Errors raised on purpose are printed on one line and give the exit code of `spicerack.errors`; an interrupt gives 130.
Commands import what they need when they run, so that help is immediate.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

import spicerack
from spicerack.errors import SpicerackError

INTERRUPTED = 130

app = typer.Typer(
    name="spicerack",
    help="Pick the part of an instruction pool worth fine-tuning on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spicerack {spicerack.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pick the part of an instruction pool worth fine-tuning on."""


def register_commands() -> None:
    """Add every command to the app, once."""
    if app.registered_commands:
        return
    from spicerack.cli import (
        analyze,
        compare,
        demo,
        evaluate,
        export,
        features,
        gradients,
        inspect,
        methods,
        plan,
        report,
        run,
        select,
        train,
        warmup,
    )

    for module in (run, gradients, features, select, analyze, inspect, plan, methods, demo, train, evaluate, warmup):
        module.register(app)
    for module in (compare, report, export):
        module.register(app)


def main() -> None:
    """Entry point of the `spicerack` command."""
    _quiet_environment()
    register_commands()
    try:
        app()
    except SpicerackError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except SystemExit as ending:  # typer turns an interrupt into this
        if ending.code == INTERRUPTED:
            _say("interrupted; what is finished is kept, the same command goes on from there")
        raise


def _say(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"spicerack: {message}\n")


def _quiet_environment() -> None:
    """Before torch is imported: threads that wait must not spin, and loaders must not draw bars over ours."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that nobody asked for


if __name__ == "__main__":
    main()
