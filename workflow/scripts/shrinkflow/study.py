"""A study: what is compared, checked before anything runs, and the cells it consists of."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from shrinkflow import budget, models, recipe, strategies, validation
from shrinkflow.data import SOURCES
from shrinkflow.data.dataset import RawFile
from shrinkflow.errors import UserError, nearest
from shrinkflow.prunable import prunable
from shrinkflow.recipe import Recipe
from shrinkflow.strategies import CONTROL, Strategy

MIRROR = "SHRINKFLOW_MIRROR"
WEIGHT_FILES = (".safetensors", ".th", ".pt", ".pth")
# The survey asks for both in every comparison (recommendation 10).
BASELINES = ("random", "magnitude")


@dataclass(frozen=True, order=True)
class Cell:
    """One point of a study."""

    dataset: str
    model: str
    weights: str
    strategy: str
    ratio: float
    seed: int


@dataclass(frozen=True)
class Pair:
    """A data set and a model, the weights they start from, their recipe and their ratios above 1."""

    dataset: str
    model: str
    weights: tuple[str, ...]
    finetune: str
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Fetch:
    """A raw file, and what a study adds to where it can be found: a path, advice for people."""

    file: RawFile
    path: str = ""
    obtain: str = ""

    def flags(self) -> str:
        """Return the arguments of `fetch.py`."""
        words = ["--name", self.file.name, "--checksum", self.file.checksum]
        for flag, value in (
            ("package", self.file.package),
            ("path", self.path),
            ("obtain", self.obtain),
            *(("url", url) for url in self.file.urls),
        ):
            words += [f"--{flag}", value] if value else []
        return shlex.join(words)


@dataclass(frozen=True)
class DataSet:
    """A data set as a study uses it: the files to fetch or a folder, and the flags of `prepare.py`."""

    name: str
    source: str
    shape: tuple[int, int, int]
    classes: int
    raw: tuple[Fetch, ...]
    folder: str | None
    flags: str


@dataclass(frozen=True)
class Weights:
    """Initial weights: trained by `recipe` and `seed`, or read from the file `raw`."""

    name: str
    recipe: str | None = None
    seed: int = 0
    raw: Fetch | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class Study:
    """A checked study."""

    name: str
    pairs: tuple[Pair, ...]
    datasets: Mapping[str, DataSet]
    weights: Mapping[str, Weights]
    recipes: Mapping[str, Recipe]
    strategies: Mapping[str, Strategy]
    seeds: tuple[int, ...]
    threads: int
    device: str

    def cells(self) -> list[Cell]:
        """Return every cell, the dense controls first within their pair and weights."""
        return [
            Cell(pair.dataset, pair.model, weights, strategy, ratio, seed)
            for pair in self.pairs
            for weights in pair.weights
            for strategy in (CONTROL, *self.strategies)
            for ratio in ((1.0,) if strategy == CONTROL else pair.ratios)
            for seed in self.seeds
        ]

    def strategy(self, name: str) -> Strategy:
        """Return a strategy of the study, or the control."""
        return strategies.registered()[CONTROL] if name == CONTROL else self.strategies[name]

    def pair(self, dataset: str, model: str) -> Pair:
        """Return the pair of a data set and a model."""
        return next(p for p in self.pairs if (p.dataset, p.model) == (dataset, model))

    def figures(self) -> list[str]:
        """Return the names of the figures that this study can draw."""
        several = any(len(pair.weights) > 1 for pair in self.pairs)
        return ["compression", "speedup", *(["weights"] if several else [])]

    def predecessor(self, cell: Cell) -> Cell | None:
        """Return the cell whose finetuned checkpoint `cell` is pruned from; None: the pretrained weights.

        One-shot pruning always starts from the pretrained weights. A schedule of several rounds answers
        here with the cell of the ratio before, so that cells of one chain share their beginnings.
        """
        return None


def load(config: Mapping[str, Any], sources: Sequence[str | Path] = ()) -> Study:
    """Check a study's mapping and return the study.

    Args:
        config: what the YAML says, merged with the command line.
        sources: the YAML files it came from; they name it in messages and are checked for doubled keys.

    Raises:
        UserError: one line per fault: the file, the key, what is wrong and what would be right.
    """
    where = ", ".join(os.path.relpath(source) for source in sources) or "the study"
    try:
        faults = [
            f"the key '{key}' is given twice; remove one"
            for source in sources
            for key in validation.doubled_keys(Path(source))
        ]
        values = validation.complete(config)
        for name in sorted({pair["dataset"] for pair in values["pairs"]}):
            values["datasets"].setdefault(name, validation.fill({}, "datasets"))
        faults += list(_faults(values))
        if faults:
            raise UserError("\n".join(faults))
        return _build(values)
    except UserError as error:
        raise UserError("\nerror: ".join(f"{where}: {line}" for line in str(error).split("\n"))) from None


def ratio_text(ratio: float) -> str:
    """Return how a ratio is written in paths: 2, 1.5."""
    return str(int(ratio)) if ratio == int(ratio) else repr(float(ratio))


def find_file(name: str) -> Path | None:
    """Return where a file named in a study lies: at its path, or in the mirror; None if nowhere."""
    mirror = os.environ.get(MIRROR)
    places = [Path(name)]
    if mirror:
        places += [Path(mirror) / name, Path(mirror) / "weights" / name]
    return next((place for place in places if place.is_file()), None)


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the schema cannot see, in the order of the file."""
    for name, entry in values["datasets"].items():
        yield from _dataset_faults(name, entry)
    for name, entry in values["weights"].items():
        yield from _weights_faults(name, entry, values["recipes"])
    for name, entry in values["recipes"].items():
        yield from _recipe_faults(f"recipes.{name}", entry)
    if values["finetune"] not in values["recipes"]:
        hint = nearest(values["finetune"], values["recipes"])
        yield f"'finetune': unknown recipe '{values['finetune']}'{hint}"
    yield from _strategy_faults(values["strategies"])
    seen = set()
    for index, pair in enumerate(values["pairs"]):
        where = f"pairs[{index}]"
        key = (pair["dataset"], pair["model"])
        if key in seen:
            yield f"'{where}': the pair ({', '.join(key)}) is listed twice; remove one"
        seen.add(key)
        yield from _pair_faults(where, pair, values)


