"""SMILES strings of a store, by its splits, and the loop that trains on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from qmgen.dataset import open_dataset
from qmgen.efficiency.networks.smiles_tokens import Vocabulary, vocabulary_of

Loss = Callable[[Any, Any], jax.Array]


def smiles_of(store: Path, split: str | None = None) -> list[str]:
    """Strings of a split's molecules in the order of the store, those without one left out."""
    blocks = open_dataset(store).iter_blocks(8192, split=split, columns=("smile",))
    strings = np.concatenate([np.asarray(block["smile"]) for block in blocks])
    # Conformers of a molecule are neighbours.
    return [str(s) for s in dict.fromkeys(strings.tolist()) if s]


def strings_and_vocabulary(store: Path) -> tuple[list[str], list[str], Vocabulary]:
    """Strings to train on and to validate with, and the symbols of all."""
    strings = smiles_of(store, "train"), smiles_of(store, "val")
    return *strings, vocabulary_of(smiles_of(store))


def trainer(loss: Loss, steps: int) -> Callable[[Any, float, Any], tuple[Any, np.ndarray]]:
    """Function of parameters, peak learning rate and batches to trained parameters and all losses.

    Adam; the rate rises over the first tenth of the steps and falls to 0 as a cosine does.
    """
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 10, steps)

    @jax.jit
    def run(parameters: Any, rate: jax.Array, batches: Any) -> tuple[Any, jax.Array]:
        optimiser = optax.adam(lambda step: rate * shape(step))

        def step(carry, batch):
            value, gradients = jax.value_and_grad(loss)(carry[0], batch)
            updates, state = optimiser.update(gradients, carry[1])
            return (optax.apply_updates(carry[0], updates), state), value

        (parameters, _), losses = jax.lax.scan(
            step, (parameters, optimiser.init(parameters)), batches
        )
        return parameters, losses

    def trained(parameters: Any, rate: float, batches: Any) -> tuple[Any, np.ndarray]:
        parameters, losses = run(parameters, np.float32(rate), batches)
        return parameters, np.asarray(losses)

    return trained
