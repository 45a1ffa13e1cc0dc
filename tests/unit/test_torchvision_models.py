"""torchvision's models and published weights: counts, classifiers, what can be pruned, what is refused."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from shrinkflow import budget, checkpoints, derivatives, measures, outline, structure, study, trial
from shrinkflow.data import fetching
from shrinkflow.errors import UserError
from shrinkflow.importing import import_torchvision
from shrinkflow.models import MODELS, Shape, build
from shrinkflow.models.published import PUBLISHED
from shrinkflow.models.torchvision_models import Pooling
from shrinkflow.prunable import prunable, weights
from shrinkflow.strategies import SCORES
from tests.unit.test_study import valid

ROOT = Path(__file__).parents[2]
IMAGENET = (3, 224, 224)
SMALL = (3, 64, 64)
# {name: (torchvision's builder, its weights, classifier, parameters and MMACs as published)}.
KINDS = {
    "resnet18": ("resnet18", "ResNet18", "fc", 11_689_512, 1_814),
    "resnet50": ("resnet50", "ResNet50", "fc", 25_557_032, 4_089),
    "vgg16": ("vgg16", "VGG16", "classifier.6", 138_357_544, 15_470),
    "mobilenet-v2": ("mobilenet_v2", "MobileNet_V2", "classifier.1", 3_504_872, 301),
    "mobilenet-v3-small": ("mobilenet_v3_small", "MobileNet_V3_Small", "classifier.3", 2_542_856, 57),
    "mobilenet-v3-large": ("mobilenet_v3_large", "MobileNet_V3_Large", "classifier.3", 5_483_032, 217),
    "efficientnet-b0": ("efficientnet_b0", "EfficientNet_B0", "classifier.1", 5_288_548, 386),
    # torchvision says 17,564: its counter, unlike ours, takes in the products of attention.
    "vit-b-16": ("vit_b_16", "ViT_B_16", "heads.head", 86_567_656, 16_849),
}
CONVOLUTIONAL = sorted(KINDS.keys() - {"vit-b-16"})
# Q K' and A V: 12 layers, 196 patches and the class token, 768 features.
ATTENTION = 2 * 12 * 197 * 197 * 768


@pytest.fixture(scope="module")
def torchvision() -> ModuleType:
    return import_torchvision()


def test_all_of_them_are_here() -> None:
    assert PUBLISHED.names() == sorted(KINDS)
    assert set(KINDS) <= set(MODELS.names())


def test_torchvision_is_imported_only_where_one_is_built() -> None:
    program = (
        "import sys; from shrinkflow import models; models.MODELS.names()\n"
        "models.build('resnet20', (3, 32, 32), 10, 1)\n"
        "assert 'torchvision' not in sys.modules\n"
        "models.build('mobilenet-v3-small', (3, 64, 64), 10, None)\n"
        "assert 'torchvision' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT / "workflow/scripts", check=True)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_addresses_and_what_goes_with_the_weights_are_torchvisions(
    name: str, torchvision: ModuleType
) -> None:
    theirs = getattr(torchvision.models, f"{KINDS[name][1]}_Weights").IMAGENET1K_V1
    found, transforms = PUBLISHED[name], theirs.transforms()
    assert found.url == theirs.url
    assert found.name == theirs.url.rpartition("/")[2]
    assert found.classes == len(theirs.meta["categories"])
    assert (list(found.mean), list(found.std)) == (transforms.mean, transforms.std)
    prefix = torch.hub.HASH_REGEX.search(found.name)  # type: ignore[attr-defined]
    assert prefix is not None
    assert found.checksum == f"sha256-prefix:{prefix[1]}"
    smallest = theirs.meta["min_size"]
    if name == "vit-b-16":
        assert (found.side, found.side) == smallest == tuple(transforms.crop_size * 2)
    else:
        build(name, (3, *smallest), 1000, seed=None)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_parameters_and_macs_are_the_published_ones(name: str, torchvision: ModuleType) -> None:
    _, kind, _, params, mmacs = KINDS[name]
    model = build(name, IMAGENET, 1000, seed=None)
    counts = measures.count(model, IMAGENET)
    theirs = getattr(torchvision.models, f"{kind}_Weights").IMAGENET1K_V1.meta
    products = ATTENTION if name == "vit-b-16" else 0
    assert counts.params == params == theirs["num_params"]
    assert round(counts.macs / 1e6) == mmacs
    assert round((counts.macs + products) / 1e9, 3) == theirs["_ops"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *IMAGENET, device="meta"))
    assert counter.get_total_flops() == 2 * (counts.macs + products)
    assert all(layer.macs for layer in counts.layers)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_network_is_torchvisions(name: str, torchvision: ModuleType) -> None:
    ours = build(name, IMAGENET, 1000, seed=None)
    with torch.device("meta"):
        theirs = getattr(torchvision.models, KINDS[name][0])(weights=None)
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
    assert list(shapes) == list(theirs.state_dict())


@pytest.mark.parametrize("name", sorted(KINDS))
def test_everything_but_the_classifier_is_prunable(name: str) -> None:
    model = build(name, SMALL, 7, seed=None)
    classifier = model.get_submodule(KINDS[name][2])
    assert isinstance(classifier, nn.Linear)
    assert classifier.out_features == 7
    matrices = {key for key, parameter in model.named_parameters() if parameter.dim() > 1}
    left = {f"{KINDS[name][2]}.weight"}
    if name == "vit-b-16":
        left |= {"class_token", "encoder.pos_embedding"}
    assert set(prunable(model)) == matrices - left
    assert set(weights(model)) == set(prunable(model)) | {f"{KINDS[name][2]}.weight"}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_without_a_seed_nothing_is_allocated(name: str) -> None:
    model = build(name, SMALL, 10, seed=None)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert {*dict(model.named_parameters()), *dict(model.named_buffers())} == {*model.state_dict()}


@pytest.mark.parametrize("name", ["mobilenet-v3-small", "vit-b-16"])
def test_the_seed_alone_decides_the_initial_weights(name: str) -> None:
    shape = (3, 16, 16)
    torch.manual_seed(5)
    first, other = (build(name, shape, 3, seed=seed).state_dict() for seed in (1, 2))
    torch.manual_seed(6)
    again = build(name, shape, 3, seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    classifier = f"{KINDS[name][2]}.weight"
    assert not torch.equal(first[classifier], other[classifier])
    assert first[classifier].any()


@pytest.mark.parametrize("shape", [IMAGENET, SMALL, (3, 32, 96)])
def test_logits_have_one_column_per_class(shape: Shape) -> None:
    for name in CONVOLUTIONAL if shape == SMALL else ["mobilenet-v3-small"]:
        model = build(name, shape, 7, seed=0).eval()
        with torch.no_grad():
            assert model(torch.randn(2, *shape)).shape == (2, 7), name


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet18", (1, 28, 28), "model 'resnet18' needs colour pictures, of 3 channels, but these have 1"),
        ("vgg16", (3, 31, 64), "model 'vgg16' needs pictures of at least 32 x 32"),
        ("vit-b-16", (3, 32, 64), "model 'vit-b-16' cuts square pictures .* 32 x 64; use a side that 16"),
        ("vit-b-16", (3, 28, 28), "cuts square pictures"),
        ("mobilenet-v2", (3, 0, 9), "needs pictures of at least 1 x 1"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(name: str, shape: Shape, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, shape, 10, seed=None)


@pytest.mark.parametrize("given", ["resnet-18", "vit_b_16", "mobilenetv2", "vgg-16", "efficientnet_b0"])
def test_names_as_others_write_them_are_understood(given: str) -> None:
    wanted = {"resnet-18": "resnet18", "mobilenetv2": "mobilenet-v2", "vgg-16": "vgg16"}
    with pytest.raises(UserError, match=f"did you mean '{wanted.get(given, given.replace('_', '-'))}'"):
        build(given, IMAGENET, 10, seed=None)


@pytest.mark.parametrize("sides", [(7, 7), (1, 2), (5, 9), (14, 21), (3, 40)])
def test_pooling_is_torchs(sides: tuple[int, int]) -> None:
    features = torch.randn(2, 3, *sides, dtype=torch.float64, requires_grad=True)
    found, expected = Pooling()(features), functional.adaptive_avg_pool2d(features, 7)
    weight = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    # The windows' weights are rounded to float32.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad((pooled * weight).sum(), features)[0] for pooled in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradgradcheck(Pooling(), features)


def test_depthwise_and_squeezing_convolutions_by_hand() -> None:
    layers = {
        layer.name: layer
        for layer in measures.count(build("mobilenet-v3-small", SMALL, 10, seed=None), SMALL).layers
    }
    # The first block halves the 32 x 32 pixels of 16 channels, each by a kernel of 3 x 3 of its own; then
    # two convolutions squeeze their means to 8 numbers, and widen these again.
    depthwise = layers["features.1.block.0.0.weight"]
    assert (depthwise.shape, depthwise.macs) == ((16, 1, 3, 3), 16 * 9 * 16 * 16)
    squeeze = [layers[f"features.1.block.1.fc{index}.weight"] for index in (1, 2)]
    assert [(layer.macs, layer.prunable) for layer in squeeze] == [(16 * 8, True)] * 2


# ---- attention -------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Pictures of 1 x 4 x 6 as 4 positions of 6 features; attention, then a classifier of their mean."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, **options)
        self.classifier = nn.Linear(6, 3)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        positions = pictures.flatten(1, 2)
        found, _ = self.attention(positions, self.keys(positions), value=self.values(positions))
        logits: torch.Tensor = self.classifier(found.mean(dim=1))
        return logits

    def keys(self, positions: torch.Tensor) -> torch.Tensor:
        return positions

    def values(self, positions: torch.Tensor) -> torch.Tensor:
        return positions


class Wide(Attention):
    """Keys of 4 features and values of 5, at 3 of the positions."""

    def keys(self, positions: torch.Tensor) -> torch.Tensor:
        return positions[:, :3, :4]

    def values(self, positions: torch.Tensor) -> torch.Tensor:
        return positions[:, :3, :5]


class Crossed(Attention):
    def keys(self, positions: torch.Tensor) -> torch.Tensor:
        return positions[:, :3]

    values = keys


PATCHES = (1, 4, 6)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("training", [True, False])
def test_projections_of_attention_count_for_every_position(device: str, training: bool) -> None:
    model = Attention().to(device).train(training)
    layers = measures.count(model, PATCHES).layers
    assert {layer.name: layer.macs for layer in layers} == {
        "attention.in_proj_weight": 4 * 3 * 6 * 6,
        "attention.out_proj.weight": 4 * 6 * 6,
        "classifier.weight": 6 * 3,
    }
    assert [layer.prunable for layer in layers] == [True, True, False]


def test_projections_of_other_widths_count_by_themselves() -> None:
    layers = measures.count(Wide(kdim=4, vdim=5), PATCHES).layers
    assert {layer.name: layer.macs for layer in layers} == {
        "attention.q_proj_weight": 4 * 6 * 6,
        "attention.k_proj_weight": 3 * 6 * 4,
        "attention.v_proj_weight": 3 * 6 * 5,
        "attention.out_proj.weight": 4 * 6 * 6,
        "classifier.weight": 6 * 3,
    }
    assert list(prunable(Wide(kdim=4, vdim=5))) == [layer.name for layer in layers[:-1]]


def test_one_weight_for_different_numbers_of_positions_is_refused() -> None:
    model = Crossed()
    with pytest.raises(UserError, match="4 queries, 3 keys and 3 values by one weight"):
        measures.count(model, PATCHES)
    assert not model.attention._forward_hooks


def test_a_transformer_layer_counts_though_torch_has_a_short_cut_for_it() -> None:
    model = nn.Sequential(
        nn.Flatten(1, 2),
        nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    assert measures.count(model, PATCHES).macs == 4 * (4 * 6 * 6 + 2 * 6 * 12) + 24 * 3


def test_masked_projections_are_macs_less() -> None:
    model = Attention()
    with torch.no_grad():
        model.attention.in_proj_weight[:6] = 0
    counts = measures.count(model, PATCHES)
    assert counts.macs - counts.macs_nonzero == 4 * 6 * 6
    assert counts.params - counts.params_nonzero == 36 + int((model.attention.in_proj_bias == 0).sum()) + 6


def test_attention_can_be_differentiated_twice() -> None:
    """H v by the scores' way, against differences of gradients, in float64."""
    torch.manual_seed(0)
    model = Attention().double()
    pictures, labels = torch.randn(5, *PATCHES, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    found = list(weights(model).values())
    steps = [torch.randn_like(weight) for weight in found]

    def gradients() -> tuple[torch.Tensor, ...]:
        loss = functional.cross_entropy(model(pictures), labels)
        return torch.autograd.grad(loss, found, create_graph=True)

    with derivatives.twice():
        flow = torch.stack([(g * v).sum() for g, v in zip(gradients(), steps, strict=True)]).sum()
        product = torch.autograd.grad(flow, found)

    def moved(step: float) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            for weight, v in zip(found, steps, strict=True):
                weight.add_(v, alpha=step)
        return tuple(g.detach() for g in gradients())

    ahead, behind = moved(1e-5), moved(-2e-5)
    for ours, plus, minus in zip(product, ahead, behind, strict=True):
        torch.testing.assert_close(ours, (plus - minus) / 2e-5, rtol=1e-5, atol=1e-8)


def test_without_second_derivatives_there_is_a_sentence() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(UserError, match=r"needs second derivatives, but torch lacks .*hardsigmoid"):
        derivatives.check(model, torch.randn(2, 3, 2, 2))
    with pytest.raises(RuntimeError, match="mine"), derivatives.twice():
        raise RuntimeError("mine")


# ---- what strategies can do with them ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "refused", "message"),
    [
        ("activation-magnitude", {"vit-b-16"}, r"'encoder.layers.encoder_layer_0.self_attention'"),
        ("grasp", {"mobilenet-v3-small", "mobilenet-v3-large"}, "second derivatives"),
        ("obd-hessian", {"mobilenet-v3-small", "mobilenet-v3-large"}, "second derivatives"),
        (
            "synflow",
            {"mobilenet-v2", "mobilenet-v3-small", "mobilenet-v3-large", "efficientnet-b0"},
            "saturates",
        ),
        (
            "filter-bn-scale",
            {"vgg16", "mobilenet-v3-small", "mobilenet-v3-large", "efficientnet-b0", "vit-b-16"},
            "needs a batch-norm",
        ),
    ],
)
def test_scores_that_cannot_be_are_told_before_anything_runs(
    score: str, refused: set[str], message: str
) -> None:
    assert SCORES[score].check is not None
    for name in KINDS:
        if name in refused:
            with pytest.raises(UserError, match=message):
                trial.score(name, SMALL, 10, score)
        else:
            trial.score(name, SMALL, 10, score)


