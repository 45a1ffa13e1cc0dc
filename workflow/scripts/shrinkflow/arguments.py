"""Command-line arguments that several programs share."""

from __future__ import annotations

import argparse
import gc

from shrinkflow import recipe

# Programs import this module first. Importing torch makes a million objects, and looking for garbage among
# them costs a tenth of a short job; `errors.run` switches the collector on again, for what comes after.
gc.disable()


def parser(description: str | None, example: str) -> argparse.ArgumentParser:
    """Return a parser that shows the program's docstring and an example."""
    return argparse.ArgumentParser(
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_training(parser: argparse.ArgumentParser, label: str) -> None:
    """Add what pretraining and finetuning share: seed, outputs, recipe, computing."""
    parser.add_argument("--checkpoint", required=True, metavar="OUT", help="checkpoint to write")
    parser.add_argument("--history", required=True, metavar="OUT", help="history (CSV) to write")
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="where to keep a resume point: run again after an interruption, the training goes on from there",
    )
    parser.add_argument("--label", default=label, help="name of this training in messages")
    add_runtime(parser)
    recipe.add_arguments(parser)


def add_candidates(parser: argparse.ArgumentParser) -> None:
    """Add what keeps the networks that the best epoch was chosen from."""
    parser.add_argument(
        "--candidates",
        metavar="OUT",
        help="networks of all epochs to write, of which the best was chosen (default: they are forgotten)",
    )


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add what says where and how a job computes: `--threads`, `--device`, `--folder`."""
    group = parser.add_argument_group("computing")
    group.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of torch; results depend on it"
    )
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU where there is one",
    )
    group.add_argument(
        "--folder", metavar="FOLDER", help="where the pictures of the data set are, if they are streamed"
    )
