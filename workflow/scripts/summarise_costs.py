"""Put the measured costs of cells into one table, beside their accuracy, and draw them."""

from __future__ import annotations

import argparse

from shrinkflow import costs, errors, files, records
from shrinkflow.figures import costs as drawing
from shrinkflow.figures import style

EPILOG = """example:
  python workflow/scripts/summarise_costs.py --costs costs/*.json --metrics cells/*/metrics.json \\
      --out costs.csv --svg costs.svg --png costs.png

Rows stand in the order of the files of costs.
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--costs", nargs="+", required=True, metavar="JSON", help="costs of cells, by cost.py"
    )
    parser.add_argument(
        "--metrics", nargs="+", required=True, metavar="JSON", help="metrics.json of the same"
    )
    parser.add_argument("--out", required=True, metavar="CSV", help="table to write")
    parser.add_argument("--svg", required=True, metavar="SVG", help="vector figure to write")
    parser.add_argument("--png", required=True, metavar="PNG", help="bitmap figure to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    outputs = [args.out, args.svg, args.png]
    inputs = [*args.costs, *args.metrics]
    with records.job(__file__, inputs=inputs, outputs=outputs, parameters={}) as job:
        rows = costs.rows(args.costs, args.metrics)
        files.write_text(args.out, costs.text(rows))
        metadata = {"Title": "costs", "Identifier": job.id, "Source": f"costs md5 {files.digest(args.out)}"}
        style.save(drawing.costs(rows), args.svg, args.png, metadata)


if __name__ == "__main__":
    errors.run(main)
