"""How long a snapshot takes: 1,000 cells of made-up bytes, with records as their jobs would write them.

Makes a copy of the project in a scratch folder, under git and DVC, writes every artifact and record that the
plan of a large study asks for, and times `shrinkflow snapshot`, a second one, and `dvc status`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from shrinkflow import files, records
from shrinkflow.provenance import planning

ROOT = Path(__file__).parents[1]
PARTS = (
    "Snakefile",
    "workflow",
    "profiles",
    "config",
    "environment.yml",
    "requirements.txt",
    ".dvc",
    ".dvcignore",
)
# As large as the networks of the default study, in bytes.
SIZES = {".safetensors": 380_000, ".png": 100_000, ".svg": 100_000}


def study(cells: int) -> dict[str, object]:
    """Return the default study with so many seeds that it has at least `cells` cells."""
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    per_seed = len(values["strategies"]) * (len(values["ratios"]) - 1) + 1
    return dict(values) | {"study": "large", "seeds": list(range(1, -(-cells // per_seed) + 1))}


def fabricate() -> int:
    """Write every artifact and record of the plan; return the number of artifacts."""
    plan = planning.plan(planning.DEFAULT)
    chance = random.Random(0)
    for job in plan.jobs:
        for path in job.outputs:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(chance.randbytes(SIZES.get(Path(path).suffix, 1_000)))
        code = {"program": job.command[0], "plugins": list(job.plugins), "fingerprint": job.fingerprint}
        inputs = [records.describe(path) for path in job.inputs]
        outputs = [records.describe(path) for path in job.outputs]
        for artifact in outputs:
            record = {
                "id": records.identity(job.command, inputs, code, job.packages),
                "artifact": artifact,
                "outputs": outputs,
                "inputs": inputs,
                "command": list(job.command),
                "parameters": {},
                "code": code,
                "environment": {"packages": dict(job.packages)},
                "findings": {},
            }
            files.write_json(records.record_path(artifact["path"]), record | {"seal": records.seal(record)})
    return len(plan.makers)


def timed(*command: str) -> float:
    """Run a command in the current folder; return its seconds."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - began


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=1000, metavar="N", help="cells of the study")
    parser.add_argument("--fabricate", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fabricate:
        print(f"{fabricate()} artifacts")
        return
    with tempfile.TemporaryDirectory(prefix="shrinkflow-bench-") as folder:
        os.chdir(folder)
        for part in PARTS:
            clutter = shutil.ignore_patterns("__pycache__", "cache", "tmp")
            source = ROOT / part
            (shutil.copytree(source, part, ignore=clutter) if source.is_dir() else shutil.copy2(source, part))
        Path(planning.DEFAULT).write_text(json.dumps(study(args.cells)), encoding="utf-8")
        Path(".gitignore").write_text("/data/\n/results/\n/.snakemake/\n", encoding="utf-8")
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "bench"]):
            subprocess.run(
                ["git", "-c", "user.name=b", "-c", "user.email=b@example.org", *command], check=True
            )
        # The copy's own library from here on: fingerprints are of the files where they lie.
        os.environ["PYTHONPATH"] = str(Path("workflow/scripts").absolute())
        subprocess.run([sys.executable, __file__, "--fabricate"], check=True)
        shrinkflow = [sys.executable, "-m", "shrinkflow"]
        print(f"snapshot, first: {timed(*shrinkflow, 'snapshot'):.1f} s")
        print(f"snapshot, nothing new: {timed(*shrinkflow, 'snapshot'):.1f} s")
        print(f"dvc status: {timed('dvc', 'status'):.1f} s")


if __name__ == "__main__":
    main()