def pictures(batches: int, batch_size: int, crop: int = 0, flip: bool = False) -> Any:
    generator = torch.Generator().manual_seed(0)
    yield torch.randn(2, 3, 32, 32, generator=generator), torch.tensor([0, 1])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet-v3-small", "efficientnet-b0"])
def test_scores_cover_every_prunable_weight(name: str) -> None:
    model = build(name, (3, 32, 32), 10, seed=1).eval()
    for score in ("magnitude", "random", "gradient-magnitude", "lamp", "filter-l1", "woodfisher"):
        options = {"gradients": 1, "block_size": 4} if score == "woodfisher" else {}
        found = SCORES[score].function(copy.deepcopy(model), pictures, torch.Generator(), **options)
        assert list(found) == list(prunable(model)), score
        assert all(values.isfinite().all() for values in found.values()), score


def tiny_vit() -> nn.Module:
    """A vision transformer of torchvision for pictures of 32 x 32: two layers of 8 features."""
    torch.manual_seed(0)
    kind = import_torchvision().models.VisionTransformer
    network: nn.Module = kind(32, 16, 2, 2, 8, 16, num_classes=3)
    with torch.no_grad():
        network.get_parameter("heads.head.weight").normal_()
    return network


def test_filters_of_a_transformer_are_its_hidden_units() -> None:
    """Features pass through layer normalisation and attention, so only perceptrons become narrower."""
    model, shape = tiny_vit(), (3, 32, 32)
    found = structure.find(model, shape)
    assert [group.layers for group in found.groups] == [
        (f"encoder.layers.encoder_layer_{index}.mlp.0.weight",) for index in (0, 1)
    ]
    scores = {key: np.arange(len(weight), dtype=float) for key, weight in prunable(model).items()}
    masks = structure.choose(model, shape, scores, 0.95, budget.PARAMETERS, structure.GLOBAL, found=found)
    reduced = structure.reduce(model, shape, masks, found).model.eval()
    full = structure.without(model, shape, masks, found).eval()
    batch = torch.randn(2, *shape)
    torch.testing.assert_close(reduced(batch), full(batch), rtol=1e-4, atol=1e-5)
    assert measures.count(reduced, shape).params < measures.count(model, shape).params


