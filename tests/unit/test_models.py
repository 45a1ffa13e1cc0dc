from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from shrinkflow import budget, measures, seeds
from shrinkflow.errors import UserError
from shrinkflow.models import MODELS, Shape, build
from shrinkflow.models.published import PUBLISHED
from shrinkflow.models.resnet import Block
from shrinkflow.prunable import prunable

CIFAR = (3, 32, 32)
# Parameters as published (ResNets: He et al. 2016; CIFAR-VGG: ShrinkBench), or counted by hand.
PARAMETERS = {
    "resnet20": (CIFAR, 269_722),
    "resnet32": (CIFAR, 464_154),
    "resnet44": (CIFAR, 658_586),
    "resnet56": (CIFAR, 853_018),
    "resnet110": (CIFAR, 1_727_962),
    "cifar-vgg": (CIFAR, 14_991_946),
    # 20 * 25 + 20, 50 * 20 * 25 + 50, 500 * 800 + 500, 10 * 500 + 10
    "mnistnet": ((1, 28, 28), 520 + 25_050 + 400_500 + 5_010),
    # Weights 9 * (1 * 32 + 32 * 64 + 64 * 128), batch-norm 2 * (32 + 64 + 128), classifier 129 * 10
    "digitsnet": ((1, 8, 8), 92_448 + 448 + 1_290),
}
DEPTHS = (8, 14, 20, 26, 32, 44, 56)
WIDTHS = {0.25: "-x0.25", 0.5: "-x0.5", 0.75: "-x0.75"}
DIGITS_WIDTHS = {0.125: "-x0.125", **WIDTHS}
SMALL = ("digitsnet", "mnistnet", "resnet20", "resnet8-x0.25", "cifar-vgg-x0.25", "cifar-vgg")


def resnet_counts(depth: int, width: float) -> tuple[float, float]:
    """Parameters and MACs for CIFAR-10, with a, 2a, 4a channels and n blocks of two layers in a stage.

    A batch-norm has 2 parameters a channel; stages have 32^2, 16^2 and 8^2 pixels; biases are no MACs.
    """
    a, n = 16 * width, (depth - 2) // 6
    first = 27 * a
    stages = [
        2 * n * 9 * a * a,
        9 * a * 2 * a + (2 * n - 1) * 9 * 2 * a * 2 * a,
        9 * 2 * a * 4 * a + (2 * n - 1) * 9 * 4 * a * 4 * a,
    ]
    norms = 2 * a + 2 * n * 2 * (a + 2 * a + 4 * a)
    params = first + sum(stages) + norms + 4 * a * 10 + 10
    macs = 1024 * (first + stages[0]) + 256 * stages[1] + 64 * stages[2] + 4 * a * 10
    return params, macs


def vgg_counts(width: float) -> tuple[float, float]:
    """Parameters and MACs of CIFAR-VGG, with widths b, 2b, 4b, 8b, 8b of 2, 2, 3, 3, 3 convolutions."""
    b = 64 * width
    stages = [
        9 * (3 * b + b * b),
        9 * (b * 2 * b + 2 * b * 2 * b),
        9 * (2 * b * 4 * b + 2 * 4 * b * 4 * b),
        9 * (4 * b * 8 * b + 2 * 8 * b * 8 * b),
        9 * (3 * 8 * b * 8 * b),
    ]
    # Bias and batch-norm: 3 a channel. The 32 x 32 pixels are one after five poolings.
    channels = 2 * b + 2 * 2 * b + 3 * (4 * b + 8 * b + 8 * b)
    hidden, classifier = 8 * b * 8 * b, 8 * b * 10
    params = sum(stages) + 3 * channels + hidden + 3 * 8 * b + classifier + 10
    pixels = [1024, 256, 64, 16, 4]
    return params, sum(n * stage for n, stage in zip(pixels, stages, strict=True)) + hidden + classifier


def digits_counts(width: float) -> tuple[float, float]:
    """Parameters and MACs of DigitsNet: 8 x 8 pixels, halved twice."""
    c1, c2, c3 = 32 * width, 64 * width, 128 * width
    convolutions = [9 * c1, 9 * c1 * c2, 9 * c2 * c3]
    params = sum(convolutions) + 2 * (c1 + c2 + c3) + c3 * 10 + 10
    return params, 16 * convolutions[0] + 4 * convolutions[1] + 4 * convolutions[2] + c3 * 10


