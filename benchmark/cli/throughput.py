"""`bench throughput`: how fast models train and predict, and what a step is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def throughput_command(
    models: Annotated[str, typer.Option(help="Names of models or groups with commas between.")] = "all",
    tasks: Annotated[
        str | None, typer.Option(help="Task mixes with commas between. Default: the six of Table 3.")
    ] = None,
    forms: Annotated[
        str, typer.Option(help="Forms of a step with commas between: packed, fixed, alone, dense.")
    ] = "packed",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, or both with a comma; bfloat16 by autocast.")
    ] = "float32",
    against: Annotated[
        str | None, typer.Option(metavar="dense", help="Run the dense reference alternating with the forms; ratios.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples a batch. Default: the protocol's.")] = None,
    seeds_in_parallel: Annotated[int, typer.Option(min=1, help="Models a step of the fixed form trains.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count; a median of fewer than 7 says little.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Of torch, on the CPU.")] = 1,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")] = "auto",
    protocol: Annotated[
        str, typer.Option(metavar="NAME|FILE.yaml", help="Sizes of the models and of a batch.")
    ] = "paper",
    profile: Annotated[
        Path | None,
        typer.Option(metavar="TRACE.json", help="Also write a trace of one training step of the first row."),
    ] = None,
    scaling: Annotated[
        bool,
        typer.Option("--scaling", help="Also measure how a step grows with length, batch, absence, seeds, samples."),
    ] = False,
    end_to_end: Annotated[
        bool,
        typer.Option(
            "--end-to-end", help="Also measure a step from the disk, everything done anew, against the same here."
        ),
    ] = False,
    loop: Annotated[
        bool,
        typer.Option("--loop", help="Also measure the training loop: several seeds in a step, batches from stores."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder. Default: results/throughput/<device>-<date>.")
    ] = None,
) -> None:
    """Measure training steps and predictions on SIMULATED samples of the shapes of the paper's tasks.

    Tables (Markdown, LaTeX, CSV), plots and raw rounds are written into a new folder.

    Examples:

        bench throughput --models flexcare --tasks ihm,phe --against dense

        bench throughput --models all --dtype float32,bfloat16 --against dense

        bench throughput --models flexcare --tasks ihm --end-to-end --threads 2

        bench throughput --models flexcare --tasks los --scaling --batch-size 8

        bench throughput --models all --tasks los --forms fixed,alone --loop --device cuda

        bench throughput --protocol quick --rounds 3
    """
    import os

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler of torch tells its own steps otherwise

    from benchmark.throughput.command import Asked, run

    words = [None if text is None else tuple(text.split(",")) for text in (models, tasks, forms, dtype)]
    asked = Asked(
        models=words[0],
        tasks=words[1],
        forms=words[2],
        dtypes=words[3],
        against=against,
        batch_size=batch_size,
        seeds=seeds_in_parallel,
        rounds=rounds,
        threads=threads,
        device=device,
        protocol=protocol,
        profile=profile,
        scaling=scaling,
        end_to_end=end_to_end,
        loop=loop,
        out=out,
    )
    done = run(asked, lambda text: typer.echo(text, err=True))
    typer.echo(done.text)
    typer.echo(f"Written to {done.folder}")
