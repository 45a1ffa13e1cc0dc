from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from docs import keys
from shrinkflow import faults, study, validation
from shrinkflow.errors import UserError
from shrinkflow.recipe import Recipe
from shrinkflow.study import Cell

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "config" / "config.yaml", *sorted((ROOT / "config" / "studies").glob("*.yaml"))]


def valid() -> dict:
    return {
        "study": "tiny",
        "pairs": [{"dataset": "digits", "model": "digitsnet"}],
        "weights": {"A": {"recipe": "long", "seed": 1}, "B": {"recipe": "long", "seed": 2}},
        "recipes": {
            "long": {"optimizer": "sgd", "lr": 0.1, "epochs": 4},
            "short": {"optimizer": "adam", "lr": 0.001, "epochs": 2, "batch_size": 32},
        },
        "finetune": "short",
        "strategies": [
            "random",
            "global-magnitude",
            {
                "name": "mine",
                "score": "gradient-magnitude",
                "scope": "layer",
                "parameters": {"batches": 2},
            },
        ],
        "ratios": [1, 4, 2],
        "seeds": [3, 1],
    }


def with_change(path: str, value: object) -> dict:
    """A valid study with one place changed; `...` removes it."""
    config = copy.deepcopy(valid())
    *parents, last = path.split("/")
    place = config
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    if value is ...:
        del place[last]
    elif isinstance(place, list):
        place[int(last) :] = [value]
    else:
        place[last] = value
    return config


def test_a_study_is_completed_by_defaults():
    found = study.load(valid())
    assert found.recipes["short"] == Recipe("adam", 0.001, 2, batch_size=32)
    assert (found.threads, found.device, found.jobs_per_gpu) == (1, "auto", 1)
    assert found.strategies["mine"].parameters == {"batches": 2, "batch_size": 64}
    assert found.datasets["digits"].flags == (
        "--name digits --source digits --shape 1 8 8 --classes 10 --validation 0.1 --test 0.2 --split-seed 0"
    )
    assert found.figures() == ["compression", "speedup", "weights"]


def test_cells_are_every_combination_and_one_dense_control_per_seed():
    cells = study.load(valid()).cells()
    assert len(cells) == len(set(cells)) == 2 * (3 * 2 * 2 + 2)
    assert cells[0] == Cell("digits", "digitsnet", "A", "dense", 1.0, 3)
    assert {cell.ratio for cell in cells if cell.strategy != "dense"} == {2.0, 4.0}
    assert all(cell.ratio == 1 for cell in cells if cell.strategy == "dense")


