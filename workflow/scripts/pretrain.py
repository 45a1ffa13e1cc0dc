"""Train a network from its random initialisation: the pretrained weights that pruning starts from.

Writes the checkpoint of the best validation epoch, the history of all epochs, and the networks of the epochs
that pruned networks may be rewound to, each with its record.
"""

from __future__ import annotations

import argparse

from shrinkflow import arguments, checkpoints, errors, models, recipe, records, resuming, training


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/pretrain.py --dataset digits.safetensors --model digitsnet --seed 1 "
        "--optimizer adam --lr 0.001 --epochs 20 --checkpoint checkpoint.safetensors --history history.csv "
        "--kept kept.safetensors",
    )
    parser.add_argument("--dataset", required=True, metavar="FILE", help="processed data set")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="model of the registry, or FILE.py:FUNCTION of your own",
    )
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="seed of every draw")
    parser.add_argument(
        "--keep",
        nargs="+",
        type=int,
        default=[0],
        metavar="N",
        help="epochs kept for rewinding; 0: before any",
    )
    parser.add_argument("--kept", required=True, metavar="OUT", help="networks of these epochs to write")
    arguments.add_training(parser, label="pretraining")
    return parser.parse_args()


def main() -> None:
    args = parse()
    chosen = recipe.from_arguments(args)
    with records.job(
        __file__,
        inputs=[args.dataset],
        outputs=[args.checkpoint, args.history, args.kept],
        parameters={
            "model": args.model,
            "seed": args.seed,
            "recipe": recipe.to_flags(chosen),
            "keep": args.keep,
            "threads": args.threads,
            "device": args.device,
        },
        plugins=[models.file(args.model)],
    ) as job:
        device = training.start(args.threads, args.device)
        job.device = training.device_name(device)
        dataset = training.read(args.dataset, args.folder, job)
        network = models.build(args.model, dataset.shape, len(dataset.classes), args.seed)
        described = checkpoints.metadata(
            args.model, dataset.shape, len(dataset.classes), dataset.mean, dataset.std
        )
        trained = training.fit(
            network,
            dataset,
            described,
            chosen,
            args.seed,
            device,
            args.label,
            keep=args.keep,
            point=resuming.point(args.resume, job, args.label),
        )
        network.cpu().load_state_dict(trained.state)
        checkpoints.save_kept(args.kept, trained.kept, described)
        training.write(args.checkpoint, args.history, network, described, trained)
    # Outputs and records are whole now: killed before this line, the job ends in the same bytes again.
    resuming.remove(args.resume)


if __name__ == "__main__":
    errors.run(main)
