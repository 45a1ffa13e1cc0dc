"""What a network costs: bytes by hand, the protocol under a clock of our own, the table, the figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shrinkflow import costs, storage, study, timing
from shrinkflow.errors import UserError
from shrinkflow.figures import costs as drawing
from shrinkflow.figures import style
from tests.unit.test_study import valid


def tiny() -> nn.Module:
    """10 prunable weights, 4 of them zero, and a classifier of 2."""
    network = nn.Sequential(nn.Linear(5, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 0, 2, 0, 3], [0, 4, 0, 5, 6]]))
    return network


def test_bytes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def save(tensors: dict[str, Any]) -> bytes:
        written.append({name: array.nbytes for name, array in tensors.items()})
        return bytes(1000 + sum(array.nbytes for array in tensors.values()))

    monkeypatch.setattr("safetensors.numpy.save", save)
    found = storage.sizes(tiny())
    assert written == [
        {"0.weight": 40, "1.weight": 8},
        # 10 entries are 2 bytes of bits.
        {"0.weight.kept": 2, "0.weight.values": 24, "1.weight": 8},
        # 2 rows have 3 pointers.
        {"0.weight.rows": 12, "0.weight.columns": 24, "0.weight.values": 24, "1.weight": 8},
    ]
    assert (found["dense"], found["bitmask"], found["csr"]) == (1048, 1034, 1068)
    assert found["compressed"] < 100  # nothing but zeros


def test_the_forms_hold_the_network() -> None:
    """With nothing pruned, bits and column numbers are on top."""
    network = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 2))
    full = storage.sizes(network)
    assert 0 < full["dense"] - 4 * (300 * 200 + 200 + 400 + 2) < 1000
    with torch.no_grad():
        network[0].weight.view(-1)[: 300 * 190] = 0
    few = storage.sizes(network)
    assert few["dense"] == full["dense"]
    assert few["bitmask"] < few["csr"] < few["dense"] / 4
    assert few["compressed"] < full["compressed"] / 4
    assert full["csr"] > full["bitmask"] > full["dense"]


class Clock:
    """Time that passes only when something runs, slower and slower."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, seconds: float) -> None:
        self.order.append(name)
        self.now += seconds * (1 + self.now / 100)


def test_networks_take_turns_so_that_a_drift_cancels() -> None:
    clock = Clock()
    passes = {
        "control": lambda: clock.run("control", 0.02),
        "half": lambda: clock.run("half", 0.01),
    }
    found = timing.alternate(passes, 6, shortest=0.001, warm_up=0.03, clock=clock)
    # Every second round is in reverse.
    assert clock.order[-12:] == ["control", "half", "half", "control"] * 3
    assert {name: len(samples) for name, samples in found.items()} == {"control": 6, "half": 6}
    assert found["control"] == sorted(found["control"]) and found["control"][-1] > found["control"][0]
    assert costs.speedup(found["control"], found["half"]) == pytest.approx(2, rel=1e-3)


def test_short_passes_are_repeated_within_a_sample() -> None:
    clock = Clock()
    found = timing.alternate({"a": lambda: clock.run("a", 0.001)}, 3, shortest=0.01, warm_up=0, clock=clock)
    assert len(clock.order) == 2 + 1 + 3 * 10
    assert found["a"] == pytest.approx([0.001] * 3, rel=0.01)


def test_medians_are_of_ratios_within_rounds() -> None:
    # By the ratio of medians it would be 2 / 2.
    assert costs.speedup([1, 2, 9], [2, 1, 3]) == 2
    assert costs.iqr([1, 2, 3, 4, 5]) == 2
    assert costs.iqr([7]) == 0


@pytest.mark.parametrize(
    ("ran", "elsewhere", "quiet"), [(1, 0, True), (0.8, 0, False), (1, 0.9, False), (0.95, None, True)]
)
def test_what_is_quiet(ran: float, elsewhere: float | None, quiet: bool) -> None:
    assert timing.Quiet(ran, elsewhere).yes is quiet


def test_one_thread_on_the_cpu_is_timed_by_its_own_time() -> None:
    assert timing.clock(torch.device("cpu"), 1) == "cpu"
    assert timing.clock(torch.device("cpu"), 2) == timing.clock(torch.device("cuda"), 1) == "wall"