def test_filters_of_vgg16_can_be_removed_up_to_the_classifier() -> None:
    found = structure.find(build("vgg16", SMALL, 10, seed=None), SMALL)
    # 13 convolutions and two linear layers, the first of which reads the pooled last convolution.
    assert [group.layers for group in found.groups] == [(name,) for name in found.shapes]
    assert len(found.groups) == 15
    # With 224 x 224 pictures, on which it was published, there is nothing to pool.
    assert isinstance(build("vgg16", IMAGENET, 10, seed=None).get_submodule("avgpool"), nn.Identity)


# ---- studies ---------------------------------------------------------------------------------------


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """A study of a folder that says it has pictures as ImageNet's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()

    def make(model: str = "resnet18", **dataset: Any) -> dict[str, Any]:
        folder = {"source": "imagefolder", "folder": "pictures", "shape": [3, 224, 224], "classes": 1000}
        config = valid() | {
            "datasets": {"mine": folder | dataset},
            "pairs": [{"dataset": "mine", "model": model, "weights": ["torchvision"]}],
            "strategies": ["random", "global-magnitude", "layerwise-magnitude", "erk-magnitude"],
            "ratios": [1, 2],
        }
        del config["weights"]
        return config

    return make


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_study_takes_the_published_weights_by_their_name(name: str, imagenet: Callable[..., Any]) -> None:
    found = study.load(imagenet(name))
    assert {cell.weights for cell in found.cells()} == {"torchvision"}
    start = found.initial("torchvision", name)
    assert start.raw is not None
    assert start.recipe is None
    file = PUBLISHED[name].name
    assert start.raw.flags() == (
        f"--name {file} --checksum sha256-prefix:{file[-12:-4]} --url https://download.pytorch.org/models/{file}"
    )
    assert (start.mean, start.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert outline.of(found)["weights"] == {"torchvision": {"file": file}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classes": 10},
            r"'pairs\[0\].weights': torchvision's weights of 'resnet18' tell 1000 classes apart, those of "
            "ImageNet, but 'mine' has 10; train weights by a recipe, or use ImageNet$",
        ),
        (
            {"model": "vit-b-16", "shape": [3, 64, 64]},
            "'vit-b-16' are for pictures of 224 x 224, but those of 'mine' are 64 x 64",
        ),
        (
            {"model": "resnet56"},
            "torchvision publishes no weights of 'resnet56', only of efficientnet-b0, .*vit-b-16; train them",
        ),
        ({"shape": [1, 224, 224]}, r"'pairs\[0\]': model 'resnet18' needs colour pictures"),
    ],
)
def test_where_published_weights_do_not_fit_there_is_a_sentence(
    change: dict[str, Any], message: str, imagenet: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match=message):
        study.load(imagenet(**change))


def test_weights_of_other_pictures_may_have_other_sizes(imagenet: Callable[..., Any]) -> None:
    assert study.load(imagenet(shape=[3, 64, 64])).cells()


def test_a_study_without_weights_says_where_they_come_from(imagenet: Callable[..., Any]) -> None:
    config = imagenet()
    del config["pairs"][0]["weights"]
    with pytest.raises(UserError, match=r"'pairs\[0\]' has no initial weights; give the study some"):
        study.load(config)
    config["weights"] = {"torchvision": {"recipe": "long", "seed": 1}}
    with pytest.raises(UserError, match="'torchvision' is the name of the weights torchvision publishes"):
        study.load(config)


def test_published_weights_are_one_name_among_others(imagenet: Callable[..., Any]) -> None:
    config = imagenet()
    config["weights"] = {"A": {"recipe": "long", "seed": 1}}
    config["pairs"][0]["weights"] = ["A", "torchvision"]
    found = study.load(config)
    assert {cell.weights for cell in found.cells()} == {"A", "torchvision"}
    assert found.initial("A", "resnet18").recipe == "long"
    # Where a pair names none, those of the study alone.
    del config["pairs"][0]["weights"]
    assert {cell.weights for cell in study.load(config).cells()} == {"A"}


def test_patterns_that_depthwise_convolutions_cannot_have_are_told(imagenet: Callable[..., Any]) -> None:
    config = imagenet("mobilenet-v2")
    config["strategies"].append({"name": "pattern", "score": "magnitude", "granularity": "2:4"})
    with pytest.raises(UserError) as caught:
        study.load(config)
    told = str(caught.value).split("\n")
    # The first convolution sees 3 channels, the 17 depthwise ones see one each.
    assert len(told) == 18
    assert "'features.1.conv.0.0.weight' of 'mobilenet-v2' on 'mine', whose 1 inputs 4 does not" in told[1]
    config["strategies"][-1]["exclude"] = [line.split("does not fit '")[1].split("'")[0] for line in told]
    assert study.load(config).cells()


def test_strategies_that_a_network_cannot_take_are_told_with_the_study(imagenet: Callable[..., Any]) -> None:
    config = imagenet("mobilenet-v3-small")
    config["strategies"] += ["obd-hessian", "filter-bn-scale"]
    with pytest.raises(UserError) as caught:
        study.load(config)
    told = str(caught.value)
    assert "strategy 'obd-hessian': the score needs second derivatives" in told
    assert "strategy 'filter-bn-scale': score 'filter-bn-scale' needs a batch-norm" in told


# ---- files of weights ------------------------------------------------------------------------------


def published(name: str, path: Path, rename: Callable[[str], str] = str) -> nn.Module:
    """Write a file of weights as torchvision's, of random numbers; return the network."""
    network = build(name, (3, 224, 224) if name == "vit-b-16" else SMALL, 1000, seed=3)
    torch.save({rename(key): value for key, value in network.state_dict().items()}, path)
    return network


