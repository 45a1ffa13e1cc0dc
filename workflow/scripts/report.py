"""Write the report of a study: one page that holds its tables and figures, and needs no network."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from shrinkflow import captions, errors, files, records, report
from shrinkflow.errors import UserError

EPILOG = """example:
  python workflow/scripts/report.py --study '{"study": "demo"}' --out results/demo/report.html \\
      --tables results/demo/tables/*.csv --figures results/demo/figures/*.png

Tables and figures are known by the names of their files; results.csv and summary.csv must be among them. The
page carries the id of its record, by which `shrinkflow trace` knows it wherever it is.
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--study", required=True, type=_outline, metavar="JSON", help="what the study compares: an outline"
    )
    parser.add_argument("--tables", nargs="+", required=True, type=Path, metavar="CSV", help="its tables")
    parser.add_argument("--figures", nargs="*", default=[], type=Path, metavar="PNG", help="its figures")
    parser.add_argument(
        "--content", metavar="HASH", help="hash that template and captions must have; others are refused"
    )
    parser.add_argument("--missing", type=Path, metavar="CSV", help="cells that the tables lack, and why")
    parser.add_argument("--costs", type=Path, metavar="CSV", help="table of measured costs")
    parser.add_argument("--costs-figure", type=Path, metavar="PNG", help="figure of measured costs")
    parser.add_argument("--out", required=True, type=Path, metavar="HTML", help="the page to write")
    return parser.parse_args()


def _outline(text: str) -> dict[str, Any]:
    """Return what the JSON of `--study` says."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError
    return found


def main() -> None:
    args = parse()
    names = [path.stem for path in args.figures]
    content = captions.content(names)
    if args.content and args.content != content:
        raise UserError("the template or a caption changed while the study was running; run it again")
    more = [path for path in (args.missing, args.costs, args.costs_figure) if path]
    with records.job(
        __file__,
        inputs=[*args.tables, *args.figures, *more],
        outputs=[args.out],
        parameters={"study": args.study, "content": content},
    ) as job:
        page = report.page(
            args.study,
            {path.stem: path for path in args.tables},
            {path.stem: path for path in args.figures},
            job.id,
            args.out.parent,
            missing=args.missing,
            costs=args.costs,
            costs_figure=args.costs_figure,
        )
        files.write_text(args.out, page)


if __name__ == "__main__":
    errors.run(main)
