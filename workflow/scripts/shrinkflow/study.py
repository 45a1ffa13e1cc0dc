"""A study: what is compared, checked before anything runs, and the cells it consists of."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shrinkflow import documents, faults, recipe, strategies, validation
from shrinkflow.data import SOURCES, streamed
from shrinkflow.data.dataset import RawFile, usual_resize
from shrinkflow.data.splits import PARTS
from shrinkflow.errors import UserError
from shrinkflow.models.published import PUBLISHED, TORCHVISION
from shrinkflow.recipe import Recipe
from shrinkflow.strategies import CONTROL, CROSSED, Strategy
from shrinkflow.way import FINETUNE, INITIALISATION, ITERATIVE, SCRATCH, Way

_DENSE = strategies.registered()[CONTROL]


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
    """A data set and a model, the weights they start from, recipe, ratios above 1, strategies by name."""

    dataset: str
    model: str
    weights: tuple[str, ...]
    finetune: str
    ratios: tuple[float, ...]
    strategies: tuple[str, ...]


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
    """A data set as a study uses it: the files to fetch or a folder, and the flags of `prepare.py`.

    `parts`: how many pictures train, validate and test, where that is known before they are read.
    `streamed`: whether the pictures stay in the folder, and every job that wants some reads them there.
    """

    name: str
    source: str
    shape: tuple[int, int, int]
    classes: int
    raw: tuple[Fetch, ...]
    folder: str | None
    flags: str
    parts: tuple[int, int, int] | None
    streamed: bool


@dataclass(frozen=True)
class Weights:
    """Initial weights: trained by `recipe` and `seed`, epochs `keep` kept, or read from the file `raw`.

    Neither stands in those that are published for models, whose file depends on the model (`Study.initial`).
    """

    name: str
    recipe: str | None = None
    seed: int = 0
    keep: tuple[int, ...] = ()
    raw: Fetch | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class Costs:
    """Which cells are timed when that is asked for, and how: see `shrinkflow.timing`."""

    strategies: tuple[str, ...]
    ratios: tuple[float, ...] | None
    seeds: tuple[int, ...]
    threads: int
    batch_size: int
    rounds: int


@dataclass(frozen=True)
class Study:
    """A checked study. `models`: those of the user's own by name, as `models.build` calls them."""

    name: str
    description: str
    pairs: tuple[Pair, ...]
    datasets: Mapping[str, DataSet]
    models: Mapping[str, str]
    weights: Mapping[str, Weights]
    recipes: Mapping[str, Recipe]
    strategies: Mapping[str, Strategy]
    budget: str
    seeds: tuple[int, ...]
    threads: int
    device: str
    jobs_per_gpu: int
    best_test_epoch: bool
    cross_masks: tuple[str, ...]
    costs: Costs

    def cells(self) -> list[Cell]:
        """Return every cell, the dense controls first within their pair and weights, crossed masks last."""
        return [
            Cell(pair.dataset, pair.model, weights, name, ratio, seed)
            for pair in self.pairs
            for weights in pair.weights
            for strategy in (*self._controls(pair), *map(self.strategy, pair.strategies))
            for name, seeds in self._crossed(strategy.name)
            for ratio in self._ratios(strategy, pair)
            for seed in seeds
        ]

    def costed(self) -> list[Cell]:
        """Return the cells that are timed where that is asked for, and the controls of all of them."""
        found = [cell for cell in self.cells() if cell.seed in self.costs.seeds and self._is_costed(cell)]
        controls = {(*self._network(cell), self.control(self.strategy(cell.strategy)).name) for cell in found}
        return [
            cell
            for cell in self.cells()
            if cell in found
            or (cell.seed in self.costs.seeds and (*self._network(cell), cell.strategy) in controls)
        ]

    def jobs(self) -> list[Cell]:
        """Return every cell that is computed: those of the study, and those that lie on the way to them."""
        found = dict.fromkeys(self.cells())
        for cell in list(found):
            before = self.predecessor(cell)
            while before:
                found[before] = None
                before = self.predecessor(before)
        return list(found)

    def strategy(self, name: str) -> Strategy:
        """Return a strategy of the study, or a control."""
        method = name.partition(CROSSED)[0]
        if method in self.strategies:
            return replace(self.strategies[method], name=name)
        return next(
            control
            for control in (_DENSE, *map(self.control, self.strategies.values()))
            if control.name == name
        )

    def control(self, strategy: Strategy) -> Strategy:
        """Return the control of a strategy: the dense network, trained in the same way."""
        way = strategy.way
        if way.finetuned and way.recipe is None:
            return _DENSE
        if way.retraining == SCRATCH:
            # A network trained from scratch needs no mask to be a fresh one.
            way = Way(start=INITIALISATION, recipe=way.recipe)
        parts = [CONTROL]
        if way.start == INITIALISATION:
            parts.append(INITIALISATION)
        elif way.retraining != FINETUNE:
            parts += [way.retraining, str(way.rewind_to)]
        parts += [way.recipe] if way.recipe else []
        kept = Way(start=way.start, retraining=way.retraining, rewind_to=way.rewind_to, recipe=way.recipe)
        return replace(_DENSE, name="-".join(parts), way=kept)

    def training(self, cell: Cell) -> Recipe:
        """Return the recipe by which a cell's pruned network is trained."""
        way = self.strategy(cell.strategy).way
        usual = (
            self.pair(cell.dataset, cell.model).finetune
            if way.finetuned
            else self.weights[cell.weights].recipe
        )
        return self.recipes[way.recipe or str(usual)]

    def pair(self, dataset: str, model: str) -> Pair:
        """Return the pair of a data set and a model."""
        return next(p for p in self.pairs if (p.dataset, p.model) == (dataset, model))

    def reference(self, model: str) -> str:
        """Return what `models.build` calls a model of the study."""
        return self.models.get(model, model)

    def initial(self, weights: str, model: str) -> Weights:
        """Return the initial weights of a model by their name."""
        if weights != TORCHVISION:
            return self.weights[weights]
        found = PUBLISHED[model]
        file = RawFile(found.name, found.checksum, (found.url,))
        return Weights(weights, raw=Fetch(file), mean=found.mean, std=found.std)

    def figures(self) -> list[str]:
        """Return the names of the figures that this study can draw."""
        pruned = [pair for pair in self.pairs if pair.strategies]
        found = ["compression", "speedup"] if pruned else []
        found += ["weights"] if any(len(pair.weights) > 1 for pair in pruned) else []
        datasets = [pair.dataset for pair in self.pairs]
        return found + (["families"] if len(set(datasets)) < len(datasets) else [])

    def predecessor(self, cell: Cell) -> Cell | None:
        """Return the cell whose retrained checkpoint `cell` is pruned from; None: no cell.

        An iterative schedule goes through the powers of its factor, whatever the ratios of the study, so
        that cells of one chain share their beginnings, and another ratio changes none of them.
        """
        way = self.strategy(cell.strategy).way
        if way.schedule != ITERATIVE:
            return None
        before, power = 1.0, 1
        while (ratio := _short(way.factor**power)) < cell.ratio:
            before, power = ratio, power + 1
        return replace(cell, ratio=before) if before > 1 else None

    def chooser(self, cell: Cell) -> Cell:
        """Return the cell that chooses a cell's mask: itself, but for a crossed mask the one of its seed."""
        method, crossed, mask_seed = cell.strategy.partition(CROSSED)
        return replace(cell, strategy=method, seed=int(mask_seed)) if crossed else cell

    def lender(self, cell: Cell) -> Cell | None:
        """Return the cell whose layer sizes a cell takes over."""
        like = self.strategy(cell.strategy).way.like
        return replace(self.chooser(cell), strategy=like) if like else None

    def _is_costed(self, cell: Cell) -> bool:
        ratios = self.costs.ratios
        if cell.strategy not in self.costs.strategies:
            return False
        return ratios is None or cell.ratio in ratios or bool(self.strategy(cell.strategy).way.pattern)

    @staticmethod
    def _network(cell: Cell) -> tuple[str, str, str]:
        return cell.dataset, cell.model, cell.weights

    def _crossed(self, name: str) -> list[tuple[str, Sequence[int]]]:
        """Return (name, seeds) of a strategy, and of those that train its masks with the other seeds."""
        crossed = [
            (f"{name}{CROSSED}{mask_seed}", [seed for seed in self.seeds if seed != mask_seed])
            for mask_seed in self.seeds
            if name in self.cross_masks
        ]
        return [(name, self.seeds), *crossed]

    def _controls(self, pair: Pair) -> list[Strategy]:
        found = {CONTROL: _DENSE}
        for name in pair.strategies:
            control = self.control(self.strategies[name])
            found[control.name] = control
        return list(found.values())

    def _ratios(self, strategy: Strategy, pair: Pair) -> tuple[float, ...]:
        if strategy.name not in self.strategies:
            return (1.0,)
        pattern = strategy.way.pattern
        return (_short(pattern[1] / pattern[0]),) if pattern else pair.ratios


