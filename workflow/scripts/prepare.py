"""Make the processed data set of its raw files: read, divide, limit, measure the normalisation.

The processed file (safetensors) holds the pictures as uint8, their labels, and the indices of the
training, validation and test parts. Validation pictures are held out of the training part; a test
part is split off where the source has none of its own. Every part has every class in proportion.

Pictures that are streamed (`--resize`; always those of imagenet and places365) stay in their folder: the
file holds their paths and hashes, and each is read once, to see that it is whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shrinkflow import errors, records
from shrinkflow.data import SOURCES, building, dataset, members, splits

# Imported by name, by jobs whose pictures are streamed.
STREAMING = "shrinkflow.data.listing"

EXAMPLE = """examples:
  python workflow/scripts/prepare.py --name digits --source digits \\
      --raw data/raw/digits.csv.gz --out data/processed/digits.safetensors
  python workflow/scripts/prepare.py --name flowers --source imagefolder --folder ~/flowers \\
      --shape 3 64 64 --classes 5 --out data/processed/flowers.safetensors
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    plan = splits.Plan()
    parser.add_argument("--name", required=True, help="the data set's name in the study")
    parser.add_argument(
        "--source", required=True, help="kind of data set: digits, mnist, cifar10, imagefolder, ..."
    )
    pictures = parser.add_mutually_exclusive_group(required=True)
    pictures.add_argument(
        "--raw", type=Path, nargs="+", metavar="FILE", help="the source's raw files, in any order"
    )
    pictures.add_argument(
        "--folder", type=Path, help="a folder of pictures, laid out as the kind of data set wants it"
    )
    parser.add_argument(
        "--content", metavar="HASH", help="hash that the folder must have; a changed folder is refused"
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar=("C", "H", "W"),
        help="channels, height and width of every picture (needed for imagefolder)",
    )
    parser.add_argument(
        "--resize",
        type=int,
        metavar="N",
        help="stream the pictures: whatever their sizes, the shorter side becomes N, and the centre of "
        "that size is seen in evaluation (needed for imagenet and places365)",
    )
    parser.add_argument("--classes", type=int, help="number of classes (needed for imagefolder)")
    parser.add_argument(
        "--validation",
        type=float,
        default=plan.validation,
        help="fraction of the training part held out for validation (default: %(default)s)",
    )
    parser.add_argument(
        "--test",
        type=float,
        default=plan.test,
        help="fraction of all pictures split off for testing, where the source has no test part of "
        "its own (default: %(default)s)",
    )
    parser.add_argument(
        "--split-seed",
        type=int,
        default=plan.seed,
        help="seed of all draws of pictures (default: %(default)s)",
    )
    for part in splits.PARTS:
        parser.add_argument(
            f"--limit-{part}",
            type=int,
            metavar="N",
            help=f"keep N pictures of the {part} part, drawn in proportion (default: all)",
        )
    parser.add_argument("--out", type=Path, required=True, help="the processed file to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    source = SOURCES[args.source]
    shape, classes = building.stated(source, tuple(args.shape) if args.shape else None, args.classes)
    limits = {part: getattr(args, f"limit_{part}") for part in splits.PARTS}
    limits = {part: limit for part, limit in limits.items() if limit is not None}
    plan = splits.Plan(args.validation, args.test, args.split_seed, limits)
    streamed = args.resize is not None
    check_streaming(args, source, shape)
    digest = members.listing_digest if streamed else members.folder_digest
    content = digest(args.folder) if args.folder else None
    if args.content and args.content != content:
        raise errors.UserError(
            f"the pictures in {args.folder} changed while the study was running; run it again"
        )
    parameters = {
        "name": args.name,
        "source": args.source,
        "shape": list(shape),
        "classes": classes,
        "validation": plan.validation,
        "test": plan.test,
        "split_seed": plan.seed,
        "limits": limits,
        "folder": content,
    } | ({"resize": args.resize} if streamed else {})
    with records.job(
        __file__,
        inputs=args.raw or [],
        outputs=[args.out],
        parameters=parameters,
        plugins=[SOURCES.file(args.source)],
    ) as job:
        if streamed:
            assert source.find is not None
            found = source.find(args.folder)
            options = (shape, classes, args.resize, plan, source.normalisation)
            made = job.load(STREAMING).build(args.name, args.folder, found, *options)
        else:
            assert source.load is not None
            pictures = source.load(building.raw_files(source, args.raw or [args.folder]), shape)
            made = building.build(args.name, pictures, shape, classes, plan)
        dataset.write(args.out, made)


def check_streaming(args: argparse.Namespace, source: dataset.Source, shape: dataset.Shape) -> None:
    """Raise `UserError` where the arguments do not fit the way that pictures get to the network."""
    if args.resize is None:
        if source.load is None:
            raise errors.UserError(f"'{args.source}' is too large for memory; give --resize to stream it")
        return
    if source.find is None:
        raise errors.UserError(f"the pictures of '{args.source}' cannot be streamed; leave out --resize")
    if not args.folder:
        raise errors.UserError("pictures are streamed from a folder; unpack them and give --folder")
    if args.resize < max(shape[1:]):
        raise errors.UserError(f"--resize {args.resize} is less than the side of a picture, {max(shape[1:])}")


if __name__ == "__main__":
    errors.run(main)