def test_a_file_in_the_mirror_is_told_by_the_prefix_of_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = PUBLISHED["mobilenet-v3-small"]
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / found.name
    network = published("mobilenet-v3-small", file)
    monkeypatch.setenv(fetching.MIRROR, str(tmp_path))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    out = tmp_path / "out.pth"
    with pytest.raises(
        UserError,
        match=rf"{found.name} from .* has sha256 {digest}, expected one that begins with 047dcff4; it",
    ):
        fetching.fetch(found.name, found.checksum, out, urls=[found.url])
    assert not out.exists()
    fetching.fetch(found.name, f"sha256-prefix:{digest[:8]}", out, urls=[found.url])
    read = checkpoints.read_foreign(out, "mobilenet-v3-small", IMAGENET, 1000)
    expected = network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in read.state_dict().items())


def test_weights_of_a_transformer_may_have_the_names_of_their_day(tmp_path: Path) -> None:
    """The names in torchvision's file are older than its class."""

    def old(key: str) -> str:
        return key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")

    network = published("vit-b-16", tmp_path / "old.pth", old)
    theirs = import_torchvision().models.vit_b_16(weights=None)
    # torchvision itself knows these names.
    theirs.load_state_dict(torch.load(tmp_path / "old.pth", weights_only=True))
    read = checkpoints.read_foreign(tmp_path / "old.pth", "vit-b-16", IMAGENET, 1000)
    expected = network.state_dict()
    for state in (read.state_dict(), theirs.state_dict()):
        assert all(torch.equal(value, expected[key]) for key, value in state.items())
