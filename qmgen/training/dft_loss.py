"""The Kohn-Sham energy of what a network predicts, as a loss that needs no labels.

A network gives a Hamiltonian, a density matrix, or orbital coefficients of a conformer, over
Löwdin's orbitals. Occupied orbitals that are valid by construction are made of it
(`qmgen.dft.orbital_projection`), and their energy is the loss: an upper bound of the
self-consistent energy, with which it agrees where the prediction is self-consistent. Mathiasen et
al., "Training on DFT with backpropagation" (2024), train on the energy in this way, after one more
SCF cycle, which is not needed for orthonormal orbitals.

For JAX networks `energy_of_prediction` is a function to differentiate, map and compile. For torch
networks `kohn_sham_energy` is one of tensors; arrays pass between the two through DLPack.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import torch
from jaxtyping import Array, Float
from torch.autograd.function import once_differentiable

from qmgen.dft.kohn_sham_problem import KohnShamProblem, energy_of_orbitals
from qmgen.dft.orbital_projection import (
    Orbitals,
    orbitals_of_coefficients,
    orbitals_of_density,
    orbitals_of_hamiltonian,
)
from qmgen.dft.precision import double_precision
from qmgen.dft.shared_programs import shared_program

Kind = Literal["hamiltonian", "density", "coefficients"]
"""What a prediction is."""


def orbitals_of_prediction(
    kind: Kind, problem: KohnShamProblem, prediction: Float[Array, "nao n"]
) -> Orbitals:
    """Occupied orbitals that a prediction stands for, float64.

    Parameters
    ----------
    kind
        What the prediction is.
    problem
        Of one conformer.
    prediction
        Over Löwdin's orbitals: a Hamiltonian (Hartree) or density matrix, (nao, nao), of which the
        symmetric part counts; or coefficients, (nao, nslot), of which the occupied columns count.
    """
    prediction = prediction.astype(jnp.float64)
    if kind == "coefficients":
        return orbitals_of_coefficients(prediction, problem.noccupied)
    orbitals = orbitals_of_density if kind == "density" else orbitals_of_hamiltonian
    return orbitals(prediction, problem.nslot, problem.noccupied, problem.real_orbital)


def energy_of_prediction(
    kind: Kind, problem: KohnShamProblem, prediction: Float[Array, "nao n"]
) -> Float[Array, ""]:
    """Total energy of a prediction, Hartree; differentiable by the prediction.

    Call it and its transforms within `qmgen.dft.precision.double_precision`. It is of one
    conformer; `jax.vmap` over problem and prediction gives that of a batch of one shape.

    Parameters
    ----------
    kind, problem, prediction
        As of `orbitals_of_prediction`.
    """
    return energy_of_orbitals(problem, orbitals_of_prediction(kind, problem, prediction))


@shared_program(static_argnums=0)
def _energy_and_slope(
    kind: Kind, problem: KohnShamProblem, prediction: Float[Array, "nao n"]
) -> tuple[Float[Array, ""], Float[Array, "nao n"]]:
    return jax.value_and_grad(partial(energy_of_prediction, kind, problem))(prediction)


class _KohnShamEnergy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        kind: Kind,
        problems: Sequence[KohnShamProblem],
        *predictions: torch.Tensor,
    ) -> torch.Tensor:
        with double_precision():
            # All are started before the first is waited for.
            results = [
                _energy_and_slope(kind, problem, to_jax(prediction))
                for problem, prediction in zip(problems, predictions, strict=True)
            ]
            ctx.slopes = [to_torch(slope) for _, slope in results]  # type: ignore[attr-defined]
            return torch.stack([to_torch(energy) for energy, _ in results])

    @staticmethod
    @once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, cotangent: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        slopes = ctx.slopes  # type: ignore[attr-defined]
        return (
            None,
            None,
            *(c.to(s.dtype) * s for c, s in zip(cotangent, slopes, strict=True)),
        )


def kohn_sham_energy(
    kind: Kind, problems: Sequence[KohnShamProblem], predictions: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Total energies of the predictions for a batch of conformers; differentiable once.

    Energies and derivatives are computed together, in JAX, in the forward pass: one Fock build and
    for matrices one diagonalisation each.

    Parameters
    ----------
    kind
        What the predictions are, as of `orbitals_of_prediction`.
    problems
        Of the conformers, which may have different shapes.
    predictions : sequence of Tensor
        One for each problem, float32 or float64, contiguous or not. They may lack rows, and
        Hamiltonians and densities columns, of orbitals that are padding.

    Returns
    -------
    Tensor
        (nconf,) float64, Hartree.
    """
    padded = [
        _padded(kind, problem, prediction)
        for problem, prediction in zip(problems, predictions, strict=True)
    ]
    return _KohnShamEnergy.apply(kind, problems, *padded)


def _padded(kind: Kind, problem: KohnShamProblem, prediction: torch.Tensor) -> torch.Tensor:
    nao = problem.orthogonaliser.shape[-1]
    columns = problem.nslot if kind == "coefficients" else nao
    more = (0, columns - prediction.shape[1], 0, nao - prediction.shape[0])
    return torch.nn.functional.pad(prediction, more) if any(more) else prediction


def to_jax(tensor: torch.Tensor) -> Array:
    """The same numbers as a JAX array, in the same memory where the tensor is contiguous."""
    return jnp.from_dlpack(tensor.detach().contiguous())


def to_torch(array: Array) -> torch.Tensor:
    """The same numbers in the same memory as a tensor, which must not be written to."""
    return torch.from_dlpack(array.block_until_ready())
