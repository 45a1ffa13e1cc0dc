"""Join the curves of a study into its tables: results, a row per cell; summary, a row per ratio."""

from __future__ import annotations

import argparse

from shrinkflow import errors, records, tables

EPILOG = """example:
  python workflow/scripts/summarise.py --curves results/demo/cells/digits/digitsnet/A/*/curve.csv \\
      --results results.csv --summary summary.csv

Each cell stands beside its dense control: the unpruned network with the same data set, model,
weights and seed, retrained in the same way. The summary gives, for each measure, the mean over
the seeds, the sample standard deviation, and the 95 % interval of the mean by Student's t; with one
seed, only the mean.
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--curves",
        nargs="+",
        required=True,
        metavar="CSV",
        help="curves made by collect.py, the dense controls among them, in any order",
    )
    parser.add_argument("--results", required=True, metavar="CSV", help="table of cells to write")
    parser.add_argument("--summary", required=True, metavar="CSV", help="table of means to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    outputs = [args.results, args.summary]
    with records.job(__file__, inputs=args.curves, outputs=outputs, parameters={}):
        results = tables.results(tables.read_curves(args.curves))
        tables.write_results(args.results, results)
        tables.write_summary(args.summary, tables.summary(results))


if __name__ == "__main__":
    errors.run(main)