def test_a_pair_may_have_its_own_recipe_ratios_and_weights():
    config = with_change(
        "pairs/0",
        {
            "dataset": "digits",
            "model": "digitsnet",
            "weights": ["B"],
            "finetune": "long",
            "ratios": [8],
        },
    )
    found = study.load(config)
    assert {(cell.weights, cell.ratio) for cell in found.cells()} == {("B", 1.0), ("B", 8.0)}
    assert found.pair("digits", "digitsnet").finetune == "long"
    assert found.figures() == ["compression", "speedup"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("ratio", [2], "unknown key 'ratio'; did you mean 'ratios'?"),
        ("recipes/short/epoch", 2, "unknown key 'epoch' in 'recipes.short'; did you mean 'epochs'?"),
        ("pairs/0/modell", "x", "unknown key 'modell' in 'pairs[0]'; did you mean 'model'?"),
        ("seeds", ..., "the key 'seeds' is missing"),
        ("recipes/short/lr", ..., "the key 'lr' is missing in 'recipes.short'"),
        ("seeds", [1, "two"], "'seeds[1]' must be an integer, not 'two'"),
        ("seeds", [1, 2.0], "'seeds[1]' must be an integer, not 2.0"),
        ("seeds", [True], "'seeds[0]' must be an integer, not True"),
        ("seeds", [-1], "'seeds[0]' must be at least 0, not -1"),
        ("seeds", [1, 2, 1], "'seeds' lists 1 twice; remove one"),
        ("seeds", [], "'seeds' needs at least 1 entry, it has 0"),
        ("seeds", 1, "'seeds' must be a list, not 1"),
        (
            "recipes/short/lr",
            "1e-3",
            "'recipes.short.lr' must be a number, not the text '1e-3' (YAML reads a number only with "
            "a dot: 1.0e-3)",
        ),
        ("recipes/short/lr", 0, "'recipes.short.lr' must be above 0, not 0"),
        ("recipes/short/lr", float("nan"), "'recipes.short.lr' must be a number, not nan"),
        ("recipes/short/flip", "yes", "'recipes.short.flip' must be true or false, not 'yes'"),
        ("recipes/short/optimizer", "sdg", "'recipes.short.optimizer' must be one of sgd, adam, not 'sdg'"),
        ("recipes/short/milestones", [1], "'recipes.short.milestones' is for the schedule 'step', not 'fixed'; remove it"),
        ("recipes/short/schedule", "step", "'recipes.short': the schedule 'step' needs 'milestones'"),
        ("recipes/short/warmup", 2, "'recipes.short.warmup' must be shorter than the 2 epochs"),
        ("recipes/short/nesterov", True, "'recipes.short.nesterov' is for the optimizer 'sgd', not 'adam'; remove it"),
        ("ratios", [0.5], "'ratios[0]' must be at least 1, not 0.5"),
        ("ratios", [2, 2.0], "'ratios' lists 2.0 twice; remove one"),
        ("ratios", [float("inf")], "'ratios[0]' must be a number, not inf"),
        (
            "ratios",
            [2, 64],
            "'pairs[0]': compression ratio 64 is impossible for 'digitsnet' on 'digits', of whose",
        ),
        ("pairs/0/model", "digitnet", "'pairs[0].model': unknown model 'digitnet'; did you mean 'digitsnet'?"),
        ("pairs/0/dataset", "digit", "'datasets.digit': unknown data set 'digit'; did you mean 'digits'?"),
        ("pairs/0/weights", ["C"], "'pairs[0].weights': unknown weights 'C'; known: A, B"),
        ("pairs/0/finetune", "shrt", "'pairs[0].finetune': unknown recipe 'shrt'; did you mean 'short'?"),
        ("pairs/1", {"dataset": "digits", "model": "digitsnet"}, "'pairs' lists"),
        (
            "pairs/1",
            {"dataset": "digits", "model": "digitsnet", "ratios": [2]},
            "'pairs[1]': the pair (digits, digitsnet) is listed twice; remove one",
        ),
        ("finetune", "none", "'finetune': unknown recipe 'none'; known: long, short"),
        ("strategies/2", "global-magnitud", "'strategies[2]': unknown strategy 'global-magnitud'; did you mean 'global-magnitude'?"),
        ("strategies/2", "random", "'strategies[2]': the strategy 'random' is listed twice; remove one"),
        ("strategies/2", "dense", "'strategies[2]': 'dense' is the name of a control; controls always run, so remove it"),
        ("strategies/2/name", "dense-mine", "'strategies[2]': 'dense-mine' is the name of a control"),
        ("strategies/2", 7, "'strategies[2]' must be text or a mapping, not 7"),
        ("strategies/2", {"name": "x"}, "'strategies[2]': give either 'score', or 'file' and 'function'"),
        ("strategies/2", {"name": "x", "score": "magnitude", "rounds": 0}, "'strategies[2].rounds' must be at least 1, not 0"),
        ("strategies/2", {"name": "x", "score": "magnitude", "factor": 2.0}, "'strategies[2]': 'factor' goes with 'schedule: iterative' only; remove it"),
        ("strategies/2", {"name": "x", "score": "magnitude", "recipe": "lng"}, "'strategies[2]': unknown recipe 'lng'; did you mean 'long'?"),
        (
            "strategies/2",
            {"name": "x", "score": "magnitude", "granularity": "2:4"},
            "strategy 'x': 2:4 does not fit 'features.0.weight' of 'digitsnet' on 'digits', whose 1 inputs 4 does not divide; add it to 'exclude'",
        ),
        (
            "strategies/2",
            {"name": "x", "score": "magnitude", "exclude": ["features.0.wieght"]},
            "strategy 'x': 'digitsnet' on 'digits' has no prunable weight 'features.0.wieght'; did you mean 'features.0.weight'?",
        ),
        (
            "strategies/2",
            {"name": "x", "score": "magnitude", "exclude": ["features.6.weight"]},
            "strategy 'x': compression ratio 4 is impossible for 'digitsnet' on 'digits', of whose",
        ),
        (
            "strategies/2",
            {"name": "x", "score": "random", "scope": "like:snip"},
            "'strategies[2]': 'like:snip' takes the layer sizes of a strategy that is not in the study",
        ),
        ("strategies/2", {"name": "x", "score": "random", "scope": "like:x"}, "'strategies[2]': 'x' cannot lend its layer sizes"),
        (
            "pairs/0/strategies",
            ["random", "mined"],
            "'pairs[0].strategies': 'mined' is none of the study's strategies; did you mean 'mine'?",
        ),
        (
            "strategies/2",
            {"name": "x", "score": "magnitude", "retraining": "weight-rewinding", "rewind_to": 2},
            "strategy 'x' rewinds to epoch 2, which was not saved: 'weights.A.keep' is [0]; add 2 there",
        ),
        (
            "strategies/2",
            {"name": "x", "score": "magnitude", "retraining": "learning-rate-rewinding", "rewind_to": 4},
            "strategy 'x' rewinds to epoch 4, but recipe 'long' has 4; choose an earlier one",
        ),
        ("weights/A/keep", [0, 5], "'weights.A.keep': recipe 'long' has no epoch 5, but 4 epochs"),
        ("strategies/2", {"name": "x", "file": "no.py", "function": "f"}, "'strategies[2]': there is no file 'no.py'"),
        ("conformance", "shrinkbench", "'strategies[2]': 'conformance: shrinkbench' is for strategies of the registry"),
        ("conformance", "theirs", "'conformance' must be one of none, shrinkbench, not 'theirs'"),
        ("budget", "flops", "'budget' must be one of parameters, macs, not 'flops'"),
        (
            "strategies/2",
            {"name": "random", "score": "magnitude", "scope": "layer"},
            "'strategies[2]': 'random' is a strategy of the registry; name the combination otherwise",
        ),
        (
            "strategies/2/parameters",
            {"batchs": 2},
            "'strategies[2]': score 'gradient-magnitude' has no parameter 'batchs'; did you mean 'batches'?",
        ),
        ("strategies", ["random"], "'strategies' lacks the baseline every comparison needs: add global-magnitude or layerwise-magnitude"),
        ("study", "../evil", "'study' cannot be '../evil': a name has up to 64 letters"),
        ("study", "a b; rm", "'study' cannot be 'a b; rm': a name has up to 64 letters"),
        ("study", "demo\n", "'study' cannot be 'demo\\n': a name has up to 64 letters"),
        ("study", "x" * 65, "a name has up to 64 letters"),
        ("weights/$(id)", {"recipe": "long", "seed": 1}, "'$(id)' in 'weights' cannot be a name"),
        (
            "weights/A",
            {"file": "x.th", "url": "https://example.org/x.th", "sha256": "0" * 64, "normalisation": {"mean": [0], "std": [1]}, "keep": [0]},
            "'weights.A.keep' goes with 'recipe' only; remove it",
        ),
        ("weights/A/seed", ..., "the key 'seed' is missing in 'weights.A'"),
        ("weights/A/recipe", "lng", "'weights.A': unknown recipe 'lng'; did you mean 'long'?"),
        ("weights/A/file", "x.th", "'weights.A' needs either 'recipe' and 'seed', or 'file'"),
        ("weights/A/sha256", "0" * 64, "'weights.A.sha256' goes with 'file' only; remove it"),
        (
            "weights/A",
            {"file": "no/such.th", "sha256": "0" * 64, "normalisation": {"mean": [0], "std": [1]}},
            "'weights.A.file': the file 'no/such.th' was not found; give its path, set "
            "SHRINKFLOW_MIRROR",
        ),
        ("weights/A", {"file": "x.pkl"}, "'weights.A.file' must end in .safetensors, .th, .pt, .pth"),
        ("weights/A", {"file": "x.th", "sha256": "abc"}, "'weights.A.sha256' cannot be 'abc'"),
        (
            "weights/A",
            {
                "file": "x.th",
                "url": "https://example.org/x.th",
                "sha256": "0" * 64,
                "normalisation": {"mean": [0, 0, 0], "std": [1]},
            },
            "'weights.A.normalisation.mean' has 3 channels, the data set 'digits' has 1",
        ),
        ("datasets", {"digits": {"shape": [1, 8, 8]}}, "'datasets.digits.shape' is for data sets of the source 'imagefolder' only"),
        ("datasets", {"mine": {"source": "imagefolder", "folder": "/no/such"}}, "'datasets.mine.folder': there is no folder '/no/such'"),
        ("datasets", {"mine": {"source": "imagefolder"}}, "'datasets.mine' needs either 'folder' or 'archive'"),
        ("datasets", {"mine": {"source": "imagefolder", "archive": "x.rar"}}, "must end in .tar, .tar.gz, .tgz or .zip"),
        ("datasets", {"mine": {"source": "imagefolder", "archive": "x.zip"}}, "the key 'sha256' is missing in 'datasets.mine'"),
        (
            "datasets",
            {"mine": {"source": "imagefolder", "archive": "x.zip", "sha256": "0" * 64, "obtain": "ask Ann"}},
            "'datasets.mine.archive': the file 'x.zip' was not found; give its path, set "
            "SHRINKFLOW_MIRROR to the folder that holds it, or give its 'url' (ask Ann)",
        ),
        ("datasets", {"digits": {"validation": 1}}, "'datasets.digits.validation' must be below 1, not 1"),
        ("datasets", {"digits": {"limit": {"trian": 1}}}, "unknown key 'trian' in 'datasets.digits.limit'; did you mean 'train'?"),
        ("threads", 0, "'threads' must be at least 1, not 0"),
        ("device", "gpu", "'device' must be one of auto, cpu, cuda, not 'gpu'"),
        ("jobs_per_gpu", 0, "'jobs_per_gpu' must be at least 1, not 0"),
        ("jobs_per_gpu", 1.5, "'jobs_per_gpu' must be an integer, not 1.5"),
    ],
)  # fmt: skip
def test_faults_are_told_in_a_sentence(monkeypatch, path, value, message):
    monkeypatch.delenv(faults.MIRROR, raising=False)
    with pytest.raises(UserError) as caught:
        study.load(with_change(path, value))
    lines = str(caught.value).split("\nerror: ")
    assert any(message in line for line in lines), lines
    assert all(line.startswith("the study: ") for line in lines)


