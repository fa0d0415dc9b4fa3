"""From features of atoms to a Hamiltonian's blocks that turn as orbitals do.

Blocks of a pair of atoms are tensors of definite degree and parity (`BlockTensors`). Tensors of
each pair are made of the spherical harmonics of its direction and of what is known beforehand: the
blocks of matrices of the guess. They are scaled with functions of scalars, summed over an atom's
neighbours, and coupled between the two atoms of a pair; none of this depends on the coordinates'
axes. Unke et al., "SE(3)-equivariant prediction of molecular wavefunctions and electronic
densities" (NeurIPS 2021), and Yu et al., "Efficient and equivariant graph networks for predicting
quantum Hamiltonian" (ICML 2023), build blocks from tensors in like ways; Qiao et al., "OrbNet"
(J. Chem. Phys. 153, 124111, 2020), take matrices of a cheap calculation for features.
"""

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Float, Int
from schnetpack.nn import CosineCutoff, GaussianRBF

from qmgen.training.hamiltonian.orbital_layout import (
    Key,
    OrbitalSlots,
    block_tensors,
    spherical_harmonics,
)

Tensors = dict[Key, Float[torch.Tensor, "..."]]
"""Tensors of each degree and parity, (n, channel, component)."""

# Higher tensors take part in sums, not in products, of which there are many.
_HIGHEST_PRODUCT = 2
# A network that has learnt nothing must leave the guess nearly as it is.
_FIRST_SCALE = 1e-2


def _name(key: Key) -> str:
    return f"{key[0]}{'e' if key[1] > 0 else 'o'}"


class _Mix(torch.nn.Module):
    """A linear map of channels for each degree and parity."""

    def __init__(self, n_in: dict[Key, int], n_out: dict[Key, int]) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterDict(
            {
                _name(key): torch.nn.Parameter(
                    torch.randn(n_in[key], n_out[key]) / n_in[key] ** 0.5
                )
                for key in n_out
            }
        )

    def forward(self, tensors: Tensors) -> Tensors:
        return {
            key: torch.einsum("pcm,cd->pdm", values, self.weights[_name(key)])
            for key, values in tensors.items()
            if _name(key) in self.weights
        }


class _Product(torch.nn.Module):
    """Tensor product of like channels of two sets of tensors, with a weight for each path."""

    def __init__(self, keys: list[Key], n_channels: int) -> None:
        super().__init__()
        self.paths: list[tuple[Key, Key, Key]] = []
        low = [key for key in keys if key[0] <= _HIGHEST_PRODUCT]
        for one in low:
            for other in low:
                for key in keys:
                    allowed = abs(one[0] - other[0]) <= key[0] <= one[0] + other[0]
                    if allowed and one[1] * other[1] == key[1]:
                        self.paths.append((one, other, key))
        number = {key: sum(path[2] == key for path in self.paths) for key in keys}
        for n, (one, other, key) in enumerate(self.paths):
            w = o3.wigner_3j(one[0], other[0], key[0], dtype=torch.float64)
            # Products of independent components of variance one have variance one.
            w = w * np.sqrt((2 * key[0] + 1) / number[key])
            self.register_buffer(f"w{n}", w.reshape(-1, 2 * key[0] + 1).float(), persistent=False)
        self.weights = torch.nn.Parameter(torch.randn(len(self.paths), n_channels))

    def forward(self, left: Tensors, right: Tensors) -> Tensors:
        result: Tensors = {}
        for n, (one, other, key) in enumerate(self.paths):
            outer = (left[one] * self.weights[n, :, None])[..., :, None] * right[other][
                ..., None, :
            ]
            term = outer.flatten(-2) @ getattr(self, f"w{n}")
            result[key] = result[key] + term if key in result else term
        return result


def _mlp(n_in: int, n_hidden: int, n_out: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(n_in, n_hidden),
        torch.nn.SiLU(),
        torch.nn.Linear(n_hidden, n_hidden),
        torch.nn.SiLU(),
        torch.nn.Linear(n_hidden, n_out),
    )


