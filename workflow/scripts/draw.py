"""Draw one figure from the tables of a study, as SVG and as PNG."""

from __future__ import annotations

import argparse

from shrinkflow import errors, files, records, tables
from shrinkflow.figures import FIGURES, style

EPILOG = """example:
  python workflow/scripts/draw.py --figure compression --results results.csv \\
      --summary summary.csv --svg compression.svg --png compression.png

Both files carry in their metadata the id of their record (Identifier), by which `shrinkflow trace` knows
them wherever they are, and which tables they were drawn from (Source).
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--figure", required=True, metavar="NAME", help=f"one of: {', '.join(FIGURES.names())}"
    )
    parser.add_argument("--results", required=True, metavar="CSV", help="table with a row per cell")
    parser.add_argument(
        "--summary", required=True, metavar="CSV", help="table with a row per strategy and ratio"
    )
    parser.add_argument("--svg", required=True, metavar="SVG", help="vector figure to write")
    parser.add_argument("--png", required=True, metavar="PNG", help="bitmap figure to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with records.job(
        __file__,
        inputs=[args.results, args.summary],
        outputs=[args.svg, args.png],
        parameters={"figure": args.figure},
        plugins=[FIGURES.file(args.figure)],
    ) as job:
        results = tables.uncrossed(tables.read("results", args.results))
        summary = tables.read("summary", args.summary)
        source = f"results md5 {files.digest(args.results)}, summary md5 {files.digest(args.summary)}"
        metadata = {"Title": args.figure, "Identifier": job.id, "Source": source}
        style.save(FIGURES[args.figure](results, summary), args.svg, args.png, metadata)


if __name__ == "__main__":
    errors.run(main)