# {name: (shape, (parameters, MACs))} of the networks that differ in depth or width from published ones.
FAMILY: dict[str, tuple[Shape, tuple[float, float]]] = {
    **{f"resnet{depth}": (CIFAR, resnet_counts(depth, 1)) for depth in (*DEPTHS, 110)},
    **{
        f"resnet{depth}{suffix}": (CIFAR, resnet_counts(depth, width))
        for depth, (width, suffix) in itertools.product(DEPTHS, WIDTHS.items())
    },
    **{f"cifar-vgg{suffix}": (CIFAR, vgg_counts(width)) for width, suffix in {1: "", **WIDTHS}.items()},
    **{
        f"digitsnet{suffix}": ((1, 8, 8), digits_counts(width))
        for width, suffix in {1: "", **DIGITS_WIDTHS}.items()
    },
}
SHAPES = {name: shape for name, (shape, _) in (PARAMETERS | FAMILY).items()}


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_model_has_a_published_size_or_one_by_formula() -> None:
    # Those of torchvision are counted in test_torchvision_models.
    assert MODELS.names() == sorted({*PARAMETERS, *FAMILY, *PUBLISHED.names()})


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters(name: str) -> None:
    shape, expected = PARAMETERS[name]
    assert size(build(name, shape, 10, seed=None)) == expected


@pytest.mark.parametrize("name", sorted(FAMILY))
def test_depth_and_width_give_the_parameters_and_macs_of_the_formula(name: str) -> None:
    shape, expected = FAMILY[name]
    counts = measures.count(build(name, shape, 10, seed=None), shape)
    assert (counts.params, counts.macs) == expected


BY_HAND = {
    # Convolutions 216 + 3,456 + 12,672 + 50,688, batch-norm 16 + 672, classifier 330.
    "resnet20-x0.5": (68_050, 1024 * 3_672 + 256 * 12_672 + 64 * 50_688 + 320),
    # Convolutions 108 + 288 + 864 + 3,456, batch-norm 8 + 112, classifier 170.
    "resnet8-x0.25": (5_006, 1024 * 396 + 256 * 864 + 64 * 3_456 + 160),
    # Convolutions 72 + 1,152 + 4,608, batch-norm 112, classifier 330.
    "digitsnet-x0.25": (6_274, 16 * 72 + 4 * 1_152 + 4 * 4_608 + 320),
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_narrow_networks_counted_by_hand(name: str) -> None:
    counts = measures.count(build(name, SHAPES[name], 10, seed=None), SHAPES[name])
    assert (counts.params, counts.macs) == BY_HAND[name]


# Those of torchvision are compared in test_torchvision_models.py, where attention's products are known.
@pytest.mark.parametrize("name", sorted(set(MODELS.names()) - set(PUBLISHED.names())))
def test_macs_of_every_model_are_those_of_torch(name: str) -> None:
    model = build(name, SHAPES[name], 10, seed=None).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *SHAPES[name], device="meta"))
    macs = measures.count(model, SHAPES[name]).macs
    # It counts two FLOPs for a MAC.
    assert counter.get_total_flops() / 2 == macs
    assert name not in FAMILY or macs == FAMILY[name][1][1]


