from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from shrinkflow import masks as mask_files
from shrinkflow import measures, models, structure
from shrinkflow.errors import UserError
from shrinkflow.importing import import_torchvision
from shrinkflow.prunable import prunable

SHAPES = {"digitsnet": (1, 8, 8), "mnistnet": (1, 28, 28), "resnet20": (3, 32, 32), "cifar-vgg": (3, 32, 32)}
AXES = ("parameters", "macs")


@cache
def network(name: str) -> nn.Module:
    """A network whose batch-norm has statistics and scales unlike those of a new one."""
    torch.set_num_threads(1)
    return shaken(models.build(name, SHAPES[name], 10, seed=1))


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model.eval()


@cache
def found(name: str) -> structure.Structure:
    return structure.find(network(name), SHAPES[name])


def random_scores(model: nn.Module, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.random(len(weight)) for name, weight in prunable(model).items()}


def pictures(shape: tuple[int, int, int], count: int = 2) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(3))


def forward(model: nn.Module, shape: tuple[int, int, int]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pictures(shape))


def layers(structure_: structure.Structure) -> list[tuple[str, ...]]:
    return [group.layers for group in structure_.groups]


def left(structure_: structure.Structure, masks, name: str) -> int:
    """How many filters of a weight a mask keeps."""
    return int(np.asarray(masks[name]).reshape(len(masks[name]), -1).any(axis=1).sum())


