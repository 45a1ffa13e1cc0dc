"""How long forward passes take, how much memory they need, and on what.

Protocol: eval mode, no gradients, pinned threads, pictures already on the device. Networks are timed in
turns, the first of them being what the others are compared with: a round times every one once, each second
round in reverse, so that a machine that slows down slows all of them. One sample is the mean over as many
passes as make `SHORTEST` seconds. What is told is medians over the rounds, and of speedups the median of the
ratios within rounds.

With one thread on the CPU the clock is the CPU time of the process, the latency on a core of its own:
what other processes took from it is left out, though not what they did to caches and memory. With several
threads, or on a GPU, it is the time on the wall.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Seconds, at least, of a sample, and of the warm-up of each network.
SHORTEST = 0.05
WARM_UP = 0.5
# A quiet machine: the part of the time in which the timing thread ran, and how many cores others kept busy.
RAN, ELSEWHERE = 0.9, 0.25

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"cpu": time.process_time, "wall": time.perf_counter}
Pass = Callable[[], object]


@dataclass(frozen=True)
class Quiet:
    """Whether something else was running while passes were timed.

    `ran`: CPU time of the timing thread / wall time; `elsewhere`: cores that other processes kept busy, on
    average; None where the system does not tell.
    """

    ran: float
    elsewhere: float | None

    @property
    def yes(self) -> bool:
        """Whether the machine was quiet."""
        return self.ran >= RAN and (self.elsewhere is None or self.elsewhere <= ELSEWHERE)


def alternate(
    passes: Mapping[str, Pass],
    rounds: int,
    *,
    shortest: float = SHORTEST,
    warm_up: float = WARM_UP,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Return for each of `passes` the seconds of one call, a sample per round.

    A pass has to return when its work is done.
    """
    counts = {}
    for name, run in passes.items():
        begin, calls = clock(), 0
        while calls < 2 or clock() - begin < warm_up:
            run()
            calls += 1
        # The first call may have taken far longer than the others.
        begin = clock()
        run()
        counts[name] = max(1, round(shortest / max(clock() - begin, 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(rounds):
        for name in list(passes) if number % 2 == 0 else reversed(list(passes)):
            run, count = passes[name], counts[name]
            begin = clock()
            for _ in range(count):
                run()
            samples[name].append((clock() - begin) / count)
    return samples


def clock(device: torch.device, threads: int) -> str:
    """Return by which of `CLOCKS` a network is timed."""
    return "cpu" if device.type == "cpu" and threads == 1 else "wall"


@torch.inference_mode()
def measured(
    networks: Mapping[str, nn.Module], pictures: Mapping[str, torch.Tensor], rounds: int, clock: str
) -> tuple[dict[str, list[float]], Quiet]:
    """Time networks in turns, each on its pictures; return seconds per pass, and how quiet it was."""
    passes = {name: _pass(network.eval(), pictures[name]) for name, network in networks.items()}
    before = _busy()
    wall, own, thread = time.perf_counter(), time.process_time(), time.thread_time()
    samples = alternate(passes, rounds, clock=CLOCKS[clock])
    wall, own = time.perf_counter() - wall, time.process_time() - own
    after = _busy()
    ran = (time.thread_time() - thread) / wall
    others = None if before is None or after is None else max(0.0, (after - before - own) / wall)
    return samples, Quiet(round(ran, 3), None if others is None else round(others, 3))


def _pass(network: nn.Module, pictures: torch.Tensor) -> Pass:
    def run() -> None:
        network(pictures)
        if pictures.is_cuda:
            torch.cuda.synchronize(pictures.device)

    return run


def _busy() -> float | None:
    """Return the seconds that all cores of the machine have worked, for anyone, since it started."""
    try:
        words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, *_ = map(int, words[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@torch.inference_mode()
def peak_memory(network: nn.Module, pictures: torch.Tensor) -> int:
    """Return the most bytes that a forward pass needs at once: network, pictures, all that lies between.

    What torch's allocator gave and took back, event by event, and not what the process has resident, which
    depends on what it did before. Memory that a library takes past the allocator is not seen.
    """
    held = sum(map(_bytes, _tensors(network))) + _bytes(pictures)
    network.eval()
    if pictures.is_cuda:
        torch.cuda.synchronize(pictures.device)
        before = torch.cuda.memory_allocated(pictures.device)
        torch.cuda.reset_peak_memory_stats(pictures.device)
        network(pictures)
        torch.cuda.synchronize(pictures.device)
        return held + torch.cuda.max_memory_allocated(pictures.device) - before
    network(pictures)  # what is allocated once and kept is no part of a pass
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        network(pictures)
    events: Any = profile.kineto_results
    changes = sorted((e.start_ns(), e.nbytes()) for e in events.events() if e.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return held + most


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def _bytes(tensor: torch.Tensor) -> int:
    if tensor.layout is torch.sparse_csr:
        return sum(map(_bytes, (tensor.crow_indices(), tensor.col_indices(), tensor.values())))
    return tensor.numel() * tensor.element_size()


def hardware(device: torch.device) -> dict[str, Any]:
    """Return what the times were taken on: processor, cores, memory, libraries, GPU.

    The version of a GPU's driver stands in the record, as for every job.
    """
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.is_available(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.release()}",
    }
    if device.type == "cuda":
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "gpu_memory_bytes": torch.cuda.get_device_properties(device).total_memory,
            "cuda": torch.version.cuda,
        }
    return found


def _processor() -> str:
    """Return the model of the processor, as Linux tells it, or else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
