"""The `mpitrain` command: `run`, `train`, `plan`, `export`, `trace`, `plot`, `doctor`, `recipes`.

Invariant: a verb parses, calls one function of the package, and prints; what a person got wrong is its message, on one rank,
and everything else that fails is a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from mpitrain.comm.failure import end_job_on_failure

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a model's text ends no run on a terminal that lacks a letter of it
    options = _parser().parse_args(arguments)
    with end_job_on_failure(), _warnings_in_a_line():
        sys.exit(options.verb(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mpitrain", description="Deep-learning training over MPI.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    run = verbs.add_parser("run", help="start a verb or a Python script on ranks of this machine")
    run.add_argument("-n", type=int, required=True, metavar="RANKS", help="number of ranks")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="VERB_OR_SCRIPT ...", help="what every rank runs")
    run.set_defaults(verb=_run)

    train = verbs.add_parser("train", help="train a recipe or a TOML file; under mpirun, srun or `mpitrain run`")
    train.add_argument(
        "--resume",
        default="never",
        metavar="auto|never|PATH",
        help="go on from a checkpoint: auto from the newest in this run's folder; PATH from that one, in a new folder",
    )
    restart = "with --resume: read the data, which may be new ones, from their start"
    train.add_argument("--restart-data", action="store_true", help=restart)
    train.set_defaults(verb=_train)

    plan = verbs.add_parser("plan", help="print layout, stages, memory and schedule of a recipe; needs no MPI")
    plan.set_defaults(verb=_plan)

    for configured in (train, plan):
        configured.add_argument("config", metavar="NAME_OR_TOML", help="a recipe's name or a TOML file")
        configured.add_argument("--set", action="append", default=[], metavar="a.b=1", help="change a setting; may be repeated")

    export = verbs.add_parser("export", help="write a trained model as a folder that transformers loads; needs no MPI")
    export.add_argument(
        "checkpoint", metavar="RUN_OR_CHECKPOINT", help="a run's folder or name, for its newest; or a checkpoint"
    )
    export.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where to write it")
    export.add_argument("--shard-gb", type=float, default=5.0, metavar="GB", help="most 10^9 bytes of a file (default: 5)")
    export.set_defaults(verb=_export)

    trace = verbs.add_parser("trace", help="write a run's recorded steps for Perfetto or chrome://tracing")
    trace.set_defaults(verb=_trace)

    plot = verbs.add_parser(
        "plot", help="draw a run's losses, or the pipeline of one of its steps; needs the extra mpitrain[plot]"
    )
    plot.add_argument("--pipeline", action="store_true", help="a step measured above simulated, its bubble and costliest waits")
    plot.add_argument("--step", type=int, metavar="N", help="which recorded step (default: the last)")
    plot.set_defaults(verb=_plot)

    for drawn in (trace, plot):
        drawn.add_argument("run", metavar="RUN", help="the run's folder, or its name in runs/")
        drawn.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write it (default: in the run's folder)")

    doctor = verbs.add_parser("doctor", help="look at MPI, arrays and this machine; exit code 1 on a problem")
    doctor.add_argument("--comm", action="store_true", help="measure the collectives too; under mpirun, srun or `mpitrain run`")
    doctor.set_defaults(verb=_doctor)

    recipes = verbs.add_parser("recipes", help="list the recipes")
    recipes.set_defaults(verb=_recipes)
    return parser


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """A person is told the warning, and not the line of the package that warns."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where: print(f"mpitrain: {message}", file=sys.stderr, flush=True)
        yield


@contextmanager
def _explained() -> Iterator[None]:
    """What a person can get wrong ends the program with its sentence instead of a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise SystemExit(f"mpitrain: {error}") from error


def _run(options: argparse.Namespace) -> int:
    from mpitrain.comm.launch import is_script, launch

    if options.command and not is_script(options.command[0]):
        _parser().parse_args(options.command)  # so that a wrong option is said once, and before any rank starts
    with _explained():
        return launch(options.n, options.command)


def _train(options: argparse.Namespace) -> int:
    from mpitrain.comm import world
    from mpitrain.config import load
    from mpitrain.job import prepare, run

    with _explained():
        config, arrays = load(options.config, options.set), os.environ.get("MPITRAIN_ARRAYS")
        job = prepare(config, world(), options.resume, arrays=arrays, restart_data=options.restart_data)
    if run(job):
        raise SystemExit("mpitrain: this layout computes something else than one rank does: see the self-check above")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from mpitrain.config import load
    from mpitrain.job import planned

    with _explained():
        print("\n".join(planned(load(options.config, options.set)).lines()))
    return 0


def _export(options: argparse.Namespace) -> int:
    from mpitrain.checkpoint.export import export_checkpoint

    with _explained():
        folder = _run_folder(options.checkpoint)
        found = export_checkpoint(folder, options.to, shard_bytes=round(options.shard_gb * 1e9))
    print(f"{found} as a model for transformers in {options.to}")
    return 0


def _trace(options: argparse.Namespace) -> int:
    from mpitrain.observe.perfetto import write_perfetto
    from mpitrain.observe.trace import read_trace

    with _explained():
        folder = _run_folder(options.run)
        output = options.output or folder / "trace.json"
        steps = read_trace(folder / "trace")
        write_perfetto(steps, output)
    print(f"steps {', '.join(str(step.step) for step in steps)} in {output}; open it in https://ui.perfetto.dev")
    return 0


def _plot(options: argparse.Namespace) -> int:
    from mpitrain.observe.ideal import ideal
    from mpitrain.observe.metrics import read_metrics
    from mpitrain.observe.plots import plot_curves, plot_pipeline
    from mpitrain.observe.trace import chosen, read_trace
    from mpitrain.observe.waits import report

    with _explained():
        folder = _run_folder(options.run)
        if options.pipeline:
            step = chosen(read_trace(folder / "trace"), options.step)
            output = options.output or folder / f"pipeline-{step.step:08d}.png"
            simulated = ideal(step)
            plot_pipeline(step, simulated, output, folder.name)
            print("\n".join(report(step, simulated)))
        else:
            if options.step is not None:
                raise ValueError("--step says which step's pipeline is drawn; add --pipeline, or leave it out")
            output = options.output or folder / "curves.png"
            metrics = read_metrics(folder / "metrics.jsonl")
            if not metrics:
                raise ValueError(f"the metrics in {folder} hold no step; a run writes a line after each")
            plot_curves(metrics, output, folder.name)
    print(f"drawn in {output}")
    return 0


def _run_folder(name: str) -> Path:
    """The folder of the run that a person means."""
    for folder in (Path(name), Path("runs") / name):
        if folder.is_dir():
            return folder
    raise ValueError(f"there is no run {name!r}; expected a run's folder, or its name in {Path('runs').resolve()}")


def _doctor(options: argparse.Namespace) -> int:
    from mpitrain.observe.doctor import doctor

    return doctor(comm=options.comm)


def _recipes(options: argparse.Namespace) -> int:
    from mpitrain.config import recipes

    for name, sentence in recipes():
        print(f"{name:16}{sentence}")
    return 0
