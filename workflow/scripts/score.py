"""Score every prunable weight of a checkpoint, or every filter: higher means more important.

Runs once per strategy and seed; all ratios are selected from the same scores. Pictures, where a score
wants any, are training pictures, drawn by the seed and not augmented. With `--rounds`, the network is pruned
towards `--ratio` between rounds of scoring, and the scores are those of the last round.
"""

from __future__ import annotations

import argparse

from shrinkflow import (
    arguments,
    checkpoints,
    errors,
    files,
    measures,
    models,
    records,
    scoring,
    targets,
    training,
)
from shrinkflow.targets import Sizes


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/score.py --dataset digits.safetensors --checkpoint checkpoint.safetensors "
        "--score gradient-magnitude --parameter batches=4 --seed 1 --out scores.safetensors",
    )
    parser.add_argument("--dataset", required=True, metavar="FILE", help="processed data set")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="checkpoint to score")
    targets.add_score(parser)
    parser.add_argument("--out", required=True, metavar="OUT", help="scores to write")
    targets.add_target(parser, ratio=False)
    arguments.add_runtime(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    target = targets.target(args)
    chosen = scoring.scorer(args.score, dict(args.parameter), args.score_file, args.granularity)
    with records.job(
        __file__,
        inputs=[args.dataset, args.checkpoint],
        outputs=[args.out],
        parameters={
            "score": args.score,
            "parameters": chosen.parameters,
            "target": targets.described(target) if target.way.rounds > 1 else None,
            "seed": args.seed,
            "threads": args.threads,
            "device": args.device,
        },
        plugins=[chosen.file],
    ) as job:
        device = training.start(args.threads, args.device)
        job.device = training.device_name(device)
        network, described = checkpoints.load(args.checkpoint)
        job.plugins.append(models.file(described["model"]))
        sizes = measures.sizes(network, tuple(described["shape"]))
        dataset = training.read(args.dataset, args.folder, job)
        split = training.split(dataset, dataset.train, described["normalisation"], device)
        network = training.to(network, device)
        if target.way.rounds > 1:
            rounds = job.load("shrinkflow.rounds")
            scores = rounds.scores(chosen, network, split, args.seed, Sizes.of(sizes), target)
        else:
            scores = scoring.score(chosen, network, split, args.seed)
        files.write_tensors(
            args.out, scores, {"order": list(scores), "comparable": chosen.comparable, **sizes}
        )


if __name__ == "__main__":
    errors.run(main)