class Chain(nn.Module):
    """Two convolutions of 1 x 1 with 4 and 2 filters, mean, classifier: 4 + 8 + 4 weights, no others."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 1, bias=False)
        self.b = nn.Conv2d(4, 2, 1, bias=False)
        self.c = nn.Linear(2, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(functional.relu(self.b(functional.relu(self.a(x)))).mean(dim=(2, 3)))


CHAIN = (1, 2, 2)


# ---- which channels go together -------------------------------------------------------------------


def test_a_filter_goes_with_its_batch_norm_and_the_columns_that_read_it():
    structure_ = found("digitsnet")
    assert layers(structure_) == [("features.0.weight",), ("features.3.weight",), ("features.6.weight",)]
    assert [len(group.channels) for group in structure_.groups] == [32, 64, 128]
    parts = structure_.parts
    first, second, third = (np.array(group.channels) for group in structure_.groups)
    assert (parts["features.0"].rows == first).all()
    assert (parts["features.0"].columns == -1).all()  # the pictures' channels
    assert (parts["features.1"].rows == first).all() and parts["features.1"].columns is None
    assert (parts["features.3"].columns == first).all()
    assert (parts["features.3"].rows == second).all()
    assert (parts["features.6"].columns == second).all()
    assert (parts["classifier"].columns == third).all()
    assert (parts["classifier"].rows == -1).all()  # the classes


def test_a_channel_that_is_flattened_is_read_by_all_columns_of_its_positions():
    structure_ = found("mnistnet")
    assert layers(structure_) == [("conv1.weight",), ("conv2.weight",), ("fc1.weight",)]
    # 50 channels of 4 x 4 become 800 columns, those of a channel beside each other.
    assert (structure_.parts["fc1"].columns == np.repeat(np.arange(50) + 20, 16)).all()


def test_every_layer_of_cifar_vgg_is_a_group_of_its_own():
    weights = list(prunable(network("cifar-vgg")))
    assert layers(found("cifar-vgg")) == [(name,) for name in weights]


def test_the_residual_stream_of_cifar_resnets_is_left_alone():
    inner = [f"layer{stage}.{block}.conv1.weight" for stage in (1, 2, 3) for block in range(3)]
    assert layers(found("resnet20")) == [(name,) for name in inner]


def test_the_graph_alone_would_misunderstand_the_padded_shortcuts():
    # Guards the guard: torch-pruning does offer groups of the stream.
    twin = structure._stand_in(network("resnet20"))
    graph = structure.torch_pruning.DependencyGraph().build_dependency(twin, (torch.zeros(1, 3, 32, 32),))
    roots = {group[0].dep.target.module for group in graph.get_all_groups(ignored_layers=[twin.linear])}
    assert twin.conv1 in roots


def test_a_model_on_the_meta_device_has_the_same_structure():
    meta = structure.find(models.build("digitsnet", (1, 8, 8), 10, seed=None), (1, 8, 8))
    assert meta.groups == found("digitsnet").groups
    assert meta.dense == found("digitsnet").dense


def test_finding_leaves_network_and_random_numbers_alone():
    model = copy.deepcopy(network("digitsnet")).train()
    model.features[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    structure.find(model, (1, 8, 8))
    assert torch.get_rng_state().equal(state)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not model.features[0].weight.requires_grad


class Trap(nn.Module):
    """Convolutions a and b, whose channels something happens to between, mean, classifier."""

    def __init__(self, happens, groups: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.c = nn.Linear(8, 4)
        self.happens = happens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(functional.relu(self.b(self.happens(functional.relu(self.a(x))))).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "happens",
    [
        lambda x: x.flip(1),
        lambda x: x[:, [1, 0, 3, 2, 5, 4, 7, 6]],
        lambda x: x - x.mean(dim=1, keepdim=True),
        lambda x: x.softmax(dim=1),
        lambda x: functional.layer_norm(x, x.shape[1:]),
        lambda x: functional.group_norm(x, 2),
        lambda x: x.view(len(x), 8, *x.shape[2:]),
        lambda x: x * torch.arange(8.0).view(1, 8, 1, 1),
        lambda x: x.view(len(x), 2, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    ],
    ids=["flip", "index", "mean", "softmax", "layer-norm", "group-norm", "view", "constant", "shuffle"],
)
def test_channels_that_cannot_be_removed_without_changing_others_are_left_alone(happens):
    assert layers(structure.find(Trap(happens), (3, 6, 6))) == [("b.weight",)]


def test_channels_between_which_nothing_happens_may_go():
    assert layers(structure.find(Trap(lambda x: x), (3, 6, 6))) == [("a.weight",), ("b.weight",)]
    # A sum over the channels before is the same with zeros between.
    assert layers(structure.find(Trap(lambda x: x.cumsum(dim=1)), (3, 6, 6))) == [
        ("a.weight",),
        ("b.weight",),
    ]


def test_grouped_convolutions_are_left_alone_and_so_is_what_they_read():
    assert structure.find(Trap(lambda x: x, groups=2), (3, 6, 6)).groups == ()


def test_a_depthwise_convolution_goes_with_what_it_reads():
    assert layers(structure.find(Trap(lambda x: x, groups=8), (3, 6, 6))) == [("a.weight", "b.weight")]


def test_weights_that_layers_share_are_left_alone():
    model = nn.Sequential(
        *(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
    )
    assert layers(structure.find(model, (3, 6, 6))) == [("0.weight",), ("2.weight",), ("4.weight",)]
    model[2].weight = model[0].weight
    assert layers(structure.find(model, (3, 6, 6))) == [("4.weight",)]


class Stream(nn.Module):
    """A stem, and two linear layers whose outputs are added to its own; the last one defined is `b`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.c = nn.Linear(3, 8), nn.Linear(8, 4)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.mean(dim=(2, 3)))
        x = x + functional.relu(self.a(x))
        return self.c(x + functional.relu(self.b(x)))


def test_weights_that_are_shared_within_a_group_are_left_alone():
    model = Stream()
    model.last = nn.Linear(1, 1)  # so that no other is the classifier
    assert layers(structure.find(model, (3, 2, 2))) == [("stem.weight", "a.weight", "b.weight")]
    model.b.weight = model.a.weight
    assert structure.find(model, (3, 2, 2)).groups == ()


def test_what_is_added_to_the_outputs_of_the_classifier_is_left_alone():
    assert "b.weight" not in prunable(Stream())
    assert structure.find(Stream(), (3, 2, 2)).groups == ()


class Scaled(Trap):
    """With a scale of its own for every channel between the convolutions, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__(lambda x: x)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(functional.relu(self.b(self.a(x) * self.scale)).mean(dim=(2, 3)))


def test_channels_with_a_parameter_outside_of_layers_are_left_alone():
    assert layers(structure.find(Scaled(), (3, 6, 6))) == [("b.weight",)]


def test_a_network_that_ends_in_a_convolution_keeps_its_outputs():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.AdaptiveAvgPool2d(1))
    assert layers(structure.find(nn.Sequential(*model, nn.Flatten()), (3, 6, 6))) == [("0.weight",)]


class Joined(nn.Module):
    """Two branches of 3 and 5 channels, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 3, 3)
        self.b = nn.Conv2d(1, 5, 3)
        self.norm = nn.BatchNorm2d(8)
        self.c = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.norm(torch.cat([self.a(x), self.b(x)], dim=1)).mean(dim=(2, 3)))


