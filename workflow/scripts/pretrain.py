"""Train a network from its random initialisation: the pretrained weights that pruning starts from.

Writes the checkpoint of the best validation epoch and the history of all epochs, each with its record.
"""

from __future__ import annotations

import argparse

from shrinkflow import arguments, checkpoints, errors, models, recipe, records, training
from shrinkflow.data import dataset as datasets


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/pretrain.py --dataset digits.safetensors --model digitsnet --seed 1 "
        "--optimizer adam --lr 0.001 --epochs 20 --checkpoint checkpoint.safetensors --history history.csv",
    )
    parser.add_argument("--dataset", required=True, metavar="FILE", help="processed data set")
    parser.add_argument("--model", required=True, metavar="NAME", help="model of the registry")
    arguments.add_training(parser, label="pretraining")
    return parser.parse_args()


def main() -> None:
    args = parse()
    chosen = recipe.from_arguments(args)
    with records.job(
        __file__,
        inputs=[args.dataset],
        outputs=[args.checkpoint, args.history],
        parameters={
            "model": args.model,
            "seed": args.seed,
            "recipe": recipe.to_flags(chosen),
            "threads": args.threads,
            "device": args.device,
        },
        plugins=[models.MODELS.file(args.model)],
    ) as job:
        device = training.start(args.threads, args.device)
        job.device = training.device_name(device)
        dataset = datasets.read(args.dataset)
        network = models.build(args.model, dataset.shape, len(dataset.classes), args.seed)
        described = checkpoints.metadata(
            args.model, dataset.shape, len(dataset.classes), dataset.mean, dataset.std
        )
        trained = training.fit(network, dataset, described, chosen, args.seed, device, args.label)
        training.write(args.checkpoint, args.history, network, described, trained)


if __name__ == "__main__":
    errors.run(main)
