"""The energy as a loss: exact derivatives through JAX and torch, and its minimum."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from qmgen.dft.config import DFTConfig
from qmgen.dft.kohn_sham_problem import KohnShamProblem, kohn_sham_problems
from qmgen.dft.precision import double_precision
from qmgen.training.dft_loss import energy_of_prediction, kohn_sham_energy, to_jax, to_torch
from tests.dft.systems import embed, pyscf_solution

CONFIG = DFTConfig(functional="b3lyp", basis="sto-3g", grid_level=0, precision="float64")
# Benzene and ammonium have degenerate orbitals, among occupied and among empty ones.
MOLECULES = ["O", "C#N", "CO", "[NH4+]", "c1ccccc1", "CC(N)=O", "FC(F)F", "C1CO1", "OC=O", "NN"]
KINDS = ["hamiltonian", "density", "coefficients"]
CASES = [
    pytest.param(
        smiles,
        kind,
        marks=[] if smiles == "O" or (smiles, kind) == ("CC(N)=O", KINDS[0]) else pytest.mark.slow,
    )
    for smiles in MOLECULES
    for kind in KINDS
]
STEP = 3e-4


@pytest.fixture(autouse=True)
def _double():
    with double_precision():
        yield


def problem_of(smiles: str) -> tuple[KohnShamProblem, int]:
    z, positions, charge = embed(smiles)
    (problem,) = kohn_sham_problems(z, positions, CONFIG, charge=charge)
    return problem, int(problem.real_orbital.sum())


def prediction_of(kind: str, problem: KohnShamProblem, nao: int) -> np.ndarray:
    """Something near the guess, so that orbital energies are those of a molecule."""
    noise = np.random.default_rng(1).normal(size=(nao, nao))
    if kind == "hamiltonian":
        return np.asarray(problem.guess)[:nao, :nao] + 0.02 * (noise + noise.T)
    if kind == "density":
        return np.asarray(problem.guess_density)[:nao, :nao] + 0.02 * (noise + noise.T)
    orbitals = np.linalg.eigh(np.asarray(problem.guess)[:nao, :nao])[1]
    return (orbitals + 0.02 * noise)[:, : int(problem.noccupied)]


slope_of = jax.jit(jax.grad(energy_of_prediction, argnums=2), static_argnums=0)


def slope_along(energy: Callable[[float], float]) -> float:
    """Derivative at 0 by central differences of fourth order."""
    return (8 * (energy(STEP) - energy(-STEP)) - energy(2 * STEP) + energy(-2 * STEP)) / (12 * STEP)


@pytest.mark.parametrize(("smiles", "kind"), CASES)
def test_derivative_equals_finite_differences(smiles: str, kind: str) -> None:
    problem, nao = problem_of(smiles)
    prediction = prediction_of(kind, problem, nao)
    direction = np.random.default_rng(2).normal(size=prediction.shape)
    if kind != "coefficients":
        direction += direction.T

    def energy(step: float) -> float:
        moved = torch.from_numpy(prediction + step * direction)
        return float(kohn_sham_energy(kind, [problem], [moved])[0])

    expected = slope_along(energy)
    through_torch = torch.from_numpy(prediction).requires_grad_()
    kohn_sham_energy(kind, [problem], [through_torch]).sum().backward()
    assert through_torch.grad is not None
    size, columns = problem.guess.shape[0], prediction.shape[1]
    full = problem.nslot if kind == "coefficients" else size
    padded = np.pad(prediction, ((0, size - nao), (0, full - columns)))
    through_jax = slope_of(kind, problem, jnp.asarray(padded))
    for slope in (through_torch.grad.numpy(), np.asarray(through_jax)[:nao, :columns]):
        # The bar of the loss. Central differences leave 1e-8 of it by step^4, rounding 1e-7.
        assert np.sum(slope * direction) == pytest.approx(expected, rel=1e-6)


def test_the_energy_is_an_upper_bound_that_is_reached() -> None:
    """Optimising over one conformer gives the self-consistent energy of PySCF."""
    z, positions, _ = embed("CO")
    problem, nao = problem_of("CO")
    start = prediction_of("coefficients", problem, nao)
    Z = jnp.pad(
        jnp.asarray(start),
        ((0, problem.guess.shape[0] - nao), (0, problem.nslot - start.shape[1])),
    )
    optimiser = optax.lbfgs()

    def loss(Z: jax.Array) -> jax.Array:
        return energy_of_prediction("coefficients", problem, Z)

    @jax.jit
    def step(Z: jax.Array, state: optax.OptState) -> tuple[jax.Array, optax.OptState, jax.Array]:
        value, slope = optax.value_and_grad_from_state(loss)(Z, state=state)
        updates, state = optimiser.update(slope, state, Z, value=value, grad=slope, value_fn=loss)
        return optax.apply_updates(Z, updates), state, value

    reference = pyscf_solution(z, positions[0], CONFIG, 0).e_tot
    state = optimiser.init(Z)
    values = []
    for _ in range(40):
        Z, state, value = step(Z, state)
        values.append(float(value))
    # The bar of the loss; PySCF's energy is converged to 1e-10.
    assert values[-1] == pytest.approx(reference, abs=1e-6)
    assert min(values) > reference - 1e-8
    assert values[0] > reference + 1e-2


def test_an_equinox_network_learns_from_the_energy_alone() -> None:
    problem, _ = problem_of("O")
    network = eqx.nn.MLP(in_size=8, out_size=8, width_size=16, depth=1, key=jax.random.key(0))
    optimiser = optax.adam(3e-3)
    state = optimiser.init(eqx.filter(network, eqx.is_array))

    @eqx.filter_jit
    def step(
        network: eqx.nn.MLP, state: optax.OptState
    ) -> tuple[eqx.nn.MLP, optax.OptState, jax.Array]:
        def loss(network: eqx.nn.MLP) -> jax.Array:
            correction = jax.vmap(network)(problem.guess)
            return energy_of_prediction("hamiltonian", problem, problem.guess + correction)

        value, slope = eqx.filter_value_and_grad(loss)(network)
        updates, state = optimiser.update(slope, state)
        return eqx.apply_updates(network, updates), state, value

    values = []
    for _ in range(100):
        network, state, value = step(network, state)
        values.append(float(value))
    z, positions, _ = embed("O")
    reference = pyscf_solution(z, positions[0], CONFIG, 0).e_tot
    assert values[-1] - reference < 0.1 * (values[0] - reference)
    assert min(values) > reference - 1e-8


def test_batch_of_different_molecules() -> None:
    """Each gets its own energy, and its own share of the derivative."""
    problems, predictions = [], []
    for smiles in ("O", "CC(N)=O"):
        problem, nao = problem_of(smiles)
        problems.append(problem)
        predictions.append(
            torch.from_numpy(prediction_of("hamiltonian", problem, nao)).requires_grad_()
        )
    energies = kohn_sham_energy("hamiltonian", problems, predictions)
    (energies[0] + 3 * energies[1]).backward()
    for problem, prediction, energy, weight in zip(
        problems, predictions, energies, (1, 3), strict=True
    ):
        alone = prediction.detach().clone().requires_grad_()
        (single,) = kohn_sham_energy("hamiltonian", [problem], [alone])
        single.backward()
        assert energy.item() == single.item()
        torch.testing.assert_close(prediction.grad, weight * alone.grad)


def test_float32_predictions_get_float32_derivatives() -> None:
    problem, nao = problem_of("O")
    prediction = torch.from_numpy(prediction_of("hamiltonian", problem, nao))
    slopes = []
    for dtype in (torch.float64, torch.float32):
        given = prediction.detach().to(dtype).requires_grad_()
        (energy,) = kohn_sham_energy("hamiltonian", [problem], [given])
        assert energy.dtype == torch.float64
        energy.backward()
        assert given.grad is not None
        assert given.grad.dtype == dtype
        slopes.append(given.grad.double())
    # Rounding of elements of up to 20 Hartree to 2^-24, over a gap of 0.1.
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-5)


def test_arrays_pass_without_copies() -> None:
    tensor = torch.randn(64, 64, dtype=torch.float64)
    array = to_jax(tensor)
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()
    assert to_torch(array).data_ptr() == tensor.data_ptr()