def load(config: Mapping[str, Any], sources: Sequence[str | Path] = ()) -> Study:
    """Check a study's mapping and return the study.

    Args:
        config: what the YAML says, merged with the command line.
        sources: the YAML files it came from; they name it in messages and are checked for odd keys.

    Raises:
        UserError: one line per fault: the file, the key, what is wrong and what would be right.
    """
    where = ", ".join(os.path.relpath(source) for source in sources) or "the study"
    with documents.named(where):
        for source in sources:
            documents.refuse_odd_keys(Path(source))
        values = validation.complete(config)
        for name in sorted({pair["dataset"] for pair in values["pairs"]}):
            values["datasets"].setdefault(name, validation.fill({}, "datasets"))
        found = dict.fromkeys(faults.of(values))
        if found:
            raise UserError("\n".join(found))
        return _build(values)


def read(path: str | Path) -> Study:
    """Read and check a study's YAML file.

    Raises `UserError` as `load` does, and for a file that is no YAML.
    """
    with documents.named(os.path.relpath(path)):
        config = documents.read(Path(path))
    return load({} if config is None else config, [path])


def ratio_text(ratio: float) -> str:
    """Return how a ratio is written in paths: 2, 1.5."""
    return str(int(ratio)) if ratio == int(ratio) else repr(float(ratio))