class Wide(nn.Module):
    """Holds 4 kB, makes 40 kB, then, when that is gone, 8 kB."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1024))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        first = (pictures.flatten()[0] * self.weight).repeat(10).sum()
        return first + torch.ones(2048)


def test_peak_memory_is_what_lives_at_once() -> None:
    found = timing.peak_memory(Wide(), torch.zeros(1, 1, 16, 16))
    # The network, the picture, the product and its ten copies; never those and the last tensor.
    assert 4096 + 1024 + 40960 + 4096 <= found < 4096 + 1024 + 40960 + 4096 + 2048


def test_memory_does_not_depend_on_what_ran_before() -> None:
    network, pictures = Wide(), torch.zeros(1, 1, 16, 16)
    before = timing.peak_memory(network, pictures)
    torch.ones(10**7).sum()
    assert timing.peak_memory(network, pictures) == before


def document(strategy: str, ratio: float, granularity: str, kernels: dict[str, float]) -> dict[str, Any]:
    """A cell whose kernels are as many times as fast as the control, within every round."""
    control = [0.010, 0.020, 0.012]
    return {
        "cell": dict(zip(costs.CELL, ("d", "m", "A", strategy, ratio, 1), strict=True)),
        "granularity": granularity,
        "hardware": {"processor": "abacus"},
        "protocol": {"threads": 1, "batch_size": 64, "rounds": 3, "clock": "cpu"},
        "quiet": {"yes": strategy != "loud", "ran": 0.5, "elsewhere": None},
        "bytes": dict(zip(costs.FORMS, (4, 3, 2, 1), strict=True)),
        "control": {"latency_s": control, "batch_s": [10 * s for s in control]},
        "kernels": [
            {
                "kernel": kernel,
                "latency_s": [s / factor for s in control],
                "batch_s": [10 * s / factor for s in control],
                "peak_memory_bytes": 2_500_000,
            }
            for kernel, factor in kernels.items()
        ],
    }


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    cells = [
        document("dense", 1.0, "none", {"dense": 1}),
        document("magnitude", 4.0, "weight", {"dense": 1, "csr": 0.5}),
        document("loud", 4.0, "filter", {"dense": 2}),
    ]
    measured, metrics = [], []
    for i, cell in enumerate(cells):
        known = {"compression": cell["cell"]["ratio"], "speedup": cell["cell"]["ratio"], "top1": 0.5}
        for paths, name, value in (
            (measured, "cost", cell),
            (metrics, "metrics", {"cell": cell["cell"], "metrics": known}),
        ):
            paths.append(tmp_path / f"{name}{i}.json")
            paths[-1].write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"cost2.json has no metrics.json"):
        costs.rows(measured, metrics[:2])
    return costs.rows(measured, metrics)


def test_a_row_per_cell_and_kernel(rows: list[dict[str, Any]]) -> None:
    assert [(row["strategy"], row["kernel"]) for row in rows] == [
        ("dense", "dense"), ("magnitude", "dense"), ("magnitude", "csr"), ("loud", "dense"),
    ]  # fmt: skip
    sparse = rows[2]
    assert sparse["latency_ms"] == pytest.approx(24)
    assert sparse["latency_speedup"] == sparse["throughput_speedup"] == pytest.approx(0.5)
    assert sparse["throughput"] == pytest.approx(64 / 0.24)
    assert sparse["latency_speedup_iqr"] == pytest.approx(0)
    assert sparse["latency_ms_iqr"] == pytest.approx(2 * 1000 * costs.iqr([0.01, 0.02, 0.012]))
    assert (sparse["speedup"], sparse["top1"], sparse["peak_memory_mb"]) == (4.0, 0.5, 2.5)
    head, *lines = costs.text(rows).splitlines()
    assert head.split(",") == costs.COLUMNS and len(lines) == 4
    line = dict(zip(costs.COLUMNS, lines[3].split(","), strict=True))
    assert (line["ratio"], line["quiet"], line["elsewhere"], line["device"]) == ("4", "no", "", "abacus")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"cell": 3}')
    with pytest.raises(UserError, match="does not say which cell"):
        costs.rows([tmp_path / "c.json"], [])


def test_the_figure_shows_every_kernel_and_says_what_disturbed_it(rows: list, tmp_path: Path) -> None:
    figure = drawing.costs([*rows, rows[-1] | {"speedup": None}])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == 4 and any("CSR" in label for label in labels)
    said = figure.get_suptitle().replace("\n", " ")
    assert "Something else was running" in said and "Not drawn: 1 point" in said
    latency = figure.axes[0]
    # Zeros gain nothing, removed filters do: two of the theory's four.
    points = {
        tuple(xy)
        for line in latency.lines
        for xy in line.get_xydata().tolist()
        if line.get_marker() != "None"
    }
    assert {(4.0, 1.0), (4.0, 0.5), (4.0, 2.0)} <= {(x, round(y, 6)) for x, y in points}
    style.save(figure, tmp_path / "a.svg", tmp_path / "a.png", {})
    style.save(
        drawing.costs([*rows, rows[-1] | {"speedup": None}]), tmp_path / "b.svg", tmp_path / "b.png", {}
    )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_hardware_names_the_processor_and_no_host() -> None:
    found = timing.hardware(torch.device("cpu"))
    assert found["processor"] and found["cores"] and found["memory_bytes"] > 10**8
    assert not any("host" in name or "node" in name for name in found)


class TestStudy:
    def test_every_strategy_and_ratio_of_the_first_seed_and_their_controls(self) -> None:
        found = study.load(valid() | {"seeds": [2, 1]})
        costed = found.costed()
        assert {cell.seed for cell in costed} == {2}
        assert costed == [cell for cell in found.cells() if cell.seed == 2]
        assert (found.costs.threads, found.costs.batch_size) == (found.threads, 64)

    def test_what_is_named(self) -> None:
        named = {"strategies": ["random"], "ratios": [4], "seeds": [2], "threads": 3}
        found = study.load(valid() | {"ratios": [2, 4], "seeds": [1, 2], "costs": named})
        assert {(cell.strategy, cell.ratio, cell.seed) for cell in found.costed()} == {
            ("dense", 1.0, 2), ("random", 4.0, 2),
        }  # fmt: skip
        assert found.costs.threads == 3

    @pytest.mark.parametrize(
        ("costs", "told"),
        [
            (
                {"strategies": ["randon"]},
                "'costs.strategies': 'randon' is none of the study's strategies; did",
            ),
            (
                {"strategies": ["dense"]},
                "'costs.strategies': 'dense' is a control; controls are always timed",
            ),
            ({"ratios": [3]}, "'costs.ratios': 3 is none of the study's ratios; known: "),
            ({"seeds": [77]}, "'costs.seeds': 77 is none of the study's seeds; known: "),
            ({"rounds": 2}, "costs.rounds"),
            ({"batches": 2}, "unknown key 'batches' in 'costs'"),
        ],
    )
    def test_faults(self, costs: dict[str, Any], told: str) -> None:
        with pytest.raises(UserError) as caught:
            study.load(valid() | {"costs": costs})
        assert told in str(caught.value)