def test_concatenated_channels_are_two_groups_that_share_a_batch_norm():
    model = shaken(Joined())
    structure_ = structure.find(model, (1, 5, 5))
    assert layers(structure_) == [("a.weight",), ("b.weight",)]
    assert structure_.parts["norm"].rows.tolist() == list(range(8))
    masks = {name: np.ones(shape, np.uint8) for name, shape in structure_.shapes.items()}
    masks["a.weight"][1] = masks["b.weight"][[0, 4]] = 0
    reduced = structure.reduce(model, (1, 5, 5), masks)
    assert reduced.positions["norm.weight"].tolist() == [0, 2, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "coupled"),
    [
        # The stream of the first stage: the stem, and the second convolution of both blocks.
        ("resnet18", ("conv1.weight", "layer1.0.conv2.weight", "layer1.1.conv2.weight")),
        # An expansion and its depthwise convolution.
        ("mobilenet_v2", ("features.2.conv.0.0.weight", "features.2.conv.1.0.weight")),
        # The same, and what scales the channels: squeeze and excitation.
        (
            "efficientnet_b0",
            tuple(f"features.2.0.block.{part}.weight" for part in ("0.0", "1.0", "2.fc2")),
        ),
    ],
)
def test_networks_of_torchvision_lose_half_of_their_macs_and_compute_as_with_zeros(name, coupled):
    torch.manual_seed(0)
    shape = (3, 64, 64)
    model = shaken(getattr(import_torchvision().models, name)(weights=None, num_classes=10))
    structure_ = structure.find(model, shape)
    assert coupled in layers(structure_)
    masks = structure.choose(model, shape, random_scores(model), 0.5, "macs", "layer", found=structure_)
    reduced = structure.reduce(model, shape, masks, structure_).model
    full = structure.without(model, shape, masks, structure_)
    expected = forward(full, shape)
    torch.testing.assert_close(forward(reduced, shape), expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 1e-2
    assert measures.count(reduced, shape).macs == pytest.approx(structure_.dense["macs"] / 2, rel=0.01)


def test_a_network_that_cannot_be_followed_is_a_plain_error(monkeypatch):
    # As with torchvision's shufflenet_v2_x1_0.
    def fail(*_args, **_options) -> None:
        raise ZeroDivisionError("integer division or modulo by zero")

    monkeypatch.setattr(structure.torch_pruning.DependencyGraph, "build_dependency", fail)
    with pytest.raises(UserError, match=r"torch-pruning cannot follow this network.*ZeroDivisionError"):
        structure.find(Chain(), CHAIN)


# ---- cost ------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Of everything: biases, batch-norm, a depthwise convolution, a residual sum, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, stride=2, groups=6)
        self.b = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.side = nn.Conv2d(6, 5, 1)
        self.fc = nn.Linear(5 * 9, 7)
        self.norm2 = nn.BatchNorm1d(7)
        self.c = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.depthwise(functional.relu(self.norm(self.a(x)))))
        x = functional.relu(self.b(x) + self.side(x))
        return self.c(functional.relu(self.norm2(self.fc(x.flatten(1)))))


SMALL = (2, 6, 6)


@cache
def small() -> tuple[nn.Module, structure.Structure]:
    torch.manual_seed(0)
    model = shaken(Small())
    return model, structure.find(model, SMALL)


