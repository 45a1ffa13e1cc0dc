"""What can be wrong with a study beyond its schema, told before anything runs: one sentence for each."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from shrinkflow import budget, conformance, files, measures, models, own, strategies, trial
from shrinkflow.data import SOURCES, streamed
from shrinkflow.errors import UserError, nearest
from shrinkflow.models import Shape
from shrinkflow.models.published import PUBLISHED, TORCHVISION
from shrinkflow.prunable import prunable
from shrinkflow.strategies import CONTROL, Strategy
from shrinkflow.way import FILTER, ONE_SHOT, PRETRAINED, RATE, WEIGHT, WEIGHTS, Way

MIRROR = "SHRINKFLOW_MIRROR"
WEIGHT_FILES = (".safetensors", ".th", ".pt", ".pth")
# Epochs of a pretraining that are kept for rewinding, unless the study says which.
KEPT = (0,)
# Names of raw files become part of Snakemake's patterns, and get endings like `.record.json`.
_PATTERN, _LONGEST = set("{}"), 200
# The survey asks for both in every comparison (recommendation 10).
BASELINES = ("random", "magnitude")


def of(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the schema cannot see, in the order of the file."""
    for name, entry in values["datasets"].items():
        yield from _dataset_faults(name, entry)
    for name, entry in values["models"].items():
        yield from _model_faults(name, entry)
    for name, entry in values["weights"].items():
        yield from _weights_faults(name, entry, values["recipes"])
    yield from _clashes(values)
    for name, entry in values["recipes"].items():
        yield from _recipe_faults(f"recipes.{name}", entry)
    if values["finetune"] not in values["recipes"]:
        hint = nearest(values["finetune"], values["recipes"])
        yield f"'finetune': unknown recipe '{values['finetune']}'{hint}"
    yield from _strategy_faults(values)
    yield from _cost_faults(values)
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
    known = SOURCES[source]
    yield from _streaming_faults(name, entry)
    for key in ("shape", "classes"):
        if known.shape is None and key not in entry:
            yield f"the key '{key}' is missing in '{where}': an 'imagefolder' has to state it"
        elif known.shape is not None and key in entry:
            yield f"'{where}.{key}' is for data sets of the source 'imagefolder' only; remove it"
    for key in ("folder", "archive", "url", "sha256", "obtain"):
        if key in entry and ("folder" if key == "folder" else "archive") not in known.own:
            yield f"'{where}.{key}' does not go with the source '{source}'; remove it"
    given = [place for place in known.own if place in entry]
    if not known.raw and len(given) != 1:
        places = " or ".join(f"'{place}'" for place in known.own)
        yield f"'{where}' needs {'either ' if len(known.own) > 1 else ''}{places}"
        return
    if "folder" in given and not os.path.isdir(entry["folder"]):
        yield f"'{where}.folder': there is no folder '{entry['folder']}'"
    elif "archive" in given:
        if not entry["archive"].lower().endswith((".tar", ".tar.gz", ".tgz", ".zip")):
            yield f"'{where}.archive' must end in .tar, .tar.gz, .tgz or .zip, not '{entry['archive']}'"
        yield from _file_faults(where, "archive", entry, f"data/raw/{name}")


