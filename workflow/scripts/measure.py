"""Measure one cell: size, theoretical cost, and accuracy on the test set, which is read here only.

Accuracies are fractions, means over examples. Parameters and MACs are counted on the finished network,
a parameter being left when it is not zero. Given the networks of all epochs (`--candidates`), it also tells
what a choice of the epoch by the test set, a mistake, would have claimed.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from math import isfinite

from shrinkflow import (
    arguments,
    checkpoints,
    errors,
    files,
    masks,
    measures,
    models,
    records,
    training,
)

CELL = ("dataset", "model", "weights", "strategy", "ratio", "seed")


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/measure.py --dataset digits.safetensors --checkpoint checkpoint.safetensors "
        "--mask mask.safetensors --history history.csv --cell digits digitsnet A random 4 1 "
        "--control dense --out m.json",
    )
    parser.add_argument("--dataset", required=True, metavar="FILE", help="processed data set")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="finetuned checkpoint")
    parser.add_argument("--mask", required=True, metavar="FILE", help="mask it was finetuned with")
    parser.add_argument(
        "--history",
        required=True,
        nargs="+",
        metavar="FILE",
        help="history of its training, then those of the rounds before, if there were any",
    )
    parser.add_argument(
        "--candidates",
        metavar="FILE",
        help="networks of all epochs, of which finetuning chose the checkpoint",
    )
    parser.add_argument(
        "--cell",
        required=True,
        nargs=6,
        metavar=tuple(map(str.upper, CELL)),
        help="names of the cell",
    )
    parser.add_argument(
        "--control", required=True, metavar="NAME", help="strategy it is compared with at ratio 1"
    )
    parser.add_argument("--out", required=True, metavar="OUT", help="metrics (JSON) to write")
    arguments.add_runtime(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    cell = dict(zip(CELL, args.cell, strict=True))
    candidates = [args.candidates] if args.candidates else []
    with records.job(
        __file__,
        inputs=[args.dataset, args.checkpoint, args.mask, *args.history, *candidates],
        outputs=[args.out],
        parameters={"cell": cell, "control": args.control, "threads": args.threads, "device": args.device},
    ) as job:
        device = training.start(args.threads, args.device)
        job.device = training.device_name(device)
        network, described = checkpoints.load(args.checkpoint)
        job.plugins.append(models.file(described["model"]))
        if not masks.respected(network, masks.read(args.mask, network)):
            raise errors.UserError(
                f"{args.checkpoint} has weights that {args.mask} prunes; delete both and run again"
            )
        counts = measures.count(network, tuple(described["shape"]))
        dataset = training.read(args.dataset, args.folder, job)
        test = training.split(dataset, dataset.test, described["normalisation"], device)
        found = training.evaluate(training.to(network, device), test)
        claims = {
            epoch: training.evaluate(training.to(checkpoints.load(path, epoch)[0], device), test).top1
            for path in candidates
            for epoch in checkpoints.epochs(path)
        }
        # The earliest of equals, as of the honest choice.
        claimed = max(claims, key=lambda epoch: claims[epoch], default=None)
        history, *earlier = map(training.read_history, args.history)
        best = next(line for line in history if line.epoch == described["epoch"])
        metrics = {
            "compression": counts.compression,
            "speedup": counts.speedup,
            "params": counts.params,
            "params_nonzero": counts.params_nonzero,
            "macs": counts.macs,
            "macs_nonzero": counts.macs_nonzero,
            "top1": found.top1,
            "top5": found.top5,
            "loss": found.loss,
            "val_top1": best.val_top1,
            "pruned_val_top1": history[0].val_top1,
            "best_epoch": described["epoch"],
            # Those of all rounds: an iterative schedule has trained in each.
            "epochs": sum(len(lines) - 1 for lines in (history, *earlier)),
            "best_test_top1": max(claims.values(), default=None),
            "best_test_epoch": claimed,
            "collapsed_layers": len(measures.collapsed(counts.layers)),
        }
        files.write_json(
            args.out,
            {
                "cell": cell | {"ratio": float(cell["ratio"]), "seed": int(cell["seed"])},
                "control": args.control,
                # JSON knows no infinity: of a network with no weight left, the ratio is not told.
                "metrics": {
                    name: None if value is None or not isfinite(value) else value
                    for name, value in metrics.items()
                },
                "layers": [asdict(layer) for layer in counts.layers],
            },
        )


if __name__ == "__main__":
    errors.run(main)
