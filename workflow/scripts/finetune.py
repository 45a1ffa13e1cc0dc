"""Finetune a pruned network: start from a checkpoint, apply a mask, train with the mask fixed.

Writes the checkpoint of the best validation epoch and the history of all epochs (epoch 0: pruned, not
yet trained), each with its record. A weight masked 0 is exactly zero after every optimizer step.
"""

from __future__ import annotations

import argparse

from shrinkflow import arguments, checkpoints, errors, masks, models, recipe, records, training
from shrinkflow.data import dataset as datasets


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/finetune.py --dataset digits.safetensors --initial pretrained.safetensors "
        "--mask mask.safetensors --seed 1 --optimizer adam --lr 0.0003 --epochs 10 "
        "--checkpoint checkpoint.safetensors --history history.csv",
    )
    parser.add_argument("--dataset", required=True, metavar="FILE", help="processed data set")
    parser.add_argument("--initial", required=True, metavar="FILE", help="checkpoint to start from")
    parser.add_argument("--mask", required=True, metavar="FILE", help="mask to keep to")
    arguments.add_training(parser, label="finetuning")
    return parser.parse_args()


def main() -> None:
    args = parse()
    chosen = recipe.from_arguments(args)
    with records.job(
        __file__,
        inputs=[args.dataset, args.initial, args.mask],
        outputs=[args.checkpoint, args.history],
        parameters={
            "seed": args.seed,
            "recipe": recipe.to_flags(chosen),
            "threads": args.threads,
            "device": args.device,
        },
    ) as job:
        device = training.start(args.threads, args.device)
        job.device = training.device_name(device)
        network, described = checkpoints.load(args.initial)
        job.plugins.append(models.MODELS.file(described["model"]))
        mask = masks.read(args.mask, network)
        dataset = datasets.read(args.dataset)
        trained = training.fit(network, dataset, described, chosen, args.seed, device, args.label, mask)
        training.write(args.checkpoint, args.history, network, described, trained)


if __name__ == "__main__":
    errors.run(main)
