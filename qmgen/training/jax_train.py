"""A small trainer of networks in JAX on a store, for the comparison of number formats.

`qmgen train` is the one for use; this one trains any function of padded molecules, changed as its
caller likes before each step.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Float64, Key, PyTree, UInt8

from qmgen.dataset import BatchLoader, PaddedBatch, padded_batches
from qmgen.efficiency.loss_scaling import (
    LossScale,
    ScaledStep,
    keep_if,
    value_and_scaled_grad,
)
from qmgen.errors import InputError
from qmgen.training.standardise import Scaling
from qmgen.training.targets import SCALARS, TARGETS, Target
from qmgen.units import ANGSTROM_PER_BOHR


class Molecules(NamedTuple):
    """A padded batch as a network in JAX takes it; a pytree.

    Attributes
    ----------
    z
        Atomic numbers, 0 for padding.
    positions_angstrom
        Centred on the molecule's first atom, Angstrom.
    atom_mask
        False for padding.
    label
        Standardised; 0 where there is none.
    weight
        1, or 0 for rows that are padding or have no label.
    """

    z: UInt8[np.ndarray, "n nat"] | UInt8[Array, "n nat"]
    positions_angstrom: Float32[np.ndarray, "n nat 3"] | Float32[Array, "n nat 3"]
    atom_mask: Bool[np.ndarray, "n nat"] | Bool[Array, "n nat"]
    label: Float32[np.ndarray, " n"] | Float32[Array, " n"]
    weight: Float32[np.ndarray, " n"] | Float32[Array, " n"]


class Trained(NamedTuple):
    """A network, its loss in each step, steps left out as gradients overflowed, last loss scale."""

    model: PyTree
    losses: Float32[np.ndarray, " steps"]
    skipped_steps: int
    loss_scale: float


def molecules_of(batch: PaddedBatch, target: Target, scaling: Scaling) -> Molecules:
    """Bring a padded batch of ``z``, ``pos`` and the target into the units of a network.

    Conformers with elements that the training split lacks have no label.

    Raises
    ------
    InputError
        The target is a vector.
    """
    if target not in SCALARS:
        raise InputError(f"{target} is no single number a molecule; choose one of {SCALARS}")
    mask = batch.atom_mask
    counts = mask.sum(1)
    label = np.full(len(mask), np.nan)
    present = counts > 0
    offset = scaling.offset(batch["z"][mask], np.concatenate([[0], np.cumsum(counts[present])]))
    label[present] = (batch[target][present] * TARGETS[target].factor - offset) / scaling.scale
    weight = np.isfinite(label)
    centred = np.where(mask[..., None], batch["pos"] - batch["pos"][:, :1], 0.0)
    return Molecules(
        batch["z"],
        (centred * ANGSTROM_PER_BOHR).astype(np.float32),
        mask,
        np.where(weight, label, 0.0).astype(np.float32),
        weight.astype(np.float32),
    )


def molecule_batches(
    loader: BatchLoader, target: Target, scaling: Scaling, nat: int, epoch: int = 0
) -> Iterator[Molecules]:
    """Batches of an epoch, all padded to `nat` atoms so that one program serves them.

    Parameters
    ----------
    loader
        Of ``z``, ``pos`` and the target.
    """
    for batch in padded_batches(loader, epoch, atom_buckets=(nat,)):
        yield molecules_of(batch, target, scaling)


def absolute_loss(model: Callable[..., Array], molecules: Molecules) -> Float[Array, ""]:
    """Mean absolute error of the standardised labels."""
    predicted = model(molecules.z, molecules.positions_angstrom, molecules.atom_mask)
    errors = jnp.abs(predicted.astype(jnp.float32) - molecules.label) * molecules.weight
    return errors.sum() / jnp.maximum(jnp.sum(molecules.weight), 1)


def train_network(
    model: PyTree,
    batches: Iterable[Molecules],
    optimiser: optax.GradientTransformation,
    loss_scale: LossScale,
    key: Key[Array, ""],
    in_use: Callable[[PyTree, Key[Array, ""]], Any] = lambda model, key: model,
    differentiate: Callable[..., ScaledStep] = value_and_scaled_grad,
) -> Trained:
    """Train a network on batches, one step each.

    Parameters
    ----------
    model
        Its floating-point arrays are what is learnt and stay in their dtype.
    loss_scale
        Steps whose gradients overflow are left out.
    in_use
        Makes of the model what the step calls, such as one in fewer bits; differentiated. The key
        is another one in each step.
    differentiate
        In the place of `value_and_scaled_grad`, whose arguments it takes.
    """
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(parameters: PyTree, molecules: Molecules, key: Key[Array, ""]) -> Array:
        return absolute_loss(in_use(eqx.combine(parameters, static), key), molecules)

    @jax.jit
    def step(parameters: PyTree, state: Any, scaling: Any, molecules: Molecules, key: Any) -> Any:
        done = differentiate(loss, loss_scale, scaling, parameters, molecules, key)
        updates, new_state = optimiser.update(done.gradients, state, parameters)
        new = optax.apply_updates(parameters, updates)
        kept = keep_if(done.finite, (new, new_state), (parameters, state))
        return *kept, done.state, done.value, done.finite

    state, scaling = optimiser.init(parameters), loss_scale.init()
    losses: list[Array] = []
    finite: list[Array] = []
    for number, molecules in enumerate(batches):
        of_step = jax.random.fold_in(key, number)
        parameters, state, scaling, value, good = step(
            parameters, state, scaling, molecules, of_step
        )
        losses.append(value)
        finite.append(good)
    return Trained(
        eqx.combine(parameters, static),
        np.array([float(value) for value in losses], np.float32),
        sum(not bool(good) for good in finite),
        float(scaling.scale),
    )


def predicted_errors(
    model: Callable[..., Array], batches: Iterable[Molecules], scaling: Scaling
) -> Float64[np.ndarray, " rows"]:
    """Differences from the labels of all rows that have one, in the target's unit."""

    @eqx.filter_jit
    def predict(model: Callable[..., Array], molecules: Molecules) -> Array:
        return model(molecules.z, molecules.positions_angstrom, molecules.atom_mask)

    errors = [
        (np.asarray(predict(model, batch), np.float64) - batch.label)[np.asarray(batch.weight) > 0]
        for batch in batches
    ]
    return np.concatenate(errors) * scaling.scale
