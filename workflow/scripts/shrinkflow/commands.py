"""The command line of shrinkflow: what it can do, and the provenance of a study that `snakemake` computes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from shrinkflow import errors, fingerprint
from shrinkflow.errors import UserError
from shrinkflow.provenance import planning

EPILOG = """examples:
  shrinkflow snapshot
  shrinkflow trace results/demo/figures/compression.svg --where strategy=random --where ratio=4
  shrinkflow verify --sample 5
  shrinkflow restore results/demo/cells/digits/digitsnet/A/random/ratio4/seed1
"""

# What a strategy's way is where it says nothing.
USUAL = "Unless 'way' says otherwise: single weights of the pretrained network, ranked together, at once."


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `run` is the function of the one that was named."""
    top = argparse.ArgumentParser(
        prog="shrinkflow",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        name = run.__name__.removeprefix("_")
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.add_argument("--configfile", metavar="YAML", help="the study (default: config/config.yaml)")
        added.set_defaults(run=run)
        return added

    snapshot = command(_snapshot, "check every artifact of a study, then commit them to DVC")
    snapshot.add_argument(
        "--allow-dirty", action="store_true", help="take it although git does not hold all code"
    )
    restore = command(_restore, "bring a study, or targets and their records, from DVC, and check them")
    restore.add_argument("targets", nargs="*", metavar="TARGET", help="a figure, a file, or a cell's folder")
    trace = command(_trace, "follow a figure, table, artifact or point back to the raw archives")
    trace.add_argument("target", metavar="TARGET", help="a file; a figure may lie anywhere")
    trace.add_argument(
        "--where",
        action="append",
        default=[],
        type=_condition,
        metavar="NAME=VALUE",
        help="only rows with this dataset, model, weights, strategy, ratio or seed; may be repeated",
    )
    trace.add_argument("--json", action="store_true", help="print JSON")
    trace.add_argument("--full", action="store_true", help="show every cell")
    trace.add_argument("--no-remote", action="store_true", help="do not ask the remote")
    verify = command(_verify, "compute cells again from their recorded inputs, and compare bytes")
    which = verify.add_mutually_exclusive_group()
    which.add_argument("--sample", type=_positive, default=5, metavar="N", help="N cells (default: 5)")
    which.add_argument("--all", action="store_true", help="every job of the study")
    which.add_argument("--cell", metavar="FOLDER", help="one cell")
    verify.add_argument("--seed", type=int, default=0, metavar="N", help="which sample (default: 0)")
    verify.add_argument(
        "--cores",
        type=_positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="jobs at once (default: as many as there are cores)",
    )
    crate = command(_crate, "write a Workflow Run RO-Crate of a study, or of targets")
    crate.add_argument("targets", nargs="*", metavar="TARGET", help="figures or other artifacts")
    crate.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder that is not there")
    command(_partial, "make tables, figures and report of the cells that are there, when others are not")
    listed = command(_strategies, "list every strategy: score, way, cost, parameters, source")
    listed.add_argument("--json", action="store_true", help="print JSON")
    command(_inspect, "tell what a study names that would be run, fetched or read, and do none of it")
    command(_estimate, "estimate what a study costs before it runs")
    stages = command(_stages, "write the stages of a study, as DVC runs them, to its dvc.yaml")
    stages.add_argument("--check", action="store_true", help="only check that they are current")
    stage = command(_stage, "make one stage: what `dvc repro` runs")
    stage.add_argument("name", metavar="NAME", help="a stage of dvc.yaml")
    stage.add_argument("--cores", default="all", metavar="N", help="as for Snakemake (default: all)")
    return top


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def main() -> None:
    """Run the command that the arguments name."""
    _use_project()
    args = parser().parse_args()
    args.run(args)


def entry() -> None:
    """Be the program `shrinkflow`."""
    errors.run(main)


def _use_project() -> None:
    """Go to the project's top; hand over to its own library where this one is of another copy."""
    here = Path.cwd()
    top = next(
        (path for path in [here, *here.parents] if (path / "workflow/scripts/shrinkflow").is_dir()), None
    )
    if top is None or not (top / "Snakefile").is_file():
        raise UserError(f"{here} lies in no shrinkflow project; go to the folder with its Snakefile")
    library = top / "workflow/scripts/shrinkflow"
    if library.resolve() != fingerprint.LIBRARY:
        path = os.pathsep.join([str(library.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        command = [sys.executable, "-m", "shrinkflow", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})
    if here != top:
        print(f"in {top}", file=sys.stderr)
        os.chdir(top)


def _study(args: argparse.Namespace) -> str:
    return str(args.configfile or planning.DEFAULT)


def _snapshot(args: argparse.Namespace) -> None:
    from shrinkflow.provenance import snapshots

    taken = snapshots.take(_study(args), allow_dirty=args.allow_dirty)
    _tell_aside(taken.aside)
    print(f"{taken.artifacts} artifacts in {taken.stages} stages are what the study asks for, and in DVC")
    print(f"next: git add {taken.lock.with_name('dvc.yaml')} {taken.lock}; git commit; dvc push")


def _restore(args: argparse.Namespace) -> None:
    from shrinkflow.provenance import lineage, snapshots

    study = args.configfile
    if study is None and args.targets:
        names = {lineage.study_of(Path(target).as_posix()) for target in args.targets} - {None}
        study = planning.configuration(str(names.pop())) if len(names) == 1 else None
    restored = snapshots.restore(study or planning.DEFAULT, args.targets, say=print)
    print(f"{restored.good} artifacts are here, agree with their records and dvc.lock, and are current")
    for fault in restored.stale:
        print(f"stale: {fault}")


def _trace(args: argparse.Namespace) -> None:
    from shrinkflow.provenance import tracing

    trail = tracing.trace(args.target, dict(args.where), args.configfile, remote=not args.no_remote)
    if args.json:
        print(json.dumps(trail.to_json(), indent=2, sort_keys=True))
    else:
        print("\n".join(tracing.lines(trail, full=args.full)))
    if trail.faults:
        sys.exit(1)


def _verify(args: argparse.Namespace) -> None:
    from shrinkflow.provenance import lineage, rerun

    configfile = args.configfile
    if args.cell and configfile is None:
        configfile = planning.configuration(lineage.study_of(Path(args.cell).as_posix()) or "")
    plan = planning.recall(configfile or planning.DEFAULT)
    if args.all:
        jobs = rerun.everything(plan.study)
        print(f"all {len(jobs)} jobs of the study '{plan.study}', done again:")
    else:
        cells = [args.cell] if args.cell else rerun.sample(rerun.cells(plan.study), args.sample, args.seed)
        jobs = rerun.jobs_of(cells)
        print("\n".join([f"{len(jobs)} jobs of {len(cells)} cells, done again:", *cells, ""]))
    if not jobs:
        raise UserError(f"the study '{plan.study}' has no cells here; run it, or 'shrinkflow restore'")
    outcomes = rerun.verify(
        jobs, args.cores, lambda outcome: print(outcome, flush=True), rerun.pictures(plan.configfile)
    )
    print(f"\n{rerun.summary(outcomes)}")
    if not all(outcome.identical for outcome in outcomes):
        sys.exit(1)


def _crate(args: argparse.Namespace) -> None:
    from shrinkflow.provenance import crate

    plan = planning.recall(_study(args))
    targets = args.targets or [
        path
        for job in plan.jobs
        if job.rule in ("summarise", "compare", "draw", "report")
        for path in job.outputs
    ]
    title = f"shrinkflow: the study {plan.study}" + (f", {', '.join(args.targets)}" if args.targets else "")
    made = crate.write(targets, args.out, plan.configfile, title)
    print(f"{args.out}: {made.files} files ({made.bytes / 1e6:.1f} MB) of {made.actions} jobs")


def _partial(args: argparse.Namespace) -> None:
    from shrinkflow import partial

    print("\n".join(partial.lines(partial.make(_study(args)))))


def _strategies(args: argparse.Namespace) -> None:
    from shrinkflow import strategies, study

    known = study.read(args.configfile).strategies if args.configfile else strategies.registered()
    found = [strategies.described(strategy) for strategy in known.values()]
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n\n".join([USUAL, *map(strategies.text, found)]))


def _inspect(args: argparse.Namespace) -> None:
    from shrinkflow import inspection

    print("\n".join(inspection.lines(_study(args))))


def _estimate(args: argparse.Namespace) -> None:
    from shrinkflow import estimate, study

    found = study.read(_study(args))
    print("\n".join(estimate.lines(estimate.of(found), found.name)))


def _stages(args: argparse.Namespace) -> None:
    from shrinkflow.provenance import stages

    plan = planning.recall(_study(args))
    if args.check:
        stages.check(plan)
    else:
        changed = stages.write(plan)
        print(f"{stages.dvcfile(plan)}: {'written' if changed else 'current'}")


def _stage(args: argparse.Namespace) -> None:
    from shrinkflow.provenance import snapshots

    _tell_aside(snapshots.make_stage(_study(args), args.name, args.cores))


def _tell_aside(moved: Iterable[tuple[str, str]]) -> None:
    for old, new in moved:
        print(f"moved aside, being of no cell of the study: {old} -> {new}")
