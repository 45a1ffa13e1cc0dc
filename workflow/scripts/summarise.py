"""Join the curves of a study into its tables.

results: a row per cell; summary: a row per strategy and ratio; layers: a row per cell and weight tensor.
"""

from __future__ import annotations

import argparse

from shrinkflow import errors, records, tables

EPILOG = """example:
  python workflow/scripts/summarise.py --curves results/demo/cells/digits/digitsnet/A/*/curve.csv \\
      --layers results/demo/cells/digits/digitsnet/A/*/layers.csv \\
      --results results.csv --summary summary.csv --layers-out layers.csv

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
    parser.add_argument(
        "--layers", nargs="+", required=True, metavar="CSV", help="layers made by collect.py, in any order"
    )
    parser.add_argument("--results", required=True, metavar="CSV", help="table of cells to write")
    parser.add_argument("--summary", required=True, metavar="CSV", help="table of means to write")
    parser.add_argument("--layers-out", required=True, metavar="CSV", help="table of weight tensors to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    inputs = [*args.curves, *args.layers]
    outputs = [args.results, args.summary, args.layers_out]
    with records.job(__file__, inputs=inputs, outputs=outputs, parameters={}):
        results = tables.results(tables.read_curves(args.curves))
        tables.write("results", args.results, results)
        tables.write("summary", args.summary, tables.summary(results))
        tables.write("layers", args.layers_out, tables.layers(args.layers, results))


if __name__ == "__main__":
    errors.run(main)
