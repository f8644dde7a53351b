"""The `mpitrain` command: `run`, `train`, `plan`, `doctor`, `recipes`.

Invariant: a verb parses, calls one function of the package, and prints; what a person got wrong is its message, on one rank,
and everything else that fails is a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from mpitrain.comm.failure import end_job_on_failure

    options = _parser().parse_args(arguments)
    with end_job_on_failure():
        sys.exit(options.verb(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mpitrain", description="Deep-learning training over MPI.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    run = verbs.add_parser("run", help="start a verb or a Python script on ranks of this machine")
    run.add_argument("-n", type=int, required=True, metavar="RANKS", help="number of ranks")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="VERB_OR_SCRIPT ...", help="what every rank runs")
    run.set_defaults(verb=_run)

    train = verbs.add_parser("train", help="train a recipe or a TOML file; under mpirun, srun or `mpitrain run`")
    train.add_argument("--resume", default="never", metavar="auto|never|PATH", help="go on from a checkpoint (default: never)")
    train.set_defaults(verb=_train)

    plan = verbs.add_parser("plan", help="print layout, stages, memory and schedule of a recipe; needs no MPI")
    plan.set_defaults(verb=_plan)

    for configured in (train, plan):
        configured.add_argument("config", metavar="NAME_OR_TOML", help="a recipe's name or a TOML file")
        configured.add_argument("--set", action="append", default=[], metavar="a.b=1", help="change a setting; may be repeated")

    doctor = verbs.add_parser("doctor", help="look at MPI, arrays and this machine; exit code 1 on a problem")
    doctor.set_defaults(verb=_doctor)

    recipes = verbs.add_parser("recipes", help="list the recipes")
    recipes.set_defaults(verb=_recipes)
    return parser


@contextmanager
def _explained() -> Iterator[None]:
    """What a person can get wrong ends the program with its sentence instead of a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
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
        job = prepare(load(options.config, options.set), world(), options.resume, arrays=os.environ.get("MPITRAIN_ARRAYS"))
    return run(job)


def _plan(options: argparse.Namespace) -> int:
    from mpitrain.config import load
    from mpitrain.job import planned

    with _explained():
        print("\n".join(planned(load(options.config, options.set)).lines()))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from mpitrain.observe.doctor import doctor

    return doctor()


def _recipes(options: argparse.Namespace) -> int:
    from mpitrain.config import recipes

    for name, sentence in recipes():
        print(f"{name:16}{sentence}")
    return 0
