"""Score every prunable weight of a checkpoint: higher means more important.

Runs once per strategy and seed; all ratios are selected from the same scores. Pictures, where a score
wants any, are training pictures, drawn by the seed and not augmented.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from shrinkflow import arguments, checkpoints, errors, files, models, records, scoring, training
from shrinkflow.data import dataset as datasets
from shrinkflow.strategies import SCORES


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/score.py --dataset digits.safetensors --checkpoint checkpoint.safetensors "
        "--score gradient-magnitude --parameter batches=4 --seed 1 --out scores.safetensors",
    )
    parser.add_argument("--dataset", required=True, metavar="FILE", help="processed data set")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="checkpoint to score")
    parser.add_argument("--score", required=True, metavar="NAME", help="score of the registry")
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        type=parameter,
        metavar="NAME=VALUE",
        help="parameter of the score; may be repeated",
    )
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="seed of every draw")
    parser.add_argument("--out", required=True, metavar="OUT", help="scores to write")
    arguments.add_runtime(parser)
    return parser.parse_args()


def parameter(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, the value as JSON where it is JSON, as text otherwise."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main() -> None:
    args = parse()
    parameters = dict(args.parameter)
    with records.job(
        __file__,
        inputs=[args.dataset, args.checkpoint],
        outputs=[args.out],
        parameters={
            "score": args.score,
            "parameters": parameters,
            "seed": args.seed,
            "threads": args.threads,
            "device": args.device,
        },
        plugins=[SCORES.file(args.score)],
    ) as job:
        device = training.start(args.threads, args.device)
        job.device = training.device_name(device)
        network, described = checkpoints.load(args.checkpoint)
        job.plugins.append(models.MODELS.file(described["model"]))
        dataset = datasets.read(args.dataset)
        split = training.Split(dataset, dataset.train, described["normalisation"], device)
        scores = scoring.score(args.score, training.to(network, device), split, args.seed, parameters)
        total = sum(weight.numel() for weight in network.parameters())
        files.write_tensors(args.out, scores, {"order": list(scores), "params": total})


if __name__ == "__main__":
    errors.run(main)