class HamiltonianHead(torch.nn.Module):
    """Blocks of a symmetric correction to the guess' Hamiltonian, Hartree.

    Parameters
    ----------
    n_features : int
        Features of an atom.
    slots : OrbitalSlots
        Slots of an atom.
    n_matrices : int
        Matrices of the guess that blocks are given of.
    n_channels : int
        Tensors of each degree and parity of a pair.
    n_rbf : int
        Gaussians that expand a distance.
    cutoff_angstrom : float
        Atoms farther apart don't count for each other's surroundings, Angstrom.
    """

    def __init__(
        self,
        n_features: int,
        slots: OrbitalSlots,
        n_matrices: int,
        n_channels: int,
        n_rbf: int,
        cutoff_angstrom: float,
    ) -> None:
        super().__init__()
        layout = block_tensors(slots)
        self.slots = slots
        self.to_tensors: torch.Tensor
        self.number = layout.number
        self.register_buffer(
            "to_tensors", torch.from_numpy(layout.matrix.T.copy()).float(), persistent=False
        )
        self.n_channels = n_channels
        keys = list(layout.number)
        self.natural = [key for key in keys if key[1] == (-1) ** key[0]]
        n_given = {key: n * n_matrices for key, n in layout.number.items()}
        same = dict.fromkeys(keys, n_channels)
        self.expand = GaussianRBF(n_rbf=n_rbf, cutoff=cutoff_angstrom)
        self.reach = CosineCutoff(cutoff_angstrom)
        # Scalars of a pair, and the norms of its other tensors.
        n_scalars = 2 * n_features + n_rbf + 1 + sum(n_given.values())
        n_gates = n_channels * (2 * len(keys) + len(self.natural))
        self.gates = _mlp(n_scalars, 2 * n_features, n_gates)
        self.mix_given = _Mix(n_given, same)
        n_second = 2 * n_channels * len(keys) + 2 * n_features
        self.second_gates = _mlp(n_second, 2 * n_features, n_channels * 2 * len(keys))
        self.mix_pair, self.mix_row, self.mix_column, self.mix_product = (
            _Mix(same, same) for _ in range(4)
        )
        self.product = _Product(keys, n_channels)
        self.mix_out = _Mix(same, layout.number)

    def forward(
        self,
        features: Float[torch.Tensor, "atom feature"],
        vectors_angstrom: Float[torch.Tensor, "pair 3"],
        row_atom: Int[torch.Tensor, " pair"],
        column_atom: Int[torch.Tensor, " pair"],
        given: Float[torch.Tensor, "pair matrix slot slot"],
    ) -> Float[torch.Tensor, "pair slot slot"]:
        """Give the block of each pair of atoms of a molecule, (i, j) as well as (j, i) and (i, i).

        Blocks of (i, j) and (j, i) are not yet each other's transpose: symmetrise the matrix.
        """
        distance = torch.linalg.vector_norm(vectors_angstrom, dim=1)
        same_atom = row_atom == column_atom
        tensors = self._given_tensors(given)
        scalars = [
            features[row_atom],
            features[column_atom],
            self.expand(distance),
            same_atom[:, None].to(features.dtype),
            *(_sizes(values) for values in tensors.values()),
        ]
        gates = self.gates(torch.cat(scalars, dim=1)).unflatten(1, (-1, self.n_channels, 1))
        mixed = self.mix_given(tensors)
        keys = list(self.number)
        pair = {key: mixed[key] * gates[:, n] for n, key in enumerate(keys)}
        apart = (~same_atom)[:, None].to(features.dtype)
        for n, key in enumerate(self.natural, len(keys)):
            # An atom has no direction to itself, and the harmonics of none are not zero.
            Y = spherical_harmonics(key[0], vectors_angstrom) * (1.0 if key[0] == 0 else apart)
            pair[key] = pair[key] + gates[:, n] * Y[:, None]
        weights = self.reach(distance)[:, None, None, None] * gates[:, -len(keys) :]
        atom = {
            key: values.new_zeros(len(features), *values.shape[1:]).index_add(
                0, row_atom, weights[:, n] * values
            )
            for n, (key, values) in enumerate(pair.items())
        }
        rows = {key: values[row_atom] for key, values in atom.items()}
        columns = {key: values[column_atom] for key, values in atom.items()}
        second = [_sizes(values) for side in (rows, columns) for values in side.values()]
        second += [features[row_atom], features[column_atom]]
        gates = self.second_gates(torch.cat(second, dim=1)).unflatten(1, (-1, self.n_channels, 1))
        parts = self.mix_pair(pair), self.mix_row(rows), self.mix_column(columns)
        products = self.mix_product(self.product(rows, columns))
        result = {
            key: sum(part[key] for part in parts) * gates[:, n]
            + products[key] * gates[:, len(keys) + n]
            for n, key in enumerate(keys)
        }
        out = self.mix_out(result)
        flat = torch.cat([out[key].flatten(1) for key in keys], dim=1) @ self.to_tensors.T
        return _FIRST_SCALE * flat.unflatten(1, (self.slots.size, self.slots.size))

    def _given_tensors(self, given: Float[torch.Tensor, "pair matrix slot slot"]) -> Tensors:
        flat = given.flatten(2) @ self.to_tensors
        tensors: Tensors = {}
        start = 0
        for (degree, parity), number in self.number.items():
            stop = start + number * (2 * degree + 1)
            part = flat[:, :, start:stop].unflatten(2, (number, 2 * degree + 1))
            tensors[degree, parity] = part.flatten(1, 2)
            start = stop
        return tensors


def _sizes(
    values: Float[torch.Tensor, "n channel component"],
) -> Float[torch.Tensor, "n channel"]:
    """A scalar of each tensor: itself, or its norm, which is smooth where it vanishes."""
    if values.shape[2] == 1:
        return values[:, :, 0]
    return torch.sqrt((values**2).sum(dim=2) + 1e-6)
