"""Select which filters to keep: from scores of whole filters and a ratio to a mask.

A filter goes together with the channels that read it. The mask is of the full network: removed filters are
zero rows, and zero columns where they were read. The ratio is met as nearly as whole channels allow; at
least one of every layer stays.
"""

from __future__ import annotations

import argparse

from shrinkflow import arguments, checkpoints, errors, files, models, records, structure, targets


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/prune_filters.py --scores scores.safetensors "
        "--checkpoint checkpoint.safetensors --granularity filter --ratio 2 --out mask.safetensors",
    )
    parser.add_argument("--scores", required=True, metavar="FILE", help="scores of every filter")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="the network that was scored")
    targets.add_target(parser)
    parser.add_argument(
        "--previous", metavar="FILE", help="mask of an earlier round: what it pruned stays pruned"
    )
    parser.add_argument("--out", required=True, metavar="OUT", help="mask to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    target = targets.target(args)
    with records.job(
        __file__,
        inputs=[path for path in (args.scores, args.checkpoint, args.previous) if path],
        outputs=[args.out],
        parameters=targets.described(target),
    ) as job:
        scores, scored = files.read_tensors(args.scores)
        previous = files.read_tensors(args.previous)[0] if args.previous else None
        network, described = checkpoints.load(args.checkpoint)
        job.plugins.append(models.file(described["model"]))
        mask = structure.choose(
            network,
            tuple(described["shape"]),
            scores,
            1 / target.ratio,
            target.axis,
            target.way.scope,
            previous,
            target.way.exclude,
            comparable=scored["comparable"],
        )
        files.write_tensors(args.out, mask, {"ratio": args.ratio})


if __name__ == "__main__":
    errors.run(main)
