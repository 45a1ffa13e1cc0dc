"""Fetch one raw file (an archive of pictures, published weights) and check its hash.

Places are tried in this order: the folder that the environment variable SHRINKFLOW_MIRROR names (or
`weights/` in it), --package, --path, each --url. Whatever the place, the bytes must have the stated
checksum.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shrinkflow import errors, records
from shrinkflow.data import fetching

EXAMPLE = """example:
  python workflow/scripts/fetch.py --name cifar-10-python.tar.gz \\
      --checksum md5:c58f30108f718f92721af3b95e74349a \\
      --url https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz \\
      --out data/raw/cifar-10-python.tar.gz
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="the file's name, as looked for in the mirror")
    parser.add_argument(
        "--checksum",
        required=True,
        help="md5:<32 hex digits>, sha256:<64 hex digits>, or sha256-prefix:<its first 8 digits or more>",
    )
    parser.add_argument(
        "--package",
        metavar="PACKAGE/FILE",
        help="a file that an installed Python package brings, as PACKAGE/path/in/the/package",
    )
    parser.add_argument("--path", type=Path, help="a file of yours on this machine")
    parser.add_argument(
        "--url", action="append", default=[], help="where to download it; may be given repeatedly"
    )
    parser.add_argument(
        "--obtain", metavar="TEXT", help="how to get the file by hand, shown where no place has it"
    )
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    # Where the file was found is no parameter: the checksum says what it is.
    parameters = {"name": args.name, "checksum": args.checksum, "urls": args.url}
    with records.job(__file__, inputs=[], outputs=[args.out], parameters=parameters):
        fetching.fetch(
            args.name,
            args.checksum,
            args.out,
            package=args.package,
            path=args.path,
            urls=args.url,
            obtain=args.obtain,
        )


if __name__ == "__main__":
    errors.run(main)
