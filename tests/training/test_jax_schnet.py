"""SchNet in JAX against schnetpack's, and trained in few bits."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from qmgen.dataset import batch_loader, open_dataset
from qmgen.efficiency.fp4_training import MXFP4_RECIPE, UE5M3_BEST
from qmgen.efficiency.fp8_linear import FP8_AMAX, quantise_linears, with_keys
from qmgen.efficiency.loss_scaling import BackoffLossScale, ConstantLossScale
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.tensor_statistics import layer_tensors
from qmgen.errors import InputError
from qmgen.training import (
    Scaling,
    Standardisation,
    TrainConfig,
    build_model,
    fit_standardisation,
    select_rows,
)
from qmgen.training.inputs import collate, structure_inputs
from qmgen.training.jax_schnet import SchNet, build_schnet, from_schnetpack
from qmgen.training.jax_train import (
    Molecules,
    absolute_loss,
    molecule_batches,
    predicted_errors,
    train_network,
)
from qmgen.training.neighbors import NeighborList

CONFIG = TrainConfig(
    targets={"energy": 1.0, "gap": 1.0},
    n_atom_basis=16,
    n_filters=12,
    n_interactions=2,
    n_rbf=10,
    cutoff_angstrom=3.0,
    accelerator="cpu",
)
STANDARDISATION = Standardisation(
    {"energy": Scaling(0.0, 1.0, {1: 0.0, 6: 0.0, 8: 0.0}), "gap": Scaling(0.0, 1.0)}, (1, 6, 8)
)


def padded(z, positions, nat):
    numbers = np.zeros((len(z), nat), np.uint8)
    places = np.zeros((len(z), nat, 3), np.float32)
    for row, (element, position) in enumerate(zip(z, positions, strict=True)):
        numbers[row, : len(element)] = element
        places[row, : len(element)] = position
    return numbers, places, numbers > 0


@pytest.fixture(scope="module")
def molecules():
    """Of one to nine atoms, some pairs beyond the cutoff."""
    rng = np.random.default_rng(4)
    z = [rng.choice([1, 6, 8], size) for size in (1, 4, 9, 6)]
    return z, [rng.normal(scale=1.5, size=(len(numbers), 3)) for numbers in z]


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    source = build_model(CONFIG, STANDARDISATION)
    with torch.no_grad():
        for weights in source.parameters():  # biases are drawn as 0
            weights += 0.1 * torch.randn_like(weights)
        source.representation.embedding.weight[0] = 0
    return source.eval(), {target: from_schnetpack(source, target) for target in ("energy", "gap")}


call = eqx.filter_jit(lambda network, *batch: network(*batch))


def test_equal_to_schnetpack(molecules, networks):
    source, copies = networks
    neighbors = NeighborList.of(CONFIG)
    structures = [structure_inputs(z, r, neighbors) for z, r in zip(*molecules, strict=True)]
    with torch.no_grad():
        expected = source(collate(structures))
    batch = padded(*molecules, 9)
    for target, network in copies.items():
        # float32 rounding of sums over some hundred numbers.
        np.testing.assert_allclose(
            call(network, *batch), expected[target].numpy(), rtol=2e-5, atol=2e-5
        )
    with pytest.raises(InputError, match="not learnt homo"):
        from_schnetpack(source, "homo")


def test_invariances(molecules, networks):
    z, positions = molecules
    network = networks[1]["energy"]
    still = np.asarray(call(network, *padded(z, positions, 9)))
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    order = [np.random.default_rng(len(numbers)).permutation(len(numbers)) for numbers in z]
    moved = padded(
        [numbers[o] for numbers, o in zip(z, order, strict=True)],
        [r[o] @ rotation.T + 3.0 for r, o in zip(positions, order, strict=True)],
        9,
    )
    np.testing.assert_allclose(call(network, *moved), still, rtol=1e-5, atol=2e-5)
    # More padding, and a molecule of no atoms.
    wide = call(network, *padded([*z, np.zeros(0)], [*positions, np.zeros((0, 3))], 12))
    np.testing.assert_allclose(wide[:-1], still, rtol=1e-5, atol=1e-5)
    assert wide[-1] == 0
    assert np.ptp(still) > 0.1


def in_float16(model: SchNet, key: jax.Array) -> SchNet:
    halves = jax.tree.map(lambda w: w.astype(jnp.float16), model.interactions)
    return eqx.tree_at(lambda m: m.interactions, model, halves)


def in_formats(formats: MatmulFormats, model: SchNet, key: jax.Array) -> SchNet:
    layers = with_keys(quantise_linears(model.interactions, formats), key)
    return eqx.tree_at(lambda m: m.interactions, model, layers)


@pytest.mark.parametrize(
    ("in_use", "rule"),
    [
        (in_float16, BackoffLossScale(2.0**10)),
        pytest.param(
            partial(in_formats, UE5M3_BEST.formats()), ConstantLossScale(), marks=pytest.mark.slow
        ),
        pytest.param(partial(in_formats, FP8_AMAX), ConstantLossScale(), marks=pytest.mark.slow),
        pytest.param(
            partial(in_formats, MXFP4_RECIPE.formats()), ConstantLossScale(), marks=pytest.mark.slow
        ),
    ],
    ids=["float16", "UE5M3", "FP8", "MXFP4"],
)
def test_steps_lower_the_loss(molecules, networks, in_use, rule):
    z, positions, mask = padded(*molecules, 9)
    batch = Molecules(z, positions, mask, np.float32([1, -1, 0.5, 2]), np.float32([1, 1, 0, 1]))
    model = networks[1]["gap"]
    model = eqx.tree_at(lambda m: m.interactions, model, model.interactions[:1])
    key = jax.random.key(0, impl="rbg")  # compiles fast
    done = train_network(model, [batch] * 12, optax.adam(1e-2), rule, key, in_use)
    assert np.isfinite(done.losses).all()
    assert done.losses[-1] < 0.8 * done.losses[0]
    assert done.skipped_steps == 0
    assert all(w.dtype == np.float32 for w in jax.tree.leaves(done.model))


def test_learns_from_a_store(store):
    dataset = open_dataset(store)
    scaling = fit_standardisation(dataset, select_rows(dataset, "train", ("gap",)), ("gap",))["gap"]
    loader = partial(batch_loader, dataset, 32, columns=("z", "pos", "gap"), labels=("gap",))
    config = CONFIG.model_copy(update={"n_interactions": 1})
    model = build_schnet(config, "gap", 0)
    training = [
        batch
        for epoch in range(8)
        for batch in molecule_batches(loader(split="train", seed=0), "gap", scaling, 8, epoch)
    ]
    done = train_network(model, training, optax.adam(1e-2), ConstantLossScale(), jax.random.key(0))
    test = list(molecule_batches(loader(split="test"), "gap", scaling, 8))
    before, after = (predicted_errors(m, test, scaling) for m in (model, done.model))
    assert len(after) == len(dataset.indices("test"))
    # The labels' spread is what a constant is off by.
    assert np.abs(after).mean() < 0.5 * scaling.scale
    assert np.abs(after).mean() < 0.5 * np.abs(before).mean()
    rows = dataset.batch(dataset.indices("test"), ("gap",))
    labels = np.concatenate([batch.label[batch.weight > 0] for batch in test])
    np.testing.assert_allclose(
        labels * scaling.scale + scaling.mean, rows["gap"] * 27.211386, rtol=1e-5
    )


def test_tensors_of_a_step(molecules, networks):
    batch = Molecules(
        *map(jnp.asarray, (*padded(*molecules, 9), np.zeros(4, np.float32))), jnp.ones(4)
    )
    model = networks[1]["gap"]
    seen = layer_tensors(lambda m: absolute_loss(m, batch), model)
    assert len(seen.weights) == 5 * 2 + 2
    np.testing.assert_array_equal(seen.weights[0], model.interactions[0].filters[0].weight)
    assert seen.activations[0].shape == (4, 9, 9, 10)
    # The gradient of a bias is the sum of those of the layer's outputs.
    gradients = eqx.filter_jit(eqx.filter_grad(absolute_loss))(model, batch)
    bias = gradients.interactions[0].filters[0].bias
    summed = np.asarray(seen.gradients[0]).sum((0, 1, 2))
    np.testing.assert_allclose(summed, bias, rtol=1e-4, atol=1e-6)


def test_what_it_cannot_be():
    for changes, target in (
        ({"representation": "painn", "n_filters": None}, "gap"),
        ({"max_neighbors": 3}, "gap"),
        ({}, "dipole"),
    ):
        with pytest.raises(InputError):
            build_schnet(CONFIG.model_copy(update=changes), target, 0)