def _streaming_faults(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    where, source = f"datasets.{name}", entry.get("source", name)
    known = SOURCES[source]
    if "stream" in entry and known.load is None:
        yield f"'{where}.stream': the pictures of '{source}' are always streamed; remove it"
    elif entry.get("stream") and known.find is None:
        yield f"'{where}.stream' does not go with the source '{source}', which fits into memory; remove it"
    elif entry.get("stream") and "archive" in entry:
        yield f"'{where}.stream': pictures are streamed from a 'folder'; unpack '{entry['archive']}' into one"
    elif not streamed(name, entry):
        if "resize" in entry:
            yield f"'{where}.resize' goes with 'stream: true' only; remove it"
    elif shape := form(name, entry)[0]:
        if entry.get("resize", math.inf) < max(shape[1:]):
            yield (
                f"'{where}.resize': {entry['resize']} is less than the side of the part that is cut out, "
                f"{max(shape[1:])}; give that or more"
            )
        if shape[0] not in (1, 3):
            yield f"'{where}.shape' has {shape[0]} channels; pictures have 1 (grey) or 3 (colour)"


def _augmentation_faults(pair: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield why a recipe of a pair cannot augment its pictures."""
    name = pair["dataset"]
    entry = values["datasets"][name]
    if entry.get("source", name) not in SOURCES:
        return  # already told
    chosen = pair.get("strategies", list(map(name_of, values["strategies"])))
    weights = [values["weights"].get(weights, {}) for weights in pair.get("weights", values["weights"])]
    strategies = [own for own in values["strategies"] if isinstance(own, dict) and own["name"] in chosen]
    used = [part.get("recipe") for part in (*weights, *strategies)]
    for recipe in dict.fromkeys([*used, pair.get("finetune", values["finetune"])]):
        if recipe not in values["recipes"]:
            continue
        if streamed(name, entry) and values["recipes"][recipe]["crop"]:
            yield (
                f"'recipes.{recipe}.crop' pads pictures of one size, but those of '{name}' are streamed; "
                "remove it, and set 'resized_crop: true' instead"
            )
        if not streamed(name, entry) and values["recipes"][recipe]["resized_crop"]:
            yield (
                f"'recipes.{recipe}.resized_crop' is for streamed pictures, but those of '{name}' are in "
                "memory; remove it, and set 'crop' instead"
            )


def _model_faults(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    where = f"models.{name}"
    if name in models.MODELS:
        yield f"'{where}': '{name}' is a model of the registry; give yours another name"
    try:
        own.parameters(entry["file"], entry["function"], models.ARGUMENTS)
    except UserError as error:
        yield f"'{where}': {error}"


def _weights_faults(name: str, entry: Mapping[str, Any], recipes: Mapping[str, Any]) -> Iterator[str]:
    where = f"weights.{name}"
    if name == TORCHVISION:
        yield f"'{where}': '{name}' is the name of the weights torchvision publishes; give yours another name"
    if ("recipe" in entry) == ("file" in entry):
        yield f"'{where}' needs either 'recipe' and 'seed', or 'file'"
    elif "recipe" in entry:
        if entry["recipe"] not in recipes:
            yield f"'{where}': unknown recipe '{entry['recipe']}'{nearest(entry['recipe'], recipes)}"
        if "seed" not in entry:
            yield f"the key 'seed' is missing in '{where}'"
        for epoch in entry.get("keep", KEPT):
            if epoch > recipes.get(entry["recipe"], {"epochs": epoch})["epochs"]:
                epochs = recipes[entry["recipe"]]["epochs"]
                yield f"'{where}.keep': recipe '{entry['recipe']}' has no epoch {epoch}, but {epochs} epochs"
        for key in ("url", "sha256", "normalisation"):
            if key in entry:
                yield f"'{where}.{key}' goes with 'file' only; remove it"
    else:
        if "keep" in entry:
            yield f"'{where}.keep' goes with 'recipe' only; remove it"
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
    base = Path(name).name
    if not base or base.startswith((".", "-")) or set(base) & _PATTERN or len(os.fsencode(base)) > _LONGEST:
        yield (
            f"'{where}.{key}': a file cannot be called '{base}' here; rename it: up to {_LONGEST} bytes, no "
            "braces, no '.' or '-' at the start"
        )
        return
    if "url" in entry or find_file(name) or os.path.isfile(os.path.join(raw, base)):
        return
    hint = f" ({entry['obtain']})" if "obtain" in entry else ""
    yield (
        f"'{where}.{key}': the file '{name}' was not found; give its path, set {MIRROR} to the folder "
        f"that holds it, or give its 'url'{hint}"
    )


def _clashes(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield which files of the user's would be kept in one place, `data/raw/FOLDER/FILE`, but differ."""
    found = {
        ("weights", file.name): (TORCHVISION, file.checksum)
        for file in map(PUBLISHED.__getitem__, PUBLISHED.names())
    }
    for source in SOURCES.names():
        found |= {(source, raw.name): (source, raw.checksum) for raw in SOURCES[source].raw}
    named = [(f"datasets.{name}", "archive", name, entry) for name, entry in values["datasets"].items()]
    named += [(f"weights.{name}", "file", "weights", entry) for name, entry in values["weights"].items()]
    for where, key, folder, entry in named:
        if key in entry and "sha256" in entry:
            name, checksum = Path(entry[key]).name, f"sha256:{entry['sha256']}"
            other, theirs = found.setdefault((folder, name), (where, checksum))
            if checksum != theirs:
                yield f"'{where}.{key}': another file is called '{name}' too, that of '{other}'; rename one"


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


def _strategy_faults(values: Mapping[str, Any]) -> Iterator[str]:
    chosen: dict[str, Strategy] = {}
    registered = strategies.registered()
    for index, entry in enumerate(values["strategies"]):
        where = f"strategies[{index}]"
        name = name_of(entry)
        if name == CONTROL or name.startswith(f"{CONTROL}-"):
            yield f"'{where}': '{name}' is the name of a control; controls always run, so remove it"
        elif not isinstance(entry, str) and name in registered:
            yield f"'{where}': '{name}' is a strategy of the registry; name the combination otherwise"
        elif name in chosen:
            yield f"'{where}': the strategy '{name}' is listed twice; remove one"
        else:
            try:
                chosen[name] = strategies.resolve(entry, values["conformance"])
            except UserError as error:
                yield f"'{where}': {error}"
                continue
            yield from _way_faults(f"'{where}'", chosen[name], values)
    for name in values["cross_masks"]:
        if name not in chosen:
            yield f"'cross_masks': '{name}' is none of the study's strategies{nearest(name, chosen)}"
        elif not _crossable(chosen[name]):
            yield (
                f"'cross_masks': the mask of '{name}' cannot be told from its training; name strategies that "
                "prune the pretrained network once and leave its weights as they are"
            )
    if values["cross_masks"] and len(values["seeds"]) < 2:
        yield "'cross_masks' needs at least two 'seeds'"
    for baseline in BASELINES:
        scores = {strategy.score.removeprefix(strategies.CONFORMING) for strategy in chosen.values()}
        if baseline not in scores:
            names = [
                s.name
                for s in registered.values()
                if s.score == baseline and s.way in (Way(), Way(scope="layer"))
            ]
            yield f"'strategies' lacks the baseline every comparison needs: add {' or '.join(names)}"


def _cost_faults(values: Mapping[str, Any]) -> Iterator[str]:
    listed = list(map(name_of, values["strategies"]))
    for name in values["costs"].get("strategies", ()):
        if name == CONTROL or name.startswith(f"{CONTROL}-"):
            yield f"'costs.strategies': '{name}' is a control; controls are always timed, so remove it"
        elif name not in listed:
            yield f"'costs.strategies': '{name}' is none of the study's strategies{nearest(name, listed)}"
    known = {
        "ratios": {ratio for entry in (values, *values["pairs"]) for ratio in entry.get("ratios", ())},
        "seeds": set(values["seeds"]),
    }
    for key, there in known.items():
        for value in values["costs"].get(key, ()):
            if value not in there:
                listing = ", ".join(f"{one:g}" for one in sorted(there))
                yield f"'costs.{key}': {value:g} is none of the study's {key}; known: {listing}"


def _crossable(strategy: Strategy) -> bool:
    """Whether the seed of a strategy's mask can be another than that of its training."""
    way = strategy.way
    return way.start == PRETRAINED and way.schedule == ONE_SHOT and not strategies.moves(strategy)


def _way_faults(where: str, strategy: Strategy, values: Mapping[str, Any]) -> Iterator[str]:
    way = strategy.way
    if way.recipe is not None and way.recipe not in values["recipes"]:
        yield f"{where}: unknown recipe '{way.recipe}'{nearest(way.recipe, values['recipes'])}"
    if way.scope in conformance.SCOPES and values["budget"] == budget.MACS:
        yield f"{where}: '{way.scope}' counts weights, as ShrinkBench does; set 'budget: parameters'"
    if way.like is None:
        return
    named = {name_of(entry): entry for entry in values["strategies"]}
    if way.like not in named:
        yield (
            f"{where}: '{way.scope}' takes the layer sizes of a strategy that is not in the study"
            f"{nearest(way.like, named)}"
        )
        return
    try:
        other = strategies.resolve(named[way.like], values["conformance"]).way
    except UserError:
        return  # told where it stands
    if other.like or other.granularity != WEIGHT:
        yield (
            f"{where}: '{way.like}' cannot lend its layer sizes; name a strategy that chooses single weights "
            "by itself"
        )


def _pair_faults(where: str, pair: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    for name in pair.get("weights", ()):
        if name not in values["weights"] and name != TORCHVISION:
            known = [*values["weights"], TORCHVISION]
            yield f"'{where}.weights': unknown weights '{name}'{nearest(name, known)}"
    if not pair.get("weights", values["weights"]):
        yield f"'{where}' has no initial weights; give the study some under 'weights', or the pair 'weights'"
    finetune = pair.get("finetune", values["finetune"])
    if "finetune" in pair and finetune not in values["recipes"]:
        yield f"'{where}.finetune': unknown recipe '{finetune}'{nearest(finetune, values['recipes'])}"
    yield from _augmentation_faults(pair, values)
    listed = list(map(name_of, values["strategies"]))
    for name in pair.get("strategies", ()):
        if name not in listed:
            yield f"'{where}.strategies': '{name}' is none of the study's strategies{nearest(name, listed)}"
    if pair["model"] in values["models"]:
        if list(_model_faults(pair["model"], values["models"][pair["model"]])):
            return  # already told
    elif pair["model"] not in models.MODELS:
        names = [*models.MODELS.names(), *values["models"]]
        yield f"'{where}.model': unknown model '{pair['model']}'{nearest(pair['model'], names)}"
        return
    shape, classes = form(pair["dataset"], values["datasets"][pair["dataset"]])
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
    if TORCHVISION in pair.get("weights", ()):
        yield from _published_faults(where, pair, shape, classes)
    network, version = reference(pair["model"], values), None
    try:
        if models.is_own(network):
            trial.run(network, shape, classes)
            version = files.digest(models.file(network))
        costs = Costs.of(network, shape, classes, values["budget"], version)
    except UserError as error:
        yield f"'{where}': {error}"
        return
    model = replace(costs, name=f"'{pair['model']}' on '{pair['dataset']}'")
    if not model.shapes:
        yield (
            f"'{where}': {model.name} has no weight that may be pruned: of its convolutions and linear "
            "layers the last linear one, its classifier, stays; choose another model"
        )
        return
    chosen = [entry for entry in values["strategies"] if name_of(entry) in pair.get("strategies", listed)]
    if chosen:
        yield from _ratio_faults(where, pair, model, values)
    for strategy in _resolved(chosen, values["conformance"]):
        yield from _lender_faults(where, strategy, pair.get("strategies", listed))
        for name in pair.get("weights", values["weights"]):
            if name in values["weights"] or name == TORCHVISION:
                entry = values["weights"].get(name, {})
                yield from _training_faults(strategy, name, entry, values["recipes"])
        yield from _fit_faults(strategy, pair, model, values)


def _published_faults(where: str, pair: Mapping[str, Any], shape: Shape, classes: int) -> Iterator[str]:
    name, dataset = pair["model"], pair["dataset"]
    if name not in PUBLISHED:
        yield (
            f"'{where}.weights': torchvision publishes no weights of '{name}', only of "
            f"{', '.join(PUBLISHED.names())}; train them by a recipe"
        )
        return
    found = PUBLISHED[name]
    if classes != found.classes:
        yield (
            f"'{where}.weights': torchvision's weights of '{name}' tell {found.classes} classes apart, those "
            f"of ImageNet, but '{dataset}' has {classes}; train weights by a recipe, or use ImageNet"
        )
    if found.side and shape[1:] != (found.side, found.side):
        yield (
            f"'{where}.weights': torchvision's weights of '{name}' are for pictures of {found.side} x "
            f"{found.side}, but those of '{dataset}' are {shape[1]} x {shape[2]}; train weights by a recipe"
        )


def _ratio_faults(
    where: str, pair: Mapping[str, Any], model: Costs, values: Mapping[str, Any]
) -> Iterator[str]:
    try:
        for ratio in pair.get("ratios", values["ratios"]):
            budget.fraction_to_keep(model.total, model.part(), ratio, model=model.name, axis=model.axis)
    except UserError as error:
        yield f"'{where}': {error}"


def _lender_faults(where: str, strategy: Strategy, listed: Sequence[str]) -> Iterator[str]:
    if strategy.way.like and strategy.way.like not in listed:
        yield f"'{where}.strategies': '{strategy.name}' needs '{strategy.way.like}' there as well; add it"


def _training_faults(
    strategy: Strategy, name: str, weights: Mapping[str, Any], recipes: Mapping[str, Any]
) -> Iterator[str]:
    """Yield why a strategy cannot be trained from certain weights."""
    way, title = strategy.way, f"strategy '{strategy.name}'"
    if way.finetuned:
        return
    if way.retraining == WEIGHTS and "recipe" not in weights:
        yield f"{title} rewinds the weights, but of '{name}', read from a file, no epoch was saved; remove it"
        return
    recipe = way.recipe or weights.get("recipe")
    if recipe is None:
        yield (
            f"{title} trains by the recipe of the weights, but '{name}' were read from a file; give the "
            "strategy a 'recipe'"
        )
        return
    if recipe not in recipes:
        return  # told where it stands
    epochs = recipes[recipe]["epochs"]
    if way.retraining in (WEIGHTS, RATE) and way.rewind_to >= epochs:
        yield (
            f"{title} rewinds to epoch {way.rewind_to}, but recipe '{recipe}' has {epochs}; choose an "
            "earlier one"
        )
    elif way.retraining == WEIGHTS and way.rewind_to not in weights.get("keep", KEPT):
        yield (
            f"{title} rewinds to epoch {way.rewind_to}, which was not saved: 'weights.{name}.keep' is "
            f"{list(weights.get('keep', KEPT))}; add {way.rewind_to} there"
        )


def _fit_faults(
    strategy: Strategy, pair: Mapping[str, Any], model: Costs, values: Mapping[str, Any]
) -> Iterator[str]:
    """Yield why a strategy cannot prune a model."""
    way, title = strategy.way, f"strategy '{strategy.name}'"
    for name in way.exclude:
        if name not in model.shapes:
            yield f"{title}: {model.name} has no prunable weight '{name}'{nearest(name, model.shapes)}"
    if way.pattern:
        for name, shape in model.shapes.items():
            if name not in way.exclude and shape[1] % way.pattern[1]:
                yield (
                    f"{title}: {way.granularity} does not fit '{name}' of {model.name}, whose {shape[1]} "
                    f"inputs {way.pattern[1]} does not divide; add it to 'exclude'"
                )
        return
    ratios = pair.get("ratios", values["ratios"])
    network = reference(pair["model"], values)
    try:
        if not strategy.file:
            trial.score(network, model.shape, model.classes, strategy.score)
        if way.granularity == FILTER:
            largest = _largest(network, model.shape, model.classes, model.axis, way.exclude, model.version)
            if max(ratios) > largest:
                raise budget.impossible(max(ratios), largest, f"whole filters of {model.name}")
        elif way.exclude:
            for ratio in ratios:
                part = model.part(way.exclude)
                budget.fraction_to_keep(model.total, part, ratio, model=model.name, axis=model.axis)
    except UserError as error:
        yield f"{title}: {error}"


def reference(model: str, values: Mapping[str, Any]) -> str:
    """Return what `models.build` calls a model of a study: its name, or FILE:FUNCTION of the user's own."""
    if model not in values["models"]:
        return model
    entry = values["models"][model]
    return f"{Path(os.path.relpath(entry['file'])).as_posix()}:{entry['function']}"


def name_of(entry: Any) -> str:
    """Return the name of an entry of a study's strategies."""
    return str(entry if isinstance(entry, str) else entry["name"])


def _resolved(entries: Sequence[Any], conformance: str) -> Iterator[Strategy]:
    """Yield the strategies that can be resolved; why others cannot is told where they stand."""
    for entry in entries:
        with contextlib.suppress(UserError):
            yield strategies.resolve(entry, conformance)


@cache
def _largest(
    model: str, shape: Shape, classes: int, axis: str, exclude: tuple[str, ...], version: str | None
) -> float:
    """Return the largest ratio that a model reaches by whole filters. `version`: see `Costs`."""
    # Imported here, because only studies that remove filters need torch-pruning.
    from shrinkflow import structure

    return structure.largest_ratio(models.build(model, shape, classes, None), shape, axis, exclude)


@dataclass(frozen=True)
class Costs:
    """What a model costs on the axis of the study's budget, and the shapes of its prunable weights.

    `version` is the hash of the file of a user's own model: it may change while costs are remembered.
    """

    name: str
    shape: Shape
    classes: int
    axis: str
    total: int
    shapes: Mapping[str, tuple[int, ...]]
    uses: Mapping[str, int]
    version: str | None

    @classmethod
    @cache
    def of(cls, model: str, shape: Shape, classes: int, axis: str, version: str | None) -> Costs:
        """Return the costs of a model as `models.build` calls it."""
        network = models.build(model, shape, classes, None)
        weights = {name: tuple(weight.shape) for name, weight in prunable(network).items()}
        if axis == budget.PARAMETERS:
            total = sum(parameter.numel() for parameter in network.parameters())
            return cls(model, shape, classes, axis, total, weights, dict.fromkeys(weights, 1), version)
        # On the meta device, a pass would first import torch's compiler, for more than a second; the trial of
        # a user's own model has done so.
        sizes = measures.sizes(network if version else network.to_empty(device="cpu"), shape)
        return cls(model, shape, classes, axis, sizes["macs"], weights, sizes["uses"], version)

    def part(self, exclude: Sequence[str] = ()) -> int:
        """Return the cost of what may be pruned."""
        return sum(
            math.prod(shape) * self.uses[name] for name, shape in self.shapes.items() if name not in exclude
        )


def form(name: str, entry: Mapping[str, Any]) -> tuple[tuple[int, int, int] | None, int | None]:
    """Return the shape and number of classes of a data set, None where they are not known."""
    source = entry.get("source", name)
    if source not in SOURCES:
        return None, None
    known = SOURCES[source]
    if known.shape is not None:
        return known.shape, known.classes
    shape = entry.get("shape")
    return (shape[0], shape[1], shape[2]) if shape else None, entry.get("classes")


def find_file(name: str) -> Path | None:
    """Return where a file named in a study lies: at its path, or in the mirror; None if nowhere."""
    mirror = os.environ.get(MIRROR)
    places = [Path(name)]
    if mirror:
        places += [Path(mirror) / name, Path(mirror) / "weights" / name]
    # Not `is_file`, which raises where a name is too long.
    return next((place for place in places if os.path.isfile(place)), None)
