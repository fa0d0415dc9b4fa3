"""Labatie et al., 2106.03743: where the power of activations is after each of fifty layers.

Networks of random weights with batch, layer, group and instance norm, without and with proxy norm.
Prints tables and draws the part of channels' constants over depth. Run as
`make benchmark-architectures`.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.networks.norms import batch_norm, group_norm, instance_norm, layer_norm
from qmgen.efficiency.networks.power_split import PowerSplit, random_network

DEPTH, INSTANCES, POSITIONS, SEEDS = 50, 16, 16, 3


def networks(width: int) -> dict[str, tuple[Callable, bool, int]]:
    """Norm, whether proxy norm follows, and channels; group norm has twice as many."""
    layer = partial(layer_norm, spatial_axes=1)
    group = partial(group_norm, groups=32, spatial_axes=1)
    return {
        "BN": (batch_norm, False, width),
        "LN": (layer, False, width),
        "LN + PN": (layer, True, width),
        "GN": (group, False, 2 * width),
        "GN + PN": (group, True, 2 * width),
        "IN": (partial(instance_norm, spatial_axes=1), False, width),
    }


def powers(norm: Callable, proxy: bool, width: int) -> PowerSplit:
    """Power in each layer of each seed's network, `seed layer`."""
    shape = INSTANCES, POSITIONS, width
    network = jax.jit(lambda x, key: random_network(x, norm, depth=DEPTH, key=key, proxy=proxy)[1])
    keys = (jax.random.split(jax.random.key(seed)) for seed in range(SEEDS))
    found = [network(jax.random.normal(a, shape), b) for a, b in keys]
    return jax.tree.map(lambda *parts: np.stack([np.asarray(p) for p in parts]), *found)


def report(results: dict[str, tuple[PowerSplit, float]]) -> None:
    depths = [depth for depth in (1, 10, 25, 50) if depth <= DEPTH]
    rows = [
        [name, *(f"{split.channel_fraction[:, d - 1].mean():.3f}" for d in depths), f"{took:.1f} s"]
        for name, (split, took) in results.items()
    ]
    print("Channels' constants over all power, P1 / total")
    table(["", *(f"layer {d}" for d in depths), "a network, compiled"], rows)
    parts = ("channel_means", "instance_means", "spreads", "instance_spreads")
    print(f"All parts after layer {DEPTH}, and their sum")
    table(
        ["", "P1 channels", "P2 instances", "P3 within", "P4 instances' spreads", "sum"],
        [
            [
                name,
                *(f"{getattr(split, part)[:, -1].mean():.4f}" for part in parts),
                f"{split.total[:, -1].mean():.4f}",
            ]
            for name, (split, _) in results.items()
        ],
    )


def verdict(results: dict[str, tuple[PowerSplit, float]]) -> None:
    last = {name: split.channel_fraction[:, -1] for name, (split, _) in results.items()}
    of_instances = results["IN"][0].instance_fraction[:, -1].max()
    for what, holds in (
        ("LN > 0.9", last["LN"].min() > 0.9),
        ("LN + PN < 0.05", last["LN + PN"].max() < 0.05),
        ("GN + PN < 0.05", last["GN + PN"].max() < 0.05),
        ("IN leaves nothing of instances, (P2 + P4) / total < 0.0001", of_instances < 1e-4),
    ):
        print(f"{what}: {'as expected' if holds else 'NOT as expected'}")


def draw(results: dict[str, tuple[PowerSplit, float]], figure: Path) -> None:
    _, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for name, (split, _) in results.items():
        for axis, found in zip(
            axes, (split.channel_fraction, split.instance_fraction), strict=True
        ):
            axis.plot(range(1, DEPTH + 1), found.mean(0), label=name)
    axes[0].set_ylabel("channels' constants, P1 / total")
    axes[1].set_ylabel("between instances, (P2 + P4) / total")
    for axis in axes:
        axis.set_xlabel("layer")
    axes[0].legend(fontsize=7)
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "proxy_norm.png")
    arguments = parser.parse_args()
    results = {}
    for name, network in networks(arguments.width).items():
        started = time.perf_counter()
        split = powers(*network)
        results[name] = split, (time.perf_counter() - started) / SEEDS
    report(results)
    verdict(results)
    draw(results, arguments.figure)


if __name__ == "__main__":
    main()