@pytest.mark.parametrize("name", ["resnet20", "cifar-vgg", "digitsnet"])
def test_a_narrow_network_has_the_names_of_the_full_one_and_the_channels_of_its_width(name: str) -> None:
    full = dict(build(name, SHAPES[name], 10, seed=None).named_parameters())
    narrow = dict(build(f"{name}-x0.25", SHAPES[name], 10, seed=None).named_parameters())
    assert list(narrow) == list(full)
    *hidden, classifier = [key for key, parameter in full.items() if parameter.dim() > 1]
    assert all(full[key].shape[0] == 4 * narrow[key].shape[0] for key in hidden)
    assert full[classifier].shape[0] == narrow[classifier].shape[0] == 10


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digitsnet", [0.23038, -0.08483, -0.05781]),
        ("resnet20", [0.19318, -0.12995, -0.13112]),
        ("resnet56", [-0.10712, -0.01252, -0.12237]),
    ],
)
def test_initial_weights_are_those_of_before_there_were_widths(name: str, expected: list[float]) -> None:
    # Computed by the first release: a checkpoint of then must be the one that is trained today.
    model = build(name, SHAPES[name], 10, seed=5)
    weights = [weight.detach().flatten() for weight in model.parameters() if weight.dim() > 1]
    found = [weights[0][0], weights[len(weights) // 2][7], weights[-1][-1]]
    assert [value.item() for value in found] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_classifier_is_the_last_linear_and_is_not_prunable(name: str, classes: int) -> None:
    model = build(name, SHAPES[name], classes, seed=None)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert last.out_features == classes
    assert last.weight not in set(prunable(model).values())
    # Everything else with more than one dimension is a weight of a convolution or a linear layer.
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    assert len(prunable(model)) == len(matrices) - 1


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 28, 28), CIFAR, (2, 17, 23)])
def test_logits_have_one_column_per_class(name: str, shape: Shape) -> None:
    model = build(name, shape, 7, seed=0).eval()
    assert model(torch.randn(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("digitsnet", (1, 4, 4)),
        ("digitsnet-x0.125", (1, 4, 4)),
        ("mnistnet", (1, 16, 16)),
        ("resnet20", (1, 4, 4)),
        ("resnet8-x0.25", (1, 4, 4)),
    ],
)
def test_smallest_shape_works_and_the_next_smaller_is_refused(name: str, shape: Shape) -> None:
    model = build(name, shape, 10, seed=0)
    assert model(torch.randn(2, *shape)).shape == (2, 10)
    for smaller in ((1, shape[1] - 1, 50), (1, 50, shape[2] - 1), (1, 1, 1), (1, 2, 2)):
        with pytest.raises(UserError, match=f"'{name}' needs pictures of at least"):
            build(name, smaller, 10, seed=0)


def test_vgg_takes_pictures_that_pooling_cannot_halve_five_times() -> None:
    model = build("cifar-vgg", (1, 8, 8), 10, seed=0)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_no_channels_and_a_single_class_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="one channel and two classes"):
        build(name, (0, 32, 32), 10, seed=None)
    with pytest.raises(UserError, match="one channel and two classes"):
        build(name, CIFAR, 1, seed=None)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'digitsnet'"):
        build("digitnet", CIFAR, 10, seed=0)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_is_used(name: str) -> None:
    shape = SHAPES[name]
    model = build(name, shape, 10, seed=0)
    loss = functional.cross_entropy(model(torch.randn(4, *shape)), torch.arange(4))
    loss.backward()  # type: ignore[no-untyped-call]
    unused = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []
    assert all(weight.grad.abs().sum() > 0 for weight in prunable(model).values())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["digitsnet", "resnet20"])
