"""Turn weights made elsewhere into a checkpoint that the other programs read.

The file is a safetensors file or a PyTorch file (.th, .pt, .pth) with a state dict, at the top or
under "state_dict" or "model". Of a PyTorch file only tensors and plain containers are loaded: code
in it never runs. Names and shapes must be those of the model; all names may start with "module.".
"""

from __future__ import annotations

import argparse

from shrinkflow import checkpoints, errors, models, records

EXAMPLE = """example:
  python workflow/scripts/import_weights.py --file resnet20-12fca82f.th --model resnet20 \\
      --shape 3 32 32 --classes 10 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 \\
      --weights published --out checkpoint.safetensors
"""


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", required=True, help="weights to read")
    parser.add_argument("--model", required=True, help="model they were made for: resnet20, FILE.py:FUNCTION")
    parser.add_argument(
        "--shape",
        required=True,
        nargs=3,
        type=int,
        metavar=("CHANNELS", "HEIGHT", "WIDTH"),
        help="shape of a picture",
    )
    parser.add_argument("--classes", required=True, type=int, help="number of classes")
    for flag, meaning in (("--mean", "mean"), ("--std", "standard deviation")):
        parser.add_argument(
            flag,
            required=True,
            nargs="+",
            type=float,
            help=f"{meaning} of each channel the weights were trained with (pixels in 0 .. 1)",
        )
    parser.add_argument("--weights", required=True, help="name the study gives these weights")
    parser.add_argument("--out", required=True, help="checkpoint to write (.safetensors)")
    return parser.parse_args()


def main() -> None:
    """Read the weights, check them against the model, write the checkpoint and its record."""
    args = parse()
    channels, height, width = args.shape
    shape = (channels, height, width)
    described = checkpoints.metadata(args.model, shape, args.classes, args.mean, args.std)
    with records.job(
        __file__,
        inputs=[args.file],
        outputs=[args.out],
        parameters={**described, "weights": args.weights},
        plugins=[models.file(args.model)],
    ):
        model = checkpoints.read_foreign(args.file, args.model, shape, args.classes)
        checkpoints.save(args.out, model, described)


if __name__ == "__main__":
    errors.run(main)
