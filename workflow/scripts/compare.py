"""Compare the strategies of a study: paired tests, areas and ranks, components of the variance.

Three tables of what results.csv says of top-1 on the test set: comparisons, a row per two strategies and
ratio; ranking, a row per strategy; variance, a row per strategy and ratio.
"""

from __future__ import annotations

import argparse

from shrinkflow import comparisons, errors, ranking, records, tables, variance

EPILOG = """example:
  python workflow/scripts/compare.py --results results/demo/tables/results.csv \\
      --comparisons comparisons.csv --ranking ranking.csv --variance variance.csv

docs/statistics.md says what each column means, and what few seeds leave empty.
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", required=True, metavar="CSV", help="table of cells, by summarise.py")
    parser.add_argument("--comparisons", required=True, metavar="CSV", help="table of differences to write")
    parser.add_argument("--ranking", required=True, metavar="CSV", help="table of areas and ranks to write")
    parser.add_argument("--variance", required=True, metavar="CSV", help="table of components to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    outputs = [args.comparisons, args.ranking, args.variance]
    with records.job(__file__, inputs=[args.results], outputs=outputs, parameters={}):
        results = tables.read("results", args.results)
        tables.write("comparisons", args.comparisons, comparisons.comparisons(results))
        tables.write("ranking", args.ranking, ranking.ranking(results))
        tables.write("variance", args.variance, variance.variance(results))


if __name__ == "__main__":
    errors.run(main)