def test_all_faults_are_told_at_once():
    config = with_change("pairs/0/model", "nonsense")
    config["finetune"] = "nonsense"
    with pytest.raises(UserError) as caught:
        study.load(config)
    assert len(str(caught.value).split("\nerror: ")) == 2


def test_the_largest_ratio_a_model_can_reach_is_named_and_works():
    with pytest.raises(UserError, match=r"choose a ratio from 1 to ([\d.]+)") as caught:
        study.load(with_change("ratios", [1000]))
    largest = float(str(caught.value).rsplit(" ", 1)[1])
    assert study.load(with_change("ratios", [largest])).pairs[0].ratios == (largest,)


def test_doubled_keys_are_found_where_yaml_readers_keep_silent(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(valid()) + "seeds: [9]\n")
    with pytest.raises(UserError, match=r"study.yaml: the key 'seeds' is given twice; remove one"):
        study.load(yaml.safe_load(path.read_text()), [path])


# With two of its three layers whole, no more than this is left to prune.
WHOLE = {
    "name": "x",
    "score": "filter-l1",
    "granularity": "filter",
    "exclude": ["features.3.weight", "features.6.weight"],
}


def with_strategies(*entries: object) -> dict:
    return valid() | {"strategies": ["random", "global-magnitude", *entries]}


