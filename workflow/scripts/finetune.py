"""Train a pruned network on: start from a checkpoint, apply a mask, train with the mask fixed.

Writes the checkpoint of the best validation epoch and the history of all epochs (the first line: pruned, not
yet trained), each with its record. A weight masked 0 is exactly zero after every optimizer step. Whole
filters are removed while it trains (`--reduce`), which makes it cheaper; on disk they are zeros.
"""

from __future__ import annotations

import argparse

import torch

from shrinkflow import (
    arguments,
    checkpoints,
    errors,
    masks,
    measures,
    models,
    recipe,
    records,
    resuming,
    training,
)

# As in Liu et al. 2019: a network that costs less than half gets twice the epochs, not more.
LONGEST = 2.0


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
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="seed of every draw")
    parser.add_argument(
        "--rewind-to", type=int, metavar="N", help="the epoch to take from --initial, which holds several"
    )
    parser.add_argument(
        "--begin", type=int, default=0, metavar="N", help="epochs of the recipe to leave out at its start"
    )
    parser.add_argument(
        "--equal-macs",
        action="store_true",
        help=f"train for as many MACs as the dense network would, but at most {LONGEST:g} times the epochs",
    )
    parser.add_argument("--reduce", action="store_true", help="remove pruned filters while training")
    arguments.add_candidates(parser)
    arguments.add_training(parser, label="finetuning")
    return parser.parse_args()


def main() -> None:
    args = parse()
    chosen = recipe.from_arguments(args)
    with records.job(
        __file__,
        inputs=[args.dataset, args.initial, args.mask],
        outputs=[args.checkpoint, args.history, *([args.candidates] if args.candidates else [])],
        parameters={
            "seed": args.seed,
            "recipe": recipe.to_flags(chosen),
            "rewind_to": args.rewind_to,
            "begin": args.begin,
            "equal_macs": args.equal_macs,
            "reduce": args.reduce,
            "threads": args.threads,
            "device": args.device,
        },
    ) as job:
        device = training.start(args.threads, args.device)
        job.device = training.device_name(device)
        network, described = checkpoints.load(args.initial, args.rewind_to)
        job.plugins.append(models.file(described["model"]))
        mask = masks.read(args.mask, network)
        shape = tuple(described["shape"])
        if args.equal_macs:
            chosen = recipe.stretched(chosen, min(LONGEST, measures.saved(network, shape, mask)))
        dataset = training.read(args.dataset, args.folder, job)
        masking, reduced = training.Masking(mask), None
        if args.reduce:
            structure = job.load("shrinkflow.structure")
            reduced = structure.reduce(network, shape, {name: part.numpy() for name, part in mask.items()})
            masking = training.Masking()
        trained = training.fit(
            reduced.model if reduced else network,
            dataset,
            described,
            chosen,
            args.seed,
            device,
            args.label,
            masking,
            begin=args.begin,
            candidates=bool(args.candidates),
            point=resuming.point(args.resume, job, args.label),
        )
        network.cpu()

        def fill(state: dict[str, torch.Tensor]) -> None:
            if reduced:
                structure.expand(network, reduced, state)
            else:
                network.load_state_dict(state)

        if args.candidates:
            candidates = {}
            for epoch, state in trained.candidates.items():
                fill(state)
                candidates[epoch] = {name: value.clone() for name, value in network.state_dict().items()}
            checkpoints.save_kept(args.candidates, candidates, described)
        fill(trained.state)
        training.write(args.checkpoint, args.history, network, described, trained)
    # Outputs and records are whole now: killed before this line, the job ends in the same bytes again.
    resuming.remove(args.resume)


if __name__ == "__main__":
    errors.run(main)
