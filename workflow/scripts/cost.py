"""Measure what one cell costs: latency, throughput, peak memory, bytes on disk. Nothing else should run.

The pruned network is timed in turns with its dense control. Filters that were pruned are removed from it;
where single weights are zero, it is timed by dense kernels, which gain nothing by zeros, and by sparse ones.
Networks are in eval mode and stay as they are: batch-norm is not folded into convolutions. Numbers vary from
run to run; every sample is written, with what it was taken on.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import nn

from shrinkflow import (
    arguments,
    checkpoints,
    costs,
    errors,
    files,
    masks,
    models,
    records,
    sparse,
    storage,
    timing,
    training,
)

CONTROL = "control"


def parse() -> argparse.Namespace:
    parser = arguments.parser(
        __doc__,
        "python workflow/scripts/cost.py --control dense/checkpoint.safetensors --checkpoint c.safetensors "
        "--mask mask.safetensors --granularity weight --cell digits digitsnet A random 4 1 --out cost.json",
    )
    parser.add_argument("--control", required=True, metavar="FILE", help="checkpoint of its dense control")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="checkpoint of the cell")
    parser.add_argument("--mask", required=True, metavar="FILE", help="mask of the cell")
    parser.add_argument(
        "--granularity", required=True, metavar="KIND", help="weight, filter, N:M, or none of a control"
    )
    parser.add_argument(
        "--cell", required=True, nargs=6, metavar=tuple(map(str.upper, costs.CELL)), help="names of the cell"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures, of throughput")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="samples of each network")
    parser.add_argument("--out", required=True, metavar="JSON", help="costs to write")
    arguments.add_runtime(parser)
    return parser.parse_args()


def networks(
    control: nn.Module, network: nn.Module, granularity: str, device: torch.device
) -> dict[str, nn.Module]:
    """Return what is timed, by the name of its kernel: the control first. Dense ones lie channels last."""
    found = {CONTROL: training.to(control, device)}
    if granularity not in (costs.WHOLE, "filter"):
        found[costs.CSR] = sparse.sparsified(network).to(device)
    found[costs.DENSE] = training.to(network, device)
    return found


def pictures(network: nn.Module, number: int, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return a ramp from -2 to 2 as pictures, [number, *shape]: what they show does not change the cost."""
    ramp = torch.linspace(-2, 2, number * shape[0] * shape[1] * shape[2]).view(number, *shape)
    sparse_kernel = any(isinstance(module, sparse.Convolution) for module in network.modules())
    layout = torch.contiguous_format if sparse_kernel else torch.channels_last
    return ramp.to(device).contiguous(memory_format=layout)


def main() -> None:
    args = parse()
    cell = dict(zip(costs.CELL, args.cell, strict=True))
    with records.job(
        __file__,
        inputs=[args.control, args.checkpoint, args.mask],
        outputs=[args.out],
        parameters={
            "cell": cell,
            "granularity": args.granularity,
            "batch_size": args.batch_size,
            "rounds": args.rounds,
            "threads": args.threads,
            "device": args.device,
        },
    ) as job:
        device = training.start(args.threads, args.device)
        # Timed as it would be used, which is with the fastest kernels there are.
        torch.set_deterministic_debug_mode("default")
        job.device = training.device_name(device)
        control, _ = checkpoints.load(args.control)
        network, described = checkpoints.load(args.checkpoint)
        job.plugins.append(models.file(described["model"]))
        shape = tuple(described["shape"])
        if args.granularity == "filter":
            structure = job.load("shrinkflow.structure")
            mask = {name: part.numpy() for name, part in masks.read(args.mask, network).items()}
            network = structure.reduce(network, shape, mask).model
        bytes_ = storage.sizes(network)
        timed = networks(control, network, args.granularity, device)
        singles, batches = (
            {name: pictures(net, number, shape, device) for name, net in timed.items()}
            for number in (1, args.batch_size)
        )
        clock = timing.clock(device, args.threads)
        latency, alone = timing.measured(timed, singles, args.rounds, clock)
        batch, together = timing.measured(timed, batches, args.rounds, clock)
        quiet = min(alone, together, key=lambda one: (one.yes, one.ran))
        if not quiet.yes:
            print(
                f"warning: something else was running: the timing thread had {quiet.ran:.0%} of the time, "
                f"others kept {quiet.elsewhere or 0:.2f} cores busy",
                file=sys.stderr,
            )
        files.write_json(
            args.out,
            {
                "cell": cell | {"ratio": float(cell["ratio"]), "seed": int(cell["seed"])},
                "granularity": args.granularity,
                "hardware": timing.hardware(device),
                "protocol": {
                    "threads": args.threads,
                    "batch_size": args.batch_size,
                    "rounds": args.rounds,
                    "clock": clock,
                    "shortest_sample_s": timing.SHORTEST,
                    "warm_up_s": timing.WARM_UP,
                    "compression": storage.CODEC,
                },
                "quiet": {"yes": quiet.yes, "ran": quiet.ran, "elsewhere": quiet.elsewhere},
                "bytes": bytes_,
                "control": {"latency_s": latency[CONTROL], "batch_s": batch[CONTROL]},
                "kernels": [
                    {
                        "kernel": kernel,
                        "latency_s": latency[kernel],
                        "batch_s": batch[kernel],
                        "peak_memory_bytes": timing.peak_memory(timed[kernel], batches[kernel]),
                    }
                    for kernel in (costs.DENSE, costs.CSR)
                    if kernel in timed
                ],
            },
        )


if __name__ == "__main__":
    errors.run(main)