def test_filters_cannot_be_pruned_to_nothing():
    config = with_strategies("filter-l1") | {"ratios": [30]}
    assert study.load(config).cells()
    with pytest.raises(
        UserError, match=r"strategy 'x': compression ratio 20 is impossible for whole filters"
    ):
        study.load(
            with_strategies("filter-l1")
            | {"ratios": [20], "strategies": ["random", "global-magnitude", WHOLE]}
        )


def test_weights_from_a_file_cannot_be_rewound():
    config = with_strategies(
        "lottery-ticket",
        "scratch-magnitude",
        {"name": "again", "score": "magnitude", "retraining": "learning-rate-rewinding", "recipe": "long"},
    )
    config["weights"] = {
        "A": {
            "file": "x.th",
            "url": "https://example.org/x.th",
            "sha256": "0" * 64,
            "normalisation": {"mean": [0], "std": [1]},
        }
    }
    with pytest.raises(UserError) as caught:
        study.load(config)
    told = str(caught.value)
    assert (
        "strategy 'lottery-ticket' rewinds the weights, but of 'A', read from a file, no epoch was saved"
        in told
    )
    assert "strategy 'scratch-magnitude' trains by the recipe of the weights" in told
    # The learning rate alone can go back, by a recipe that is named.
    assert "'again'" not in told
    config["strategies"] = [
        "random",
        "global-magnitude",
        {"name": "lot", "score": "magnitude", "retraining": "weight-rewinding", "recipe": "long"},
    ]
    with pytest.raises(
        UserError, match="'lot' rewinds the weights, but of 'A', read from a file, no epoch was saved"
    ):
        study.load(config)


