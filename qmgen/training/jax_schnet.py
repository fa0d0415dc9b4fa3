"""SchNet in JAX, for padded batches: the network of `qmgen.training.model`, weight for weight.

Schütt et al., J. Chem. Phys. 148, 241722 (2018). All pairs of atoms of a molecule are there, with a
mask, which suits small molecules; the cutoff takes care of the rest.
"""

from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from qmgen.efficiency.fp8_linear import apply_linear
from qmgen.errors import InputError
from qmgen.training.config import TrainConfig
from qmgen.training.model import PropertyModel
from qmgen.training.selection import MAX_ATOMIC_NUMBER
from qmgen.training.targets import SCALARS, Target

Linear = Any
"""`equinox.nn.Linear`, or what has taken its place (`qmgen.efficiency.fp8_linear`)."""


def shifted_softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ln(1/2 + e^x / 2), which is 0 at 0."""
    return jax.nn.softplus(x) - jnp.asarray(np.log(2.0), x.dtype)


def gaussian_basis(
    distances_angstrom: Float[Array, "*shape"], cutoff_angstrom: float, count: int
) -> Float[Array, "*shape basis"]:
    """Gaussians at even distances from 0 to the cutoff, as wide as they are apart."""
    centres = jnp.linspace(0.0, cutoff_angstrom, count, dtype=distances_angstrom.dtype)
    width = centres[1] - centres[0]
    return jnp.exp(-0.5 / width**2 * (distances_angstrom[..., None] - centres) ** 2)


def cosine_cutoff(
    distances_angstrom: Float[Array, "*shape"], cutoff_angstrom: float
) -> Float[Array, "*shape"]:
    """From 1 at 0 to 0 at the cutoff and beyond."""
    value = 0.5 * (jnp.cos(distances_angstrom * np.pi / cutoff_angstrom) + 1)
    return jnp.where(distances_angstrom < cutoff_angstrom, value, 0.0)


class Interaction(eqx.Module):
    """A continuous-filter convolution, and what it adds to each atom."""

    into_filters: Linear
    filters: tuple[Linear, Linear]
    out: tuple[Linear, Linear]

    def __call__(
        self,
        atoms: Float[Array, "n nat features"],
        basis: Float[Array, "n nat nat basis"],
        reach: Float[Array, "n nat nat"],
    ) -> Float[Array, "n nat features"]:
        """What atoms take from their neighbours.

        basis, reach
            Of each atom (first of the two axes) and neighbour; `reach` is the cutoff's factor, 0
            for what is no pair.
        """
        first, second = self.filters
        weights = apply_linear(second, shifted_softplus(apply_linear(first, basis)))
        weights = weights * reach[..., None]
        messages = weights * apply_linear(self.into_filters, atoms)[:, None]
        # 16-bit types have too few digits to add neighbours up in.
        taken = messages.sum(2, dtype=jnp.float32).astype(atoms.dtype)
        first, second = self.out
        return apply_linear(second, shifted_softplus(apply_linear(first, taken)))


class SchNet(eqx.Module):
    """One number a molecule, a sum or a mean over atoms; standardised as while training.

    Attributes
    ----------
    embedding
        Features by atomic number.
    interactions
        They are computed in the dtype of their weights.
    readout
        Two layers, in float32.
    cutoff_angstrom, basis_size
        Of the Gaussians.
    aggregation
        "sum" for energies, "mean" for gaps and orbital energies.
    """

    embedding: Float[Array, "elements features"]
    interactions: tuple[Interaction, ...]
    readout: tuple[Linear, Linear]
    cutoff_angstrom: float = eqx.field(static=True)
    basis_size: int = eqx.field(static=True)
    aggregation: Literal["sum", "mean"] = eqx.field(static=True)

    def __call__(
        self,
        z: Int[Array, "n nat"] | UInt[Array, "n nat"],
        positions_angstrom: Float[Array, "n nat 3"],
        atom_mask: Bool[Array, "n nat"],
    ) -> Float[Array, " n"]:
        """The target of each molecule of a padded batch; of no atoms it is 0."""
        distances, pairs = pair_distances(positions_angstrom, atom_mask)
        basis = gaussian_basis(distances, self.cutoff_angstrom, self.basis_size)
        basis = jnp.where(pairs[..., None], basis, 0.0)
        reach = jnp.where(pairs, cosine_cutoff(distances, self.cutoff_angstrom), 0.0)
        dtype = self.interactions[0].into_filters.weight.dtype
        atoms = jnp.where(atom_mask[..., None], self.embedding[z], 0.0).astype(dtype)
        for interaction in self.interactions:
            atoms = atoms + interaction(atoms, basis.astype(dtype), reach.astype(dtype))
        first, second = self.readout
        hidden = jax.nn.silu(apply_linear(first, atoms.astype(self.embedding.dtype)))
        values = jnp.where(atom_mask, apply_linear(second, hidden)[..., 0], 0.0)
        total = values.sum(-1)
        return total if self.aggregation == "sum" else total / jnp.maximum(atom_mask.sum(-1), 1)


def pair_distances(
    positions_angstrom: Float[Array, "n nat 3"], atom_mask: Bool[Array, "n nat"]
) -> tuple[Float[Array, "n nat nat"], Bool[Array, "n nat nat"]]:
    """Distances, Angstrom, and which of them are between two different atoms; others are 0."""
    nat = positions_angstrom.shape[1]
    pairs = atom_mask[:, :, None] & atom_mask[:, None, :] & ~jnp.eye(nat, dtype=bool)
    away = positions_angstrom[:, None] - positions_angstrom[:, :, None]
    squared = jnp.where(pairs, (away**2).sum(-1), 1.0)
    # The root of 0 has no gradient, so it isn't taken.
    return jnp.where(pairs, lax.sqrt(squared), 0.0), pairs


def _aggregation(target: Target) -> Literal["sum", "mean"]:
    if target not in SCALARS:
        raise InputError(f"the SchNet in JAX has one number a molecule, and {target} is none")
    return "sum" if target == "energy" else "mean"


def build_schnet(config: TrainConfig, target: Target, seed: int) -> SchNet:
    """An untrained network with weights drawn as schnetpack draws them.

    Matrices are Xavier-uniform, biases 0, the embedding normal.

    Raises
    ------
    InputError
        PaiNN is asked for, neighbours are limited, or the target is a vector.
    """
    rng = np.random.default_rng(seed)

    def drawn(shape: tuple[int, ...]) -> Float[Array, "..."]:
        if len(shape) == 1:
            return jnp.zeros(shape)
        limit = np.sqrt(6 / sum(shape))
        return jnp.asarray(rng.uniform(-limit, limit, shape), jnp.float32)

    shapes = _shapes(config, target)
    embedding = rng.normal(size=shapes.embedding.shape)
    embedding[0] = 0  # padding
    network: SchNet = jax.tree.map(lambda leaf: drawn(leaf.shape), shapes)
    return eqx.tree_at(
        lambda network: network.embedding, network, jnp.asarray(embedding, jnp.float32)
    )


def _shapes(config: TrainConfig, target: Target) -> SchNet:
    """The network with the shapes of its weights in their place."""
    if config.representation != "schnet" or config.max_neighbors is not None:
        raise InputError("the network in JAX is SchNet with all neighbours within the cutoff")
    aggregation = _aggregation(target)
    features, filters = config.n_atom_basis, config.n_filters or config.n_atom_basis
    hidden = max(1, features // 2)

    def make(key: Key[Array, ""]) -> SchNet:
        linear = partial(eqx.nn.Linear, key=key)
        interactions = tuple(
            Interaction(
                linear(features, filters, use_bias=False),
                (linear(config.n_rbf, filters), linear(filters, filters)),
                (linear(filters, features), linear(features, features)),
            )
            for _ in range(config.n_interactions)
        )
        return SchNet(
            jnp.zeros((MAX_ATOMIC_NUMBER + 1, features)),
            interactions,
            (linear(features, hidden), linear(hidden, 1)),
            config.cutoff_angstrom,
            config.n_rbf,
            aggregation,
        )

    shapes: SchNet = eqx.filter_eval_shape(make, jax.random.key(0))
    return shapes


def from_schnetpack(model: PropertyModel, target: Target) -> SchNet:
    """The same network with the weights of one of `qmgen train`.

    Raises
    ------
    InputError
        It is no SchNet with all neighbours, or has not learnt this target.
    """
    if target not in model.heads:
        raise InputError(f"the model has not learnt {target}, but {', '.join(model.heads)}")
    shapes = _shapes(model.config, target)
    source: Any = model.representation
    outnet: Any = model.heads[target].outnet
    representation = [source.embedding.weight]
    for block in source.interactions:
        representation.append(block.in2f.weight)
        for layer in (*block.filter_network, *block.f2out):
            representation += [layer.weight, layer.bias]
    head = [w for layer in outnet for w in (layer.weight, layer.bias)]
    leaves, structure = jax.tree.flatten(shapes)
    weights = [_as_array(weight) for weight in (*representation, *head)]
    weights[0] = weights[0][: MAX_ATOMIC_NUMBER + 1]
    if [w.shape for w in weights] != [leaf.shape for leaf in leaves]:
        raise InputError("the model's weights have other shapes than its configuration says")
    network: SchNet = jax.tree.unflatten(structure, weights)
    return network


def _as_array(weight: torch.Tensor) -> Float[Array, "..."]:
    return jnp.asarray(weight.detach().cpu().numpy())