def _dataset_faults(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    where = f"datasets.{name}"
    source = entry.get("source", name)
    if source not in SOURCES:
        yield f"'{where}': unknown data set '{source}'{nearest(source, SOURCES.names())}"
        return
    own = ("folder", "archive", "url", "sha256", "obtain", "shape", "classes")
    if SOURCES[source].shape is not None:
        for key in own:
            if key in entry:
                yield f"'{where}.{key}' is for data sets of the source 'imagefolder' only; remove it"
        return
    for key in ("shape", "classes"):
        if key not in entry:
            yield f"the key '{key}' is missing in '{where}': an 'imagefolder' has to state it"
    if ("folder" in entry) == ("archive" in entry):
        yield f"'{where}' needs either 'folder' or 'archive'"
    elif "folder" in entry and not Path(entry["folder"]).is_dir():
        yield f"'{where}.folder': there is no folder '{entry['folder']}'"
    elif "archive" in entry:
        if not entry["archive"].lower().endswith((".tar", ".tar.gz", ".tgz", ".zip")):
            yield f"'{where}.archive' must end in .tar, .tar.gz, .tgz or .zip, not '{entry['archive']}'"
        yield from _file_faults(where, "archive", entry, f"data/raw/{name}")


def _weights_faults(name: str, entry: Mapping[str, Any], recipes: Mapping[str, Any]) -> Iterator[str]:
    where = f"weights.{name}"
    if ("recipe" in entry) == ("file" in entry):
        yield f"'{where}' needs either 'recipe' and 'seed', or 'file'"
    elif "recipe" in entry:
        if entry["recipe"] not in recipes:
            yield f"'{where}': unknown recipe '{entry['recipe']}'{nearest(entry['recipe'], recipes)}"
        if "seed" not in entry:
            yield f"the key 'seed' is missing in '{where}'"
        for key in ("url", "sha256", "normalisation"):
            if key in entry:
                yield f"'{where}.{key}' goes with 'file' only; remove it"
    else:
        if not entry["file"].endswith(WEIGHT_FILES):
            yield f"'{where}.file' must end in {', '.join(WEIGHT_FILES)}, not '{entry['file']}'"
        if "normalisation" not in entry:
            yield f"the key 'normalisation' is missing in '{where}': it comes with the file"
        if "seed" in entry:
            yield f"'{where}.seed' goes with 'recipe' only; remove it"
        yield from _file_faults(where, "file", entry, "data/raw/weights")


def _file_faults(where: str, key: str, entry: Mapping[str, Any], raw: str) -> Iterator[str]:
    name = entry[key]
    if "sha256" not in entry:
        yield f"the key 'sha256' is missing in '{where}': it says which bytes '{name}' must have"
    if "url" in entry or find_file(name) or (Path(raw) / Path(name).name).is_file():
        return
    hint = f" ({entry['obtain']})" if "obtain" in entry else ""
    yield (
        f"'{where}.{key}': the file '{name}' was not found; give its path, set {MIRROR} to the folder "
        f"that holds it, or give its 'url'{hint}"
    )


def _recipe_faults(where: str, entry: Mapping[str, Any]) -> Iterator[str]:
    if entry["milestones"] and entry["schedule"] != "step":
        yield f"'{where}.milestones' is for the schedule 'step', not '{entry['schedule']}'; remove it"
    if entry["schedule"] == "step" and not entry["milestones"]:
        yield f"'{where}': the schedule 'step' needs 'milestones'"
    for milestone in entry["milestones"]:
        if milestone >= entry["epochs"]:
            yield f"'{where}.milestones': {milestone} is not before the last of {entry['epochs']} epochs"
    if entry["warmup"] >= entry["epochs"]:
        yield f"'{where}.warmup' must be shorter than the {entry['epochs']} epochs"
    if entry["nesterov"] and entry["optimizer"] != "sgd":
        yield f"'{where}.nesterov' is for the optimizer 'sgd', not '{entry['optimizer']}'; remove it"
    if entry["nesterov"] and entry["momentum"] == 0:
        yield f"'{where}.nesterov' needs a momentum above 0"


def _strategy_faults(entries: Sequence[Any]) -> Iterator[str]:
    registered = strategies.registered()
    chosen: dict[str, Strategy] = {}
    for index, entry in enumerate(entries):
        where = f"strategies[{index}]"
        name = entry if isinstance(entry, str) else entry["name"]
        if name == CONTROL:
            yield f"'{where}': '{CONTROL}' is the control and always runs; remove it"
        elif isinstance(entry, str) and name not in registered:
            yield f"'{where}': unknown strategy '{name}'{nearest(name, registered)}"
        elif not isinstance(entry, str) and name in registered:
            yield f"'{where}': '{name}' is a strategy of the registry; name the combination otherwise"
        elif name in chosen:
            yield f"'{where}': the strategy '{name}' is listed twice; remove one"
        else:
            try:
                chosen[name] = _strategy(entry, registered)
            except UserError as error:
                yield f"'{where}': {error}"
    for baseline in BASELINES:
        if not any(strategy.score == baseline for strategy in chosen.values()):
            names = [s.name for s in registered.values() if s.score == baseline]
            yield f"'strategies' lacks the baseline every comparison needs: add {' or '.join(names)}"


def _pair_faults(where: str, pair: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    for name in pair.get("weights", ()):
        if name not in values["weights"]:
            yield f"'{where}.weights': unknown weights '{name}'{nearest(name, values['weights'])}"
    finetune = pair.get("finetune", values["finetune"])
    if "finetune" in pair and finetune not in values["recipes"]:
        yield f"'{where}.finetune': unknown recipe '{finetune}'{nearest(finetune, values['recipes'])}"
    if pair["model"] not in models.MODELS:
        names = models.MODELS.names()
        yield f"'{where}.model': unknown model '{pair['model']}'{nearest(pair['model'], names)}"
        return
    shape, classes = _form(pair["dataset"], values["datasets"][pair["dataset"]])
    if shape is None or classes is None:
        return  # already told
    for name in pair.get("weights", values["weights"]):
        normalisation = values["weights"].get(name, {}).get("normalisation")
        for key in ("mean", "std") if normalisation else ():
            if len(normalisation[key]) != shape[0]:
                yield (
                    f"'weights.{name}.normalisation.{key}' has {len(normalisation[key])} channels, the "
                    f"data set '{pair['dataset']}' has {shape[0]}"
                )
    try:
        total, part = counts(pair["model"], shape, classes)
        for ratio in pair.get("ratios", values["ratios"]):
            budget.fraction_to_keep(total, part, ratio, model=f"'{pair['model']}' on '{pair['dataset']}'")
    except UserError as error:
        yield f"'{where}': {error}"


@cache
def counts(model: str, shape: tuple[int, int, int], classes: int) -> tuple[int, int]:
    """Return (parameters, prunable parameters) of a model, without allocating it."""
    network = models.build(model, shape, classes, None)
    weights = prunable(network)
    total = sum(parameter.numel() for parameter in network.parameters())
    return total, sum(weight.numel() for weight in weights.values())


def _form(name: str, entry: Mapping[str, Any]) -> tuple[tuple[int, int, int] | None, int | None]:
    """Return the shape and number of classes of a data set, None where they are not known."""
    source = entry.get("source", name)
    if source not in SOURCES:
        return None, None
    known = SOURCES[source]
    if known.shape is not None:
        return known.shape, known.classes
    shape = entry.get("shape")
    return (shape[0], shape[1], shape[2]) if shape else None, entry.get("classes")


def _strategy(entry: Any, registered: Mapping[str, Strategy]) -> Strategy:
    if isinstance(entry, str):
        return registered[entry]
    return strategies.combine(entry["name"], entry["score"], entry["scope"], entry["parameters"])


def _build(values: Mapping[str, Any]) -> Study:
    registered = strategies.registered()
    chosen = [_strategy(entry, registered) for entry in values["strategies"]]
    return Study(
        name=values["study"],
        pairs=tuple(_pair(entry, values) for entry in values["pairs"]),
        datasets={name: _dataset(name, entry) for name, entry in values["datasets"].items()},
        weights={name: _weights(name, entry) for name, entry in values["weights"].items()},
        recipes={name: recipe.from_mapping(entry) for name, entry in values["recipes"].items()},
        strategies={strategy.name: strategy for strategy in chosen},
        seeds=tuple(values["seeds"]),
        threads=values["threads"],
        device=values["device"],
    )


def _pair(entry: Mapping[str, Any], values: Mapping[str, Any]) -> Pair:
    ratios = sorted(float(ratio) for ratio in entry.get("ratios", values["ratios"]))
    return Pair(
        dataset=entry["dataset"],
        model=entry["model"],
        weights=tuple(entry.get("weights", values["weights"])),
        finetune=entry.get("finetune", values["finetune"]),
        ratios=tuple(ratio for ratio in ratios if ratio != 1),
    )


def _dataset(name: str, entry: Mapping[str, Any]) -> DataSet:
    source = entry.get("source", name)
    shape, classes = _form(name, entry)
    assert shape is not None and classes is not None  # _faults has seen to it
    raw = tuple(Fetch(file) for file in SOURCES[source].raw)
    if "archive" in entry:
        raw = (_fetch(entry["archive"], entry),)
    words = ["--name", name, "--source", source, "--shape", *map(str, shape)]
    words += ["--classes", str(classes), "--validation", str(entry["validation"])]
    words += ["--test", str(entry["test"]), "--split-seed", str(entry["split_seed"])]
    for split in ("train", "validation", "test"):
        if split in entry["limit"]:
            words += [f"--limit-{split}", str(entry["limit"][split])]
    return DataSet(name, source, shape, classes, raw, entry.get("folder"), shlex.join(words))


def _weights(name: str, entry: Mapping[str, Any]) -> Weights:
    if "recipe" in entry:
        return Weights(name, recipe=entry["recipe"], seed=entry["seed"])
    normalisation = entry["normalisation"]
    return Weights(
        name,
        raw=_fetch(entry["file"], entry),
        mean=tuple(map(float, normalisation["mean"])),
        std=tuple(map(float, normalisation["std"])),
    )


def _fetch(path: str, entry: Mapping[str, Any]) -> Fetch:
    urls = (entry["url"],) if "url" in entry else ()
    file = RawFile(Path(path).name, f"sha256:{entry['sha256']}", urls)
    return Fetch(file, path, entry.get("obtain", ""))