def chain(found: study.Study, cell: Cell) -> list[float]:
    before = found.predecessor(cell)
    return [*chain(found, before), cell.ratio] if before else [cell.ratio]


@pytest.mark.parametrize(
    ("factor", "ratio", "rounds"),
    [
        (2.0, 8.0, [2, 4, 8]),
        (2.0, 5.0, [2, 4, 5]),
        (4.0, 2.0, [2]),
        (1.5, 3.0, [1.5, 2.25, 3]),
        (2**0.5, 4.0, [1.41421, 2, 2.82843, 4]),
    ],
)
def test_an_iterative_schedule_goes_through_the_powers_of_its_factor(factor, ratio, rounds):
    found = study.load(
        with_strategies({"name": "x", "score": "magnitude", "schedule": "iterative", "factor": factor})
    )
    assert chain(found, Cell("digits", "digitsnet", "A", "x", ratio, 1)) == rounds


def test_chains_share_their_beginnings_and_another_ratio_changes_none():
    config = with_strategies("iterative-magnitude")
    few, many = (study.load(config | {"ratios": ratios}) for ratios in ([16], [4, 16, 24]))
    here = [cell for cell in few.jobs() if cell.strategy == "iterative-magnitude"]
    there = [cell for cell in many.jobs() if cell.strategy == "iterative-magnitude"]
    assert {cell.ratio for cell in here} == {2, 4, 8, 16}
    assert {cell.ratio for cell in there} == {2, 4, 8, 16, 24}
    assert len(there) == len(set(there))
    # Rounds that lie between the study's ratios are computed, and reported nowhere.
    assert {cell.ratio for cell in few.cells() if cell.strategy == "iterative-magnitude"} == {16}


