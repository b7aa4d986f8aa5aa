"""The command `bench`: one module a verb; each parses, calls one library function and prints.

Verb modules import what they need inside their functions, so that help appears at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn

import typer

from benchmark.cli.analyse import analyse_command
from benchmark.cli.compare import compare_command
from benchmark.cli.data import data_app
from benchmark.cli.figures import figures_command
from benchmark.cli.listing import list_command
from benchmark.cli.prepare import prepare_command
from benchmark.cli.report import report_command
from benchmark.cli.run import run_command
from benchmark.cli.scan import scan_command
from benchmark.cli.simulate import simulate_command
from benchmark.cli.table import table_command
from benchmark.cli.throughput import throughput_command
from benchmark.cli.tune import tune_command
from benchmark.cli.verify import verify_command
from benchmark.errors import UserError
from benchmark.files import system_fault

HELP = """Compare multimodal clinical prediction models under one cohort, split, encoder and protocol.

Examples:

    bench run --models all

    bench tune --model flexcare --trials 40

    bench table --published

    bench compare flexcare mmf

    bench report report.html

    bench analyse calibration subgroups

    bench figures

    bench list models

    bench simulate --patients 1000 --seed 1 raw

    bench prepare --mimic-iv raw/mimic-iv data/mine

    bench run --models all --data data/mine

    bench throughput --models flexcare --against dense

    bench verify mmf-ihm-s40

    bench scan-results results

Each verb says more with --help."""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run_command)
app.command("tune")(tune_command)
app.command("table")(table_command)
app.command("compare")(compare_command)
app.command("report")(report_command)
app.command("analyse")(analyse_command)
app.command("figures")(figures_command)
app.command("list")(list_command)
app.command("prepare")(prepare_command)
app.add_typer(data_app, name="data")
app.command("simulate")(simulate_command)
app.command("throughput")(throughput_command)
app.command("verify")(verify_command)
app.command("scan-results")(scan_command)


def main() -> None:
    """Entry point. Exit code 0: all well; 1: a job failed; 2: the request cannot be carried out; 130: stopped."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")  # no library asks the network by itself
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        app()
    except UserError as fault:
        _refuse(str(fault))
    except KeyboardInterrupt:  # before a verb begins; in one, typer ends with the same code
        sys.exit(130)
    except OSError as fault:  # of the user's files and disks: a path that cannot be made, no right to read, no space
        _refuse(system_fault(fault))


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