def _build(values: Mapping[str, Any]) -> Study:
    chosen = [strategies.resolve(entry, values["conformance"]) for entry in values["strategies"]]
    return Study(
        name=values["study"],
        description=values["description"],
        pairs=tuple(_pair(entry, values) for entry in values["pairs"]),
        datasets={name: _dataset(name, entry) for name, entry in values["datasets"].items()},
        models={name: faults.reference(name, values) for name in values["models"]},
        weights=_all_weights(values),
        recipes={name: recipe.from_mapping(entry) for name, entry in values["recipes"].items()},
        strategies={strategy.name: strategy for strategy in chosen},
        budget=values["budget"],
        seeds=tuple(values["seeds"]),
        threads=values["threads"],
        device=values["device"],
        jobs_per_gpu=values["jobs_per_gpu"],
        best_test_epoch=values["best_test_epoch"],
        cross_masks=tuple(values["cross_masks"]),
        costs=_costs(values),
    )


def _costs(values: Mapping[str, Any]) -> Costs:
    entry = values["costs"]
    return Costs(
        strategies=tuple(entry.get("strategies", map(faults.name_of, values["strategies"]))),
        ratios=tuple(map(float, entry["ratios"])) if "ratios" in entry else None,
        seeds=tuple(entry.get("seeds", values["seeds"][:1])),
        threads=entry.get("threads", values["threads"]),
        batch_size=entry["batch_size"],
        rounds=entry["rounds"],
    )


def _pair(entry: Mapping[str, Any], values: Mapping[str, Any]) -> Pair:
    ratios = sorted(float(ratio) for ratio in entry.get("ratios", values["ratios"]))
    return Pair(
        dataset=entry["dataset"],
        model=entry["model"],
        weights=tuple(entry.get("weights", values["weights"])),
        finetune=entry.get("finetune", values["finetune"]),
        ratios=tuple(ratio for ratio in ratios if ratio != 1),
        strategies=tuple(entry.get("strategies", map(faults.name_of, values["strategies"]))),
    )


def _short(ratio: float) -> float:
    """Return a ratio to six digits: it is part of a path."""
    return float(f"{ratio:.6g}")


def _dataset(name: str, entry: Mapping[str, Any]) -> DataSet:
    source = entry.get("source", name)
    shape, classes = faults.form(name, entry)
    assert shape is not None and classes is not None  # faults has seen to it
    raw = tuple(Fetch(file) for file in SOURCES[source].raw if "folder" not in entry)
    if "archive" in entry:
        raw = (_fetch(entry["archive"], entry),)
    words = ["--name", name, "--source", source, "--shape", *map(str, shape)]
    words += ["--classes", str(classes), "--validation", str(entry["validation"])]
    words += ["--test", str(entry["test"]), "--split-seed", str(entry["split_seed"])]
    if streamed(name, entry):
        words += ["--resize", str(entry.get("resize", usual_resize(shape)))]
    for split in PARTS:
        if split in entry["limit"]:
            words += [f"--limit-{split}", str(entry["limit"][split])]
    return DataSet(
        name,
        source,
        shape,
        classes,
        raw,
        entry.get("folder"),
        shlex.join(words),
        _parts(SOURCES[source].pictures, entry),
        streamed(name, entry),
    )


def _parts(pictures: tuple[int, int] | None, entry: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return how many pictures train, validate and test; None where only reading them can tell."""
    limit = entry["limit"]
    if len(limit) == len(PARTS):
        return limit["train"], limit["validation"], limit["test"]
    if pictures is None:
        return None
    train, test = pictures
    test = test or round(entry["test"] * train)
    train -= 0 if pictures[1] else test
    validation = round(entry["validation"] * train)
    return (
        limit.get("train", train - validation),
        limit.get("validation", validation),
        limit.get("test", test),
    )


def _all_weights(values: Mapping[str, Any]) -> dict[str, Weights]:
    found = {name: _weights(name, entry) for name, entry in values["weights"].items()}
    published = any(TORCHVISION in pair.get("weights", ()) for pair in values["pairs"])
    return found | ({TORCHVISION: Weights(TORCHVISION)} if published else {})


def _weights(name: str, entry: Mapping[str, Any]) -> Weights:
    if "recipe" in entry:
        keep = tuple(sorted(entry.get("keep", faults.KEPT)))
        return Weights(name, recipe=entry["recipe"], seed=entry["seed"], keep=keep)
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
