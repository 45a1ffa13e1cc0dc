"""Select which weights to keep: from scores and a compression ratio to a mask.

Keeps exactly round(fraction * n) of the n weights of a pool, the fraction being what the ratio leaves to
the prunable weights once biases, batch-norm and classifier are counted; equal scores are kept by
position. Warns of layers of which nothing is left.
"""

from __future__ import annotations

import argparse
import sys

from shrinkflow import arguments, budget, errors, files, records, selection


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/prune.py --scores scores.safetensors --scope global --ratio 4 "
        "--out mask.safetensors",
    )
    parser.add_argument("--scores", required=True, metavar="FILE", help="scores of every weight")
    parser.add_argument(
        "--scope",
        required=True,
        choices=selection.SCOPES,
        help="rank all layers in one pool, or each layer by itself",
    )
    parser.add_argument(
        "--ratio", type=float, required=True, metavar="X", help="parameters / parameters left"
    )
    parser.add_argument(
        "--previous", metavar="FILE", help="mask of an earlier round: what it pruned stays pruned"
    )
    parser.add_argument("--out", required=True, metavar="OUT", help="mask to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    earlier = [args.previous] if args.previous else []
    with records.job(
        __file__,
        inputs=[args.scores, *earlier],
        outputs=[args.out],
        parameters={"scope": args.scope, "ratio": args.ratio},
    ) as job:
        scores, described = files.read_tensors(args.scores)
        previous = files.read_tensors(args.previous)[0] if args.previous else None
        ordered = {name: scores[name] for name in described["order"]}
        size = sum(array.size for array in ordered.values())
        fraction = budget.fraction_to_keep(described["params"], size, args.ratio)
        mask = selection.select(ordered, fraction, args.scope, previous)
        job.findings["collapsed"] = selection.collapsed(mask)
        for name in job.findings["collapsed"]:
            print(
                f"warning: nothing is left of layer '{name}' at ratio {args.ratio:g}",
                file=sys.stderr,
            )
        files.write_tensors(args.out, mask, {"ratio": args.ratio})


if __name__ == "__main__":
    errors.run(main)
