"""Select which weights to keep: from scores and a ratio to a mask.

A pool of n weights keeps exactly round(fraction * n) of them, the fraction being what the ratio leaves to
the prunable weights once biases, batch-norm and classifier are counted; equal scores are kept by
position. Warns of layers of which nothing is left.
"""

from __future__ import annotations

import argparse

from shrinkflow import arguments, errors, files, records, selection, targets
from shrinkflow.targets import Sizes


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/prune.py --scores scores.safetensors --scope global --ratio 4 "
        "--out mask.safetensors",
    )
    parser.add_argument("--scores", required=True, metavar="FILE", help="scores of every weight")
    targets.add_target(parser)
    parser.add_argument(
        "--previous", metavar="FILE", help="mask of an earlier round: what it pruned stays pruned"
    )
    parser.add_argument("--like", metavar="FILE", help="mask whose layer sizes are taken over")
    parser.add_argument("--out", required=True, metavar="OUT", help="mask to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    target = targets.target(args)
    with records.job(
        __file__,
        inputs=[path for path in (args.scores, args.previous, args.like) if path],
        outputs=[args.out],
        parameters=targets.described(target),
    ) as job:
        scores, described = files.read_tensors(args.scores)
        previous, like = (
            files.read_tensors(path)[0] if path else None for path in (args.previous, args.like)
        )
        ordered = {name: scores[name] for name in described["order"]}
        sizes = Sizes.of(described)
        kept = 1.0 if target.way.pattern else selection.fraction(ordered, sizes, target)
        mask = selection.choose(ordered, sizes, target, kept, previous, like)
        job.findings["collapsed"] = selection.collapsed(mask)
        errors.warn_collapsed(job.findings["collapsed"], args.ratio)
        files.write_tensors(args.out, mask, {"ratio": args.ratio})


if __name__ == "__main__":
    errors.run(main)
