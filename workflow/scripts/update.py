"""Move the weights that stay, once it is known which go, by the strategy's own rule (optimal brain surgeon).

Writes the pruned checkpoint that finetuning starts from. Pictures are those the scores were computed from.
"""

from __future__ import annotations

import argparse

from shrinkflow import arguments, checkpoints, errors, masks, models, records, scoring, targets, training
from shrinkflow.strategies import SCORES


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/update.py --dataset digits.safetensors --checkpoint checkpoint.safetensors "
        "--mask mask.safetensors --score woodfisher --seed 1 --out updated.safetensors",
    )
    parser.add_argument("--dataset", required=True, metavar="FILE", help="processed data set")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="checkpoint that was scored")
    parser.add_argument("--mask", required=True, metavar="FILE", help="which weights stay")
    targets.add_score(parser)
    parser.add_argument("--out", required=True, metavar="OUT", help="checkpoint to write")
    arguments.add_runtime(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    with records.job(
        __file__,
        inputs=[args.dataset, args.checkpoint, args.mask],
        outputs=[args.out],
        parameters={
            "score": args.score,
            "parameters": dict(args.parameter),
            "seed": args.seed,
            "threads": args.threads,
            "device": args.device,
        },
        plugins=[SCORES.file(args.score)],
    ) as job:
        device = training.start(args.threads, args.device)
        job.device = training.device_name(device)
        network, described = checkpoints.load(args.checkpoint)
        job.plugins.append(models.file(described["model"]))
        mask = masks.read(args.mask, network)
        dataset = training.read(args.dataset, args.folder, job)
        split = training.split(dataset, dataset.train, described["normalisation"], device)
        scoring.update(args.score, dict(args.parameter), training.to(network, device), split, args.seed, mask)
        checkpoints.save(args.out, network, described)


if __name__ == "__main__":
    errors.run(main)