def masks_of(structure_: structure.Structure, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Zero the filters of channels that are not kept, nothing else."""
    masks = {name: np.ones(shape, np.uint8) for name, shape in structure_.shapes.items()}
    for name, mask in masks.items():
        rows = structure_.parts[name.removesuffix(".weight")].rows
        mask[[row >= 0 and not kept[row] for row in rows]] = 0
    return masks


@st.composite
def choices(draw) -> np.ndarray:
    _, structure_ = small()
    kept = [
        draw(st.lists(st.booleans(), min_size=len(g.channels), max_size=len(g.channels)).filter(any))
        for g in structure_.groups
    ]
    return np.array([one for group in kept for one in group])


@given(choices())
def test_cost_is_what_is_counted_in_the_reduced_network_and_in_the_closed_mask(kept):
    model, structure_ = small()
    assert layers(structure_) == [
        ("a.weight", "depthwise.weight"),
        ("b.weight", "side.weight"),
        ("fc.weight",),
    ]
    masks = structure_.masks(structure_.kept(masks_of(structure_, kept)))
    reduced = structure.reduce(model, SMALL, masks, structure_)
    counted = measures.count(reduced.model, SMALL)
    assert structure_.cost(kept, "parameters") == counted.params
    assert structure_.cost(kept, "macs") == counted.macs
    # Zeros in the full network are as many as were taken out of the other.
    full = structure.without(model, SMALL, masks, structure_)
    assert measures.count(full, SMALL).macs_nonzero == counted.macs
    assert measures.count(full, SMALL).params_nonzero == counted.params
    assert mask_files.respected(full, {name: torch.from_numpy(mask) for name, mask in masks.items()})
    torch.testing.assert_close(forward(full, SMALL), forward(reduced.model, SMALL), rtol=1e-4, atol=1e-5)


def test_cost_by_hand():
    structure_ = structure.find(Chain(), CHAIN)
    assert structure_.dense == {"parameters": 4 + 8 + 4, "macs": 4 * (4 + 8) + 4}
    # Three of a's and one of b's filters: 3 + 3 * 1 + 1 * 2 weights; those before the mean act four times.
    kept = np.array([True, True, True, False, False, True])
    assert structure_.cost(kept, "parameters") == 8
    assert structure_.cost(kept, "macs") == 4 * 6 + 2


@pytest.mark.parametrize("name", SHAPES)
def test_with_everything_kept_the_cost_is_the_dense_one(name):
    counted = measures.count(network(name), SHAPES[name])
    everything = np.ones(found(name).size, dtype=bool)
    assert found(name).cost(everything, "parameters") == found(name).dense["parameters"] == counted.params
    assert found(name).cost(everything, "macs") == found(name).dense["macs"] == counted.macs


# ---- choosing --------------------------------------------------------------------------------------

CHAIN_SCORES = {"a.weight": np.array([1.0, 2, 3, 4]), "b.weight": np.array([1.0, 3])}


def test_choosing_globally_by_hand():
    # Divided by their means, 2.5 and 2: a 0.4 0.8 1.2 1.6, b 0.5 1.5. a3 and b1 stay as the best of their
    # groups; then in order a2, a1, b0, a0. With a2: 2 + 2 + 2 = 6 weights; with a1 too: 3 + 3 + 2 = 8.
    masks = structure.choose(Chain(), CHAIN, CHAIN_SCORES, 0.5, "parameters", "global")
    assert masks["a.weight"].ravel().tolist() == [0, 1, 1, 1]
    assert masks["b.weight"].reshape(2, 4).tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
    assert all(mask.dtype == np.uint8 for mask in masks.values())


def test_choosing_by_layer_by_hand():
    # a keeps two from 3/8 on, three from 5/8, four from 7/8; b two from 3/4. So after one of each: a's
    # second (6 weights), a's third (8), b's second (3 + 6 + 4 = 13), a's fourth (16).
    scores = {"a.weight": np.array([9.0, 8, 7, 6]), "b.weight": np.array([1.0, 1])}
    kept = {6: (2, 1), 7: (2, 1), 8: (3, 1), 12: (3, 2), 16: (4, 2)}
    for weights, expected in kept.items():
        masks = structure.choose(Chain(), CHAIN, scores, weights / 16, "parameters", "layer")
        a, b = expected
        assert masks["a.weight"].ravel().tolist() == [1] * a + [0] * (4 - a)
        # Of equal scores the first is kept.
        assert masks["b.weight"].reshape(2, 4).tolist() == [
            [1] * a + [0] * (4 - a),
            [0] * 4 if b == 1 else [1] * a + [0] * (4 - a),
        ]


def test_layers_of_different_scales_are_comparable():
    scaled = {**CHAIN_SCORES, "b.weight": CHAIN_SCORES["b.weight"] * 1e6}
    one, other = (
        structure.choose(Chain(), CHAIN, scores, 0.5, "parameters", "global")
        for scores in (CHAIN_SCORES, scaled)
    )
    assert all((one[name] == other[name]).all() for name in one)


def test_a_channel_of_several_layers_counts_by_their_mean():
    model, structure_ = small()
    scores = random_scores(model)
    # Divided by their means, 2 and 20: b 0.5 1 1 1 1.5, side 1.1 1 1 1 0.9; means .8 1 1 1 1.2.
    scores["b.weight"] = np.array([1.0, 2, 2, 2, 3])
    scores["side.weight"] = np.array([22.0, 20, 20, 20, 18])
    masks = structure.choose(model, SMALL, scores, 0.2, "parameters", "layer", found=structure_)
    rows = masks["b.weight"].reshape(5, -1).any(axis=1).tolist()
    assert rows == masks["side.weight"].reshape(5, -1).any(axis=1).tolist()
    assert 0 < sum(rows) < 5
    assert rows[4] and not rows[0]


def test_groups_of_many_layers_have_no_advantage():
    # All channels score 1, but for the last layer: 1.5 1.5 .8 .8 .8 .8 .8. Its second is the next to stay.
    model, structure_ = small()
    scores = {name: np.ones(shape[0]) for name, shape in structure_.shapes.items()}
    scores["fc.weight"] = np.array([1.5, 1.5, 0.8, 0.8, 0.8, 0.8, 0.8])
    kept = np.zeros(structure_.size, dtype=bool)
    for group in structure_.groups:
        kept[group.channels[0]] = True
    kept[structure_.groups[2].channels[1]] = True
    part = structure_.cost(kept, "macs") / structure_.dense["macs"]
    masks = structure.choose(model, SMALL, scores, part, "macs", "global", found=structure_)
    assert [left(structure_, masks, name) for name in ("a.weight", "b.weight", "fc.weight")] == [1, 1, 2]


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", ["resnet20", "cifar-vgg"])
def test_budgets_are_met_within_one_percent(name, axis, scope):
    model, shape, scores = network(name), SHAPES[name], random_scores(network(name))
    dense = measures.count(model, shape)
    for ratio in (2, 4):
        masks = structure.choose(model, shape, scores, 1 / ratio, axis, scope, found=found(name))
        reduced = structure.reduce(model, shape, masks, found(name))
        counted = measures.count(reduced.model, shape)
        got = dense.params / counted.params if axis == "parameters" else dense.macs / counted.macs
        assert got == pytest.approx(ratio, rel=0.01)
        assert counted.macs < dense.macs
    full = structure.without(model, shape, masks, found(name))
    torch.testing.assert_close(forward(reduced.model, shape), forward(full, shape), rtol=1e-4, atol=1e-4)
    # The masks say it all.
    assert measures.count(full, shape).macs_nonzero == counted.macs
    for weight, mask in masks.items():
        assert (np.asarray(prunable(full)[weight].detach() != 0) == mask).all()


def test_no_other_number_of_channels_comes_nearer():
    model, structure_ = small()
    scores = random_scores(model)
    dense = structure_.dense["parameters"]
    fewest = round(dense / structure.largest_ratio(model, SMALL, "parameters", found=structure_))

    def got(target: int, scope: str) -> int:
        masks = structure.choose(model, SMALL, scores, target / dense, "parameters", scope, found=structure_)
        return measures.count(structure.reduce(model, SMALL, masks, structure_).model, SMALL).params

    for scope in ("global", "layer"):
        found_ = {target: got(target, scope) for target in range(fewest, dense + 1, 7)}
        reached = set(found_.values()) | {dense}
        # From one channel of each group to all, one by one: each is some target's nearest.
        assert len(reached) == structure_.size - len(structure_.groups) + 1
        for target, one in found_.items():
            assert abs(one - target) == min(abs(other - target) for other in reached)


def test_layers_keep_the_same_part_in_scope_layer():
    model, shape = network("cifar-vgg"), SHAPES["cifar-vgg"]
    masks = structure.choose(
        model, shape, random_scores(model), 0.25, "macs", "layer", found=found("cifar-vgg")
    )
    parts = [(left(found("cifar-vgg"), masks, name), len(mask)) for name, mask in masks.items()]
    # To one channel: layers of the same width differ by one at most.
    shares = [kept / size for kept, size in parts]
    assert max(shares) - min(shares) <= 1.5 / 64
    for size in (64, 128, 256, 512):
        assert len({kept for kept, outputs in parts if outputs == size}) <= 2


def test_a_global_ranking_does_not_keep_the_same_part():
    model, shape = network("cifar-vgg"), SHAPES["cifar-vgg"]
    scores = random_scores(model)
    # A layer with one outstanding filter: all others lie below those of other layers.
    scores["features.12.conv.weight"] = np.r_[1e4, np.ones(255)]
    assert len(prunable(model)["features.12.conv.weight"]) == 256
    masks = structure.choose(model, shape, scores, 0.5, "parameters", "global", found=found("cifar-vgg"))
    assert left(found("cifar-vgg"), masks, "features.12.conv.weight") == 1


def test_the_residual_stream_keeps_every_channel():
    model = network("resnet20")
    masks = structure.choose(
        model, SHAPES["resnet20"], random_scores(model), 0.1, "macs", "global", found=found("resnet20")
    )
    for name, mask in masks.items():
        if name.endswith("conv2.weight") or name == "conv1.weight":
            assert mask.reshape(len(mask), -1).any(axis=1).all()


def test_what_an_earlier_round_removed_stays_removed():
    model, shape = network("digitsnet"), SHAPES["digitsnet"]
    for scope in ("global", "layer"):
        previous = None
        for ratio in (2, 4, 8):
            # Other scores every round, as after retraining.
            scores = random_scores(model, seed=ratio)
            masks = structure.choose(
                model, shape, scores, 1 / ratio, "parameters", scope, previous, found=found("digitsnet")
            )
            if previous:
                assert all((masks[name] <= previous[name]).all() for name in masks)
                assert sum(mask.sum() for mask in masks.values()) < sum(
                    mask.sum() for mask in previous.values()
                )
            previous = masks
        again = structure.choose(model, shape, random_scores(model, 9), 1 / 8, "parameters", scope, previous)
        assert all((again[name] == previous[name]).all() for name in again)
        with pytest.raises(UserError, match=r"an earlier round left \d+; give ratios in ascending order"):
            structure.choose(model, shape, scores, 1 / 4, "parameters", scope, previous)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", SHAPES)
def test_the_largest_ratio_leaves_one_channel_of_every_group(name, axis):
    model, shape = network(name), SHAPES[name]
    largest = structure.largest_ratio(model, shape, axis, found=found(name))
    scores = random_scores(model)
    masks = structure.choose(model, shape, scores, 1 / largest, axis, "global", found=found(name))
    assert all(left(found(name), masks, group.layers[0]) == 1 for group in found(name).groups)
    counted = measures.count(structure.reduce(model, shape, masks, found(name)).model, shape)
    cost = counted.params if axis == "parameters" else counted.macs
    assert largest == found(name).dense[axis] / cost
    with pytest.raises(UserError, match=r"^compression ratio .* is impossible for whole filters") as error:
        structure.choose(model, shape, scores, 1 / (1.01 * largest), axis, "layer", found=found(name))
    # The ratio named works.
    named = float(str(error.value).rsplit(" ", 1)[1])
    assert 0.98 * largest <= named <= largest
    structure.choose(model, shape, scores, 1 / named, axis, "layer", found=found(name))


def test_the_largest_ratio_by_hand():
    # One filter each: 1 + 1 + 2 weights of 16; 4 * 2 + 2 MACs of 52. With b whole 1 + 2 + 4 weights.
    assert structure.largest_ratio(Chain(), CHAIN, "parameters") == 4
    assert structure.largest_ratio(Chain(), CHAIN, "macs") == 5.2
    assert structure.largest_ratio(Chain(), CHAIN, "parameters", ["b.weight"]) == 16 / 7


def test_excluded_weights_keep_every_filter_of_their_group():
    model, structure_ = small()
    masks = structure.choose(
        model,
        SMALL,
        random_scores(model),
        0.5,
        "parameters",
        "global",
        exclude=["side.weight"],
        found=structure_,
    )
    assert left(structure_, masks, "side.weight") == left(structure_, masks, "b.weight") == 5
    assert left(structure_, masks, "fc.weight") < 7
    with pytest.raises(
        UserError, match=r"'sides.weight', which is no prunable weight; did you mean 'side.weight'"
    ):
        structure.choose(
            model, SMALL, random_scores(model), 0.5, "parameters", "global", exclude=["sides.weight"]
        )


def test_scopes_of_single_weights_are_refused():
    with pytest.raises(UserError, match="unknown scope 'erk' for whole filters"):
        structure.choose(Chain(), CHAIN, CHAIN_SCORES, 0.5, "parameters", "erk")


def test_equal_scores_and_zero_scores_can_be_ranked():
    zeros = {name: np.zeros_like(values) for name, values in CHAIN_SCORES.items()}
    with np.errstate(all="raise"):
        masks = structure.choose(Chain(), CHAIN, zeros, 0.5, "parameters", "global")
    assert masks["a.weight"].ravel().tolist() == [1, 1, 1, 0]
    assert masks["b.weight"].reshape(2, 4).any(axis=1).tolist() == [True, False]


# ---- masks, reduced and expanded networks ----------------------------------------------------------


def test_comparable_scores_are_ranked_as_they_are_and_others_by_their_layers_mean():
    model = network("digitsnet")
    scores = {name: np.ones(len(weight)) for name, weight in prunable(model).items()}
    scores["features.3.weight"] = np.full(64, 1e-3)
    kept = {}
    for comparable in (True, False):
        masks = structure.choose(
            model, SHAPES["digitsnet"], scores, 0.7, "parameters", "global", comparable=comparable
        )
        kept[comparable] = [int(mask.reshape(len(mask), -1).any(axis=1).sum()) for mask in masks.values()]
    # The layer of small scores pays alone; where means are equal, ties go to the first layers.
    assert kept[True][0] == 32 and kept[True][2] == 128 and kept[True][1] < 64
    assert kept[False][0] == 32 and kept[False][1] == 64 and kept[False][2] < 128


def test_closing_zeroes_the_columns_that_read_a_removed_filter():
    structure_ = found("mnistnet")
    masks = {name: np.ones(shape, np.uint8) for name, shape in structure_.shapes.items()}
    masks["conv1.weight"][3] = masks["conv2.weight"][[0, 49]] = 0
    closed = structure_.masks(structure_.kept(masks))
    expected = copy.deepcopy(masks)
    expected["conv2.weight"][:, 3] = 0
    expected["fc1.weight"][:, :16] = expected["fc1.weight"][:, 784:] = 0
    assert all((closed[name] == expected[name]).all() for name in masks)


def test_a_channel_stays_while_one_of_its_layers_has_its_filter():
    model, structure_ = small()
    masks = {name: np.ones(shape, np.uint8) for name, shape in structure_.shapes.items()}
    masks["b.weight"][2] = 0
    assert structure.reduce(model, SMALL, masks, structure_).model.side.out_channels == 5
    masks["side.weight"][2] = 0
    reduced = structure.reduce(model, SMALL, masks, structure_).model
    assert (reduced.b.out_channels, reduced.side.out_channels, reduced.fc.in_features) == (4, 4, 36)


def test_a_reduced_network_holds_the_full_ones_numbers_at_their_positions():
    model = copy.deepcopy(network("resnet20")).train()
    model.bn1.num_batches_tracked.fill_(42)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = structure.choose(
        model, SHAPES["resnet20"], random_scores(model), 0.3, "macs", "global", found=found("resnet20")
    )
    reduced = structure.reduce(model, SHAPES["resnet20"], masks, found("resnet20"))
    small_state = reduced.model.state_dict()
    assert list(small_state) == list(before)
    for name, value in small_state.items():
        assert value.equal(before[name].flatten()[reduced.positions[name]])
        assert value.dtype == before[name].dtype and value.is_contiguous()
    kept = np.flatnonzero(masks["layer3.1.conv1.weight"].reshape(64, -1).any(axis=1))
    assert 0 < len(kept) < 64
    assert small_state["layer3.1.bn1.running_mean"].equal(before["layer3.1.bn1.running_mean"][kept])
    assert small_state["layer3.1.conv2.weight"].equal(before["layer3.1.conv2.weight"][:, kept])
    assert small_state["bn1.num_batches_tracked"] == 42
    # The full one is as it was, and both are in train mode and can be trained.
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in reduced.model.modules())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in reduced.model.parameters())
    with torch.no_grad():
        reduced.model.conv1.weight.zero_()
    assert model.conv1.weight.any()


def test_expanding_restores_shapes_and_zeroes_all_that_belonged_to_removed_channels():
    model, shape = network("cifar-vgg"), SHAPES["cifar-vgg"]
    masks = structure.choose(
        model, shape, random_scores(model), 0.25, "parameters", "layer", found=found("cifar-vgg")
    )
    full = copy.deepcopy(model)
    structure.expand(full, structure.reduce(model, shape, masks, found("cifar-vgg")))
    assert mask_files.respected(full, {name: torch.from_numpy(mask) for name, mask in masks.items()})
    gone = torch.from_numpy(~masks["features.0.conv.weight"].reshape(64, -1).any(axis=1))
    assert 0 < gone.sum() < 64
    first, dense = full.features[0], model.features[0]
    for values, empty in (
        (first.conv.bias, 0),
        (first.bn.weight, 0),
        (first.bn.bias, 0),
        (first.bn.running_mean, 0),
        (first.bn.running_var, 1),
    ):
        assert (values[gone] == empty).all()
    assert first.bn.running_mean[~gone].equal(dense.bn.running_mean[~gone])
    assert full.classifier[5].bias.equal(model.classifier[5].bias)


def test_a_trained_state_is_written_back_and_reducing_again_finds_it():
    torch.manual_seed(0)
    model, shape = copy.deepcopy(network("digitsnet")), SHAPES["digitsnet"]
    masks = structure.choose(model, shape, random_scores(model), 0.2, "parameters", "global")
    reduced = structure.reduce(model, shape, masks)
    optimizer = torch.optim.SGD(reduced.model.parameters(), lr=0.1, momentum=0.9)
    reduced.model.train()
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(reduced.model(pictures(shape, 8)), torch.arange(8)).backward()
        optimizer.step()
    state = {name: value.clone() for name, value in reduced.model.state_dict().items()}
    expected = forward(reduced.model, shape)
    with torch.no_grad():
        reduced.model.classifier.weight.zero_()  # the state of an earlier epoch is what counts
    structure.expand(model, reduced, state)
    torch.testing.assert_close(forward(model, shape), expected, rtol=1e-4, atol=1e-5)
    again = structure.reduce(model, shape, masks)
    assert all(value.equal(state[name]) for name, value in again.model.state_dict().items())
    assert again.model.features[1].num_batches_tracked == 3


def test_frozen_and_shared_parameters_stay_so():
    model = copy.deepcopy(network("digitsnet"))
    model.features[3].weight.requires_grad_(False)
    model.features[7].weight = model.features[7].bias
    masks = {name: np.ones(weight.shape, np.uint8) for name, weight in prunable(model).items()}
    masks["features.0.weight"][3] = 0
    reduced = structure.reduce(model, SHAPES["digitsnet"], masks).model
    assert [n for n, p in reduced.named_parameters() if not p.requires_grad] == ["features.3.weight"]
    assert reduced.features[7].weight is reduced.features[7].bias
    assert forward(reduced, SHAPES["digitsnet"]).allclose(
        forward(structure.without(model, SHAPES["digitsnet"], masks), SHAPES["digitsnet"]), atol=1e-5
    )


def test_a_network_of_which_a_layer_is_dead_can_still_be_built():
    model, structure_ = small()
    masks = {name: np.zeros(shape, np.uint8) for name, shape in structure_.shapes.items()}
    reduced = structure.reduce(model, SMALL, masks, structure_).model
    assert (reduced.a.out_channels, reduced.b.out_channels, reduced.fc.out_features) == (1, 1, 1)
    assert forward(reduced, SMALL).shape == (2, 3)


def test_masks_may_be_tensors_as_read_from_a_file():
    model, structure_ = small()
    arrays = structure.choose(model, SMALL, random_scores(model), 0.5, "macs", "global", found=structure_)
    tensors = {name: torch.from_numpy(mask) for name, mask in arrays.items()}
    one, other = (structure.reduce(model, SMALL, masks, structure_) for masks in (arrays, tensors))
    assert all(one.positions[name].equal(other.positions[name]) for name in one.positions)
