"""Prune while training: gradually (Zhu & Gupta 2018), or by zeroing filters softly (He et al. 2018).

Takes the place of pruning and finetuning in one: writes the mask as well, and the checkpoint of the best
validation epoch among those in which the network is as small as the ratio asks.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from torch import nn

from shrinkflow import (
    arguments,
    checkpoints,
    errors,
    files,
    measures,
    models,
    recipe,
    records,
    resuming,
    scoring,
    selection,
    sparsifying,
    targets,
    training,
    way,
)
from shrinkflow.targets import Sizes


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/sparsify.py --dataset digits.safetensors --initial pretrained.safetensors "
        "--score magnitude --pruning gradual --rounds 10 --ramp 0.5 --ratio 4 --seed 1 --optimizer adam "
        "--lr 0.0003 --epochs 10 --mask mask.safetensors --checkpoint checkpoint.safetensors "
        "--history history.csv",
    )
    parser.add_argument("--dataset", required=True, metavar="FILE", help="processed data set")
    parser.add_argument("--initial", required=True, metavar="FILE", help="checkpoint to start from")
    targets.add_score(parser)
    targets.add_target(parser)
    parser.add_argument("--pruning", required=True, choices=(way.GRADUAL, way.SOFT), help="how to prune")
    parser.add_argument(
        "--ramp", type=float, metavar="X", help="part of the epochs in which 'gradual' prunes"
    )
    parser.add_argument("--mask", required=True, metavar="OUT", help="mask to write")
    arguments.add_candidates(parser)
    arguments.add_training(parser, label="finetuning")
    return parser.parse_args()


def main() -> None:
    args = parse()
    more = {"schedule": args.pruning} | ({"ramp": args.ramp} if args.ramp is not None else {})
    target = targets.target(args, **more)
    chosen = recipe.from_arguments(args)
    scorer = scoring.scorer(args.score, dict(args.parameter), args.score_file, args.granularity)
    with records.job(
        __file__,
        inputs=[args.dataset, args.initial],
        outputs=[args.mask, args.checkpoint, args.history, *([args.candidates] if args.candidates else [])],
        parameters={
            "score": args.score,
            "parameters": scorer.parameters,
            "target": targets.described(target),
            "seed": args.seed,
            "recipe": recipe.to_flags(chosen),
            "threads": args.threads,
            "device": args.device,
        },
        plugins=[scorer.file],
    ) as job:
        device = training.start(args.threads, args.device)
        job.device = training.device_name(device)
        network, described = checkpoints.load(args.initial)
        job.plugins.append(models.file(described["model"]))
        shape = tuple(described["shape"])
        dataset = training.read(args.dataset, args.folder, job)
        split, _ = training.splits_of(dataset, described, device, args.label)
        masking: training.Masking
        if args.pruning == way.SOFT:
            structure = job.load("shrinkflow.structure")
            found = structure.find(network, shape)

            def choice(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
                options = (target.axis, target.way.scope, None, target.way.exclude, found, scorer.comparable)
                masks: dict[str, np.ndarray] = structure.choose(
                    network, shape, scores, 1 / target.ratio, *options
                )
                return masks

            def without(model: nn.Module, masks: Any) -> nn.Module:
                return structure.without(model, shape, masks, found)  # type: ignore[no-any-return]

            masking = sparsifying.Soft(scorer, split, args.seed, choice, without)
        else:
            sizes = Sizes.of(measures.sizes(network, shape))
            masking = sparsifying.Gradual(scorer, split, args.seed, sizes, target, chosen.epochs)
        trained = training.fit(
            network,
            dataset,
            described,
            chosen,
            args.seed,
            device,
            args.label,
            masking,
            candidates=bool(args.candidates),
            point=resuming.point(args.resume, job, args.label),
        )
        if args.candidates:
            checkpoints.save_kept(args.candidates, trained.candidates, described)
        network.cpu().load_state_dict(trained.state)
        masks = {name: mask.cpu().numpy() for name, mask in trained.masks.items()}
        job.findings["collapsed"] = selection.collapsed(masks)
        errors.warn_collapsed(job.findings["collapsed"], args.ratio)
        files.write_tensors(args.mask, masks, {"ratio": args.ratio})
        training.write(args.checkpoint, args.history, network, described, trained)
    # Outputs and records are whole now: killed before this line, the job ends in the same bytes again.
    resuming.remove(args.resume)


if __name__ == "__main__":
    errors.run(main)
