"""A part of QM9 learnt from random weights against one learnt from pre-trained weights.

Both take the same training molecules, epochs and learning rates to choose from, by the error on the
same validation molecules, and are tested on the same others. Molecules of the pre-training are in
none of these: QM9 is imported without them. Run as `make benchmark-fine-tuning`; a benchmark that
was interrupted goes on.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from qmgen.dataset import open_dataset
from qmgen.errors import ConfigError
from qmgen.training import TrainConfig, load_model, load_train_config, train_model

ARCHITECTURE = (
    "representation",
    "n_atom_basis",
    "n_filters",
    "n_interactions",
    "n_rbf",
    "cutoff_angstrom",
    "max_neighbors",
)
STARTS = ("random", "pre-trained")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="QM9, from qmgen import-qm9 --exclude")
    parser.add_argument("pretrained", type=Path, help="model.ckpt")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--config", type=Path, default=Path("workflows/fine-tuning.yaml"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    arguments = parser.parse_args()
    check_exclusion(arguments.store, arguments.pretrained)
    base = architecture_of(arguments.pretrained, load_train_config(arguments.config))
    (target,) = base.targets
    rows = []
    for size in arguments.sizes:
        for start in STARTS:
            for seed in arguments.seeds:
                changes = {
                    "train_size": size,
                    "seed": seed,
                    "init_from": arguments.pretrained if start == "pre-trained" else None,
                }
                config = base.model_copy(update=changes)
                folder = arguments.out / f"{start}-{size}-{seed}"
                rows.append(
                    {"size": size, "start": start, "seed": seed}
                    | best(arguments.store, folder, config, arguments.learning_rates)
                )
                print(rows[-1], flush=True)
    with (arguments.out / "fine_tuning.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"\ntest MAE of {target}, mean and standard error over {len(arguments.seeds)} seeds\n")
    print("| training molecules | random weights | pre-trained | ratio |\n|---|---|---|---|")
    for size in arguments.sizes:
        errors = [
            np.array([r["test_mae"] for r in rows if r["size"] == size and r["start"] == start])
            for start in STARTS
        ]
        shown = [
            f"{e.mean():.4f} ± {e.std(ddof=1) / np.sqrt(len(e)):.4f}"
            if len(e) > 1
            else f"{e[0]:.4f}"
            for e in errors
        ]
        ratio = errors[0].mean() / errors[1].mean()
        print(f"| {size} | {shown[0]} | {shown[1]} | {ratio:.2f} |")


def architecture_of(pretrained: Path, config: TrainConfig) -> TrainConfig:
    """Give a configuration the sizes of a trained network."""
    trained = load_model(pretrained).config
    return config.model_copy(update={name: getattr(trained, name) for name in ARCHITECTURE})


def check_exclusion(store: Path, pretrained: Path) -> None:
    """Check that the store was made without the molecules of the pre-training."""
    excluded = open_dataset(store).metadata.provenance.config.get("exclude")
    learnt = load_model(pretrained).dataset["source_sha256"]
    if not isinstance(excluded, dict) or excluded["source_sha256"] != learnt:
        raise ConfigError(
            f"{store} may have molecules that {pretrained} has learnt; make it again with qmgen "
            "import-qm9 --exclude and the file of molecules of the pre-training"
        )


def best(store: Path, folder: Path, config: TrainConfig, rates: list[float]) -> dict[str, float]:
    """Train at each rate; give the test error of the one with the lowest validation error."""
    results = []
    for rate in rates:
        out = folder / f"{rate:g}"
        if not (out / "metrics.json").exists():
            train_model(store, out, config.model_copy(update={"learning_rate": rate}))
        (errors,) = json.loads((out / "metrics.json").read_text())["errors"].values()
        results.append({"rate": rate, "val_mae": errors["val_mae"], "test_mae": errors["test_mae"]})
    return min(results, key=lambda result: result["val_mae"])


if __name__ == "__main__":
    main()