def test_each_way_of_training_has_its_own_control():
    entries = [
        "snip", "synflow", "scratch-magnitude", "lottery-ticket", "iterative-magnitude", "gradual-magnitude", "filter-l1",
        {"name": "equal", "score": "magnitude", "retraining": "scratch", "equal": "macs"},
        {"name": "later", "score": "magnitude", "retraining": "learning-rate-rewinding", "rewind_to": 1},
        {"name": "longer", "score": "magnitude", "recipe": "long"},
    ]  # fmt: skip
    found = study.load(with_strategies(*entries))
    controls = {name: found.control(strategy).name for name, strategy in found.strategies.items()}
    assert controls == {
        **dict.fromkeys(
            ["random", "global-magnitude", "iterative-magnitude", "gradual-magnitude", "filter-l1"], "dense"
        ),
        **dict.fromkeys(["snip", "synflow", "scratch-magnitude", "equal"], "dense-initialisation"),
        "lottery-ticket": "dense-weight-rewinding-0",
        "later": "dense-learning-rate-rewinding-1",
        "longer": "dense-long",
    }
    cells = [cell for cell in found.cells() if cell.strategy in controls.values()]
    assert {cell.ratio for cell in cells} == {1.0}
    assert len(cells) == len(set(cells)) == 5 * 2 * 2
    # A control is trained by the recipe of what it controls, and is its own control.
    for name, control in controls.items():
        one, other = (Cell("digits", "digitsnet", "A", which, 1.0, 1) for which in (name, control))
        assert found.training(one) == found.training(other)
        assert found.control(found.strategy(control)).name == control


def test_recipes_are_those_of_finetuning_or_of_the_weights():
    found = study.load(
        with_strategies("snip", "lottery-ticket", {"name": "longer", "score": "magnitude", "recipe": "long"})
    )
    epochs = {
        name: found.training(Cell("digits", "digitsnet", "A", name, 2.0, 1)).epochs
        for name in found.strategies
    }
    assert epochs == {"random": 2, "global-magnitude": 2, "snip": 4, "lottery-ticket": 4, "longer": 4}


def test_crossed_masks_are_trained_by_every_other_seed():
    found = study.load(valid() | {"seeds": [1, 2, 5], "cross_masks": ["random"]})
    crossed = [cell for cell in found.cells() if "+" in cell.strategy and cell.ratio == 4]
    assert [(cell.strategy, cell.seed) for cell in crossed if cell.weights == "B"] == [
        ("random+mask1", 2),
        ("random+mask1", 5),
        ("random+mask2", 1),
        ("random+mask2", 5),
        ("random+mask5", 1),
        ("random+mask5", 2),
    ]
    cell = Cell("digits", "digitsnet", "B", "random+mask5", 4.0, 1)
    assert found.chooser(cell) == Cell("digits", "digitsnet", "B", "random", 4.0, 5)
    assert found.chooser(found.chooser(cell)) == found.chooser(cell)
    assert found.strategy(cell.strategy).score == "random"
    assert found.control(found.strategy(cell.strategy)).name == "dense"
    assert len(set(found.cells())) == len(found.cells())


def test_a_crossed_mask_has_the_layer_sizes_of_its_own_seed():
    like = {"name": "like", "score": "random", "scope": "like:global-magnitude"}
    config = valid() | {"strategies": ["random", "global-magnitude", like], "cross_masks": ["like"]}
    found = study.load(config)
    cell = Cell("digits", "digitsnet", "A", "like+mask1", 4.0, 3)
    assert found.lender(cell) == Cell("digits", "digitsnet", "A", "global-magnitude", 4.0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_masks": ["randon"]}, "'randon' is none of the study's strategies; did you mean 'random'"),
        ({"seeds": [1], "cross_masks": ["random"]}, "'cross_masks' needs at least two 'seeds'"),
        (
            {"strategies": ["random", "global-magnitude", "woodfisher"], "cross_masks": ["woodfisher"]},
            "'cross_masks': the mask of 'woodfisher' cannot be told from its training",
        ),
        (
            {"strategies": ["random", "iterative-magnitude"], "cross_masks": ["iterative-magnitude"]},
            "'cross_masks': the mask of 'iterative-magnitude' cannot be told from its training",
        ),
    ],
)
def test_masks_that_cannot_be_crossed_are_refused(change, message):
    with pytest.raises(UserError) as caught:
        study.load(valid() | change)
    assert message in str(caught.value)


