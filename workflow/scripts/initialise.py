"""Draw a fresh network by a cell's seed: for pruning at initialisation, and for training from scratch.

It is another network than the one pretrained with the same number as seed. Its normalisation is the data
set's, unless `--mean` and `--std` say otherwise.
"""

from __future__ import annotations

import argparse

from shrinkflow import arguments, checkpoints, errors, models, records
from shrinkflow.data import dataset as datasets
from shrinkflow.seeds import Purpose


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/initialise.py --dataset digits.safetensors --model digitsnet --seed 1 "
        "--out initial.safetensors",
    )
    parser.add_argument("--dataset", required=True, metavar="FILE", help="processed data set")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="model of the registry, or FILE.py:FUNCTION of your own",
    )
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="seed of the weights")
    for flag in ("--mean", "--std"):
        parser.add_argument(flag, nargs="+", type=float, metavar="X", help="per channel, on the scale 0 to 1")
    parser.add_argument("--out", required=True, metavar="OUT", help="checkpoint to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with records.job(
        __file__,
        inputs=[args.dataset],
        outputs=[args.out],
        parameters={"model": args.model, "seed": args.seed, "mean": args.mean, "std": args.std},
        plugins=[models.file(args.model)],
    ):
        dataset = datasets.read(args.dataset)
        network = models.build(
            args.model, dataset.shape, len(dataset.classes), args.seed, Purpose.REINITIALISATION
        )
        described = checkpoints.metadata(
            args.model,
            dataset.shape,
            len(dataset.classes),
            args.mean or dataset.mean,
            args.std or dataset.std,
        )
        checkpoints.save(args.out, network, described)


if __name__ == "__main__":
    errors.run(main)
