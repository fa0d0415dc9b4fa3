"""The differentiable energy against forces, finite differences, and itself in other orders."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.dft.config import DFTConfig
from qmgen.dft.energy import density_function, energy_function
from qmgen.dft.forces import nuclear_forces
from qmgen.dft.label import label_conformers
from qmgen.dft.precision import double_precision
from qmgen.errors import UnsupportedMoleculeError
from tests.dft.systems import embed

# The smallest molecule whose density is not given by symmetry; positions in Bohr.
HEH = np.array([2, 1], np.int32), np.array([[0.0, 0.1, 0.0], [0.2, 0.0, 1.5]])
STEP = 2e-4


@pytest.fixture(scope="module")
def heh_energy() -> Callable[[jax.Array], jax.Array]:
    config = DFTConfig(functional="b3lyp", basis="sto-3g", grid_level=0)
    return energy_function(HEH[0], config, charge=1)


def displaced(positions: np.ndarray) -> tuple[np.ndarray, jax.Array, jax.Array]:
    direction = np.random.default_rng(6).normal(size=positions.shape)
    return (
        direction,
        jnp.asarray(positions + STEP * direction),
        jnp.asarray(positions - STEP * direction),
    )


# Its Hessian compiles for minutes.
@pytest.mark.slow
@pytest.mark.parametrize("functional", ["hf", "b3lyp"])
def test_derivatives_of_water(functional: str) -> None:
    z, positions, _ = embed("O")
    config = DFTConfig(functional=functional, basis="sto-3g", grid_level=0, conv_tol=1e-13)
    energy = energy_function(z, config)
    labels = label_conformers(z, positions, config)
    forces = nuclear_forces(z, positions, config, labels, grid_response=True)
    value_and_gradient = jax.jit(jax.value_and_grad(energy))
    value, gradient = value_and_gradient(jnp.asarray(positions[0]))
    # Convergence of both densities.
    assert float(value) == pytest.approx(labels.energy[0], abs=1e-9)
    assert np.abs(gradient + forces[0]).max() < 1e-7

    hessian = np.asarray(jax.jit(jax.jacfwd(jax.grad(energy)))(jnp.asarray(positions[0])))
    matrix = hessian.reshape(9, 9)
    # The coupled-perturbed equations are solved to 1e-10 of their right-hand side.
    assert np.abs(matrix - matrix.T).max() < 1e-7
    direction, ahead, behind = displaced(positions[0])
    slope = (value_and_gradient(ahead)[1] - value_and_gradient(behind)[1]) / (2 * STEP)
    # Error of central differences: step^2 / 6 times a fourth derivative of about 10.
    np.testing.assert_allclose(matrix @ direction.ravel(), slope.ravel(), atol=1e-5)


# Compiles a program for each order.
@pytest.mark.slow
def test_transforms_compose_in_any_order(heh_energy: Callable[[jax.Array], jax.Array]) -> None:
    _, ahead, behind = displaced(HEH[1])
    two = jnp.stack([ahead, behind])
    gradient = jax.jit(jax.grad(heh_energy))
    expected = jnp.stack([gradient(x) for x in two])
    orders = {
        "jit(vmap(grad))": jax.jit(jax.vmap(jax.grad(heh_energy)))(two),
        "vmap(jit(grad))": jax.vmap(jax.jit(jax.grad(heh_energy)))(two),
        "jit(grad(sum vmap))": jax.jit(jax.grad(lambda x: jnp.sum(jax.vmap(heh_energy)(x))))(two),
        "grad(sum vmap jit)": jax.grad(lambda x: jnp.sum(jax.vmap(jax.jit(heh_energy))(x)))(two),
    }
    for order, found in orders.items():
        # Rounding: fused programs sum in another order.
        np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=order)


# Its second derivative compiles long; densities of the same molecule are quick.
@pytest.mark.slow
def test_derivatives_of_a_gas_cation(heh_energy: Callable[[jax.Array], jax.Array]) -> None:
    direction, ahead, behind = displaced(HEH[1])
    energy, gradient = jax.jit(heh_energy), jax.jit(jax.grad(heh_energy))
    where = jnp.asarray(HEH[1])
    slope = (energy(ahead) - energy(behind)) / (2 * STEP)
    # Errors of central differences as above.
    assert float(jnp.sum(gradient(where) * direction)) == pytest.approx(float(slope), abs=1e-5)
    _, along = jax.jvp(gradient, (where,), (jnp.asarray(direction),))
    np.testing.assert_allclose(along, (gradient(ahead) - gradient(behind)) / (2 * STEP), atol=1e-5)


def test_density_responds_to_positions() -> None:
    config = DFTConfig(functional="hf", basis="sto-3g")
    density = jax.jit(density_function(HEH[0], config, charge=1))
    direction, ahead, behind = displaced(HEH[1])
    where = jnp.asarray(HEH[1])
    _, along = jax.jvp(density, (where,), (jnp.asarray(direction),))
    expected = (density(ahead) - density(behind)) / (2 * STEP)
    assert np.abs(expected).max() > 0.01
    # Errors of central differences as above.
    np.testing.assert_allclose(along, expected, atol=1e-5)


def test_no_energy_without_convergence() -> None:
    config = DFTConfig(functional="hf", basis="sto-3g", max_cycle=5, conv_tol=1e-30)
    energy = energy_function(HEH[0], config, charge=1)
    value, gradient = jax.jit(jax.value_and_grad(energy))(jnp.asarray(HEH[1]))
    assert np.isnan(value)
    assert np.isnan(gradient).all()


def test_refusals() -> None:
    with pytest.raises(UnsupportedMoleculeError, match="closed shells"):
        energy_function(HEH[0], DFTConfig(), charge=0)
    with pytest.raises(UnsupportedMoleculeError, match="density_fitting"):
        energy_function(HEH[0], DFTConfig(two_electron="density_fitting"), charge=1)
    energy = energy_function(HEH[0], DFTConfig(functional="hf"), charge=1)
    with double_precision(), pytest.raises(TypeError, match="double_precision"):
        energy(jnp.asarray(HEH[1], jnp.float32))