def test_n_of_m_has_one_ratio():
    found = study.load(
        with_strategies(
            {"name": "x", "score": "magnitude", "granularity": "1:4", "exclude": ["features.0.weight"]}
        )
    )
    assert {cell.ratio for cell in found.cells() if cell.strategy == "x"} == {4.0}


def test_a_pair_may_have_its_own_strategies_or_none():
    config = with_strategies("snip")
    config["pairs"] = [
        {"dataset": "digits", "model": "digitsnet", "strategies": ["random"]},
        {"dataset": "digits", "model": "digitsnet-x0.5", "strategies": []},
    ]
    found = study.load(config)
    assert {(cell.model, cell.strategy) for cell in found.cells()} == {
        ("digitsnet", "dense"),
        ("digitsnet", "random"),
        ("digitsnet-x0.5", "dense"),
    }
    assert found.figures() == ["compression", "speedup", "weights", "families"]


def test_layer_sizes_are_lent_by_a_strategy_of_the_same_pair():
    config = with_strategies({"name": "x", "score": "random", "scope": "like:global-magnitude"})
    cell = Cell("digits", "digitsnet", "A", "x", 4.0, 1)
    assert study.load(config).lender(cell) == Cell("digits", "digitsnet", "A", "global-magnitude", 4.0, 1)
    config["pairs"] = [{"dataset": "digits", "model": "digitsnet", "strategies": ["random", "x"]}]
    with pytest.raises(
        UserError, match=r"'pairs\[0\].strategies': 'x' needs 'global-magnitude' there as well; add it"
    ):
        study.load(config)


def test_shrinkbench_knows_no_budget_of_macs():
    with pytest.raises(
        UserError, match="'shrinkbench-global' counts weights, as ShrinkBench does; set 'budget: parameters'"
    ):
        study.load(with_strategies("shrinkbench-global-magnitude") | {"budget": "macs"})


def test_ratios_of_macs_are_checked_as_such():
    with pytest.raises(
        UserError, match=r"ratio 1000 is impossible for 'digitsnet' on 'digits', of whose \d+ MACs"
    ):
        study.load(valid() | {"budget": "macs", "ratios": [1000]})


def test_one_shot_cells_start_from_the_pretrained_weights():
    found = study.load(valid())
    assert all(found.predecessor(cell) is None for cell in found.cells())


@pytest.mark.parametrize("ratio", [(2.0, "2"), (1.5, "1.5"), (16.0, "16"), (1000000.0, "1000000")])
def test_ratios_in_paths(ratio):
    assert study.ratio_text(ratio[0]) == ratio[1]


@given(st.floats(1, 1e6))
def test_ratios_in_paths_come_back(ratio):
    assert float(study.ratio_text(ratio)) == ratio


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path, obtained):
    found = study.load(yaml.safe_load(path.read_text(encoding="utf-8")), [path])
    assert found.name == (path.stem if path.parent.name == "studies" else "demo")
    assert len(found.cells()) > 10


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 99), st.floats(), st.text(max_size=5), st.just([])
)


@given(st.data())
def test_no_study_ends_in_a_traceback(data):
    config = valid()
    for _ in range(data.draw(st.integers(1, 3))):
        place: object = config
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            if data.draw(st.booleans()):
                place[key] = data.draw(leaves)
            else:
                del place[key]
            break
    # Whatever is wrong with a study, nothing but a UserError comes out; what is right has cells.
    with contextlib.suppress(UserError):
        assert study.load(config).cells()


def test_the_schema_describes_every_key():
    rows = list(keys.rows(validation.schema()))
    assert len(rows) > 50
    for row in rows:
        assert row.description, row.key
        assert row.default or row.example or row.kind in ("mapping", "list of mappings"), row.key


def test_the_table_of_keys_is_current():
    text = keys.README.read_text(encoding="utf-8")
    assert keys.with_table(text) == text, "run `make docs`"