def test_a_small_model_learns_a_batch_by_heart(name: str) -> None:
    model = build(name, (1, 8, 8), 4, seed=0)
    pictures = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        functional.cross_entropy(model(pictures), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (model(pictures).argmax(dim=1) == labels).all()


def test_digitsnet_reaches_ratio_32() -> None:
    model = build("digitsnet", (1, 8, 8), 10, seed=None)
    part = sum(weight.numel() for weight in prunable(model).values())
    # 94186 / 32 = 2943.3 stay, of which 1738 are biases, batch-norm and classifier.
    assert budget.fraction_to_keep(size(model), part, 32) == pytest.approx(1205.3125 / 92448)


def test_seed_alone_decides_the_initial_weights() -> None:
    torch.manual_seed(5)
    first = build("digitsnet", (1, 8, 8), 10, seed=1).state_dict()
    torch.manual_seed(6)
    again = build("digitsnet", (1, 8, 8), 10, seed=1).state_dict()
    other = build("digitsnet", (1, 8, 8), 10, seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_initial_weights_come_from_the_stream_of_their_purpose() -> None:
    built = build("digitsnet", (1, 8, 8), 10, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(3, seeds.Purpose.INITIALISATION))
        expected = MODELS["digitsnet"]((1, 8, 8), 10)
    for ours, theirs in zip(built.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("seed", [0, None])
def test_building_leaves_the_global_generator_alone(seed: int | None) -> None:
    before = torch.get_rng_state()
    build("resnet20", CIFAR, 10, seed)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_without_a_seed_nothing_is_allocated(name: str) -> None:
    model = build(name, SHAPES[name], 10, seed=None)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    # So that a state dict can fill it all.
    assert {*dict(model.named_parameters()), *dict(model.named_buffers())} == {*model.state_dict()}


@pytest.mark.parametrize("name", ["digitsnet", "resnet20"])
def test_convolutions_start_with_he_variance(name: str) -> None:
    for key, weight in prunable(build(name, CIFAR, 10, seed=0)).items():
        fan_in = weight[0].numel()
        # The standard error of a variance of n normal values is sqrt(2 / n) of it: five of them.
        tolerance = 5 * (2 / weight.numel()) ** 0.5
        assert weight.var().item() * fan_in / 2 == pytest.approx(1, abs=tolerance), key
        assert abs(weight.mean().item()) < 5 * (2 / fan_in / weight.numel()) ** 0.5, key


def test_resnet_names_are_those_of_published_weights() -> None:
    stages = itertools.product((1, 2, 3), (0, 1, 2), (1, 2))
    layers = ["", *(f"layer{stage}.{block}." for stage, block, half in stages if half == 1)]
    expected = {"linear.weight", "linear.bias"}
    for prefix, half in itertools.product(layers, (1, 2)):
        if prefix or half == 1:
            parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            expected |= {f"{prefix}conv{half}.weight", *(f"{prefix}bn{half}.{p}" for p in parts)}
    assert set(build("resnet20", CIFAR, 10, seed=None).state_dict()) == expected


@pytest.mark.parametrize(
    ("depth", "blocks"), [(8, 1), (14, 2), (20, 3), (26, 4), (32, 5), (44, 7), (56, 9), (110, 18)]
)
def test_resnet_depth_counts_the_layers_with_weights(depth: int, blocks: int) -> None:
    model = build(f"resnet{depth}", CIFAR, 10, seed=None)
    assert len(prunable(model)) + 1 == depth == 6 * blocks + 2


def test_resnet_shortcut_drops_every_other_pixel_and_adds_channels_of_zeros() -> None:
    block = Block(4, 8, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)  # what remains is the shortcut
    features = torch.rand(2, 4, 5, 6)
    out = block(features)
    assert out.shape == (2, 8, 3, 3)
    assert torch.equal(out[:, 2:6], features[:, :, 0::2, 0::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


def test_vgg_layers() -> None:
    model = build("cifar-vgg", CIFAR, 10, seed=None)
    modules = list(model.modules())
    widths = [module.out_channels for module in modules if isinstance(module, nn.Conv2d)]
    rates = [module.p for module in modules if isinstance(module, nn.Dropout)]
    assert widths == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert rates == [0.3] + [0.4] * 7 + [0.5] * 2
    names = list(model.state_dict())
    assert names[:3] == ["features.0.conv.weight", "features.0.conv.bias", "features.0.bn.weight"]
    assert names[-1] == "classifier.5.bias"


class Tied(nn.Module):
    """Two convolutions share a weight; classifier and first linear layer share another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3)
        self.second = nn.Conv2d(2, 2, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm2d(2)
        self.hidden = nn.Linear(2, 2)
        self.middle = nn.Linear(2, 2)
        self.classifier = nn.Linear(2, 2)
        self.classifier.weight = self.hidden.weight


def test_shared_weights_are_prunable_once_and_not_with_the_classifier() -> None:
    assert list(prunable(Tied())) == ["first.weight", "middle.weight"]


def test_without_a_linear_every_convolution_is_prunable() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 2, 3), nn.Conv2d(2, 3, 1))
    assert list(prunable(model)) == ["0.weight", "2.weight"]


def test_prunable_keeps_the_order_of_named_parameters() -> None:
    model = build("resnet56", CIFAR, 10, seed=None)
    order = [key for key, _ in model.named_parameters()]
    names = list(prunable(model))
    assert names == sorted(names, key=order.index)
    assert names[0] == "conv1.weight"
    assert names[-1] == "layer3.8.conv2.weight"
