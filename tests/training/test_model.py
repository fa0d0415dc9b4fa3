from pathlib import Path

import numpy as np
import pytest
import torch

from qmgen.errors import InputError
from qmgen.training import (
    PropertyTask,
    Scaling,
    Standardisation,
    TrainConfig,
    build_model,
    load_train_config,
    predict,
)
from qmgen.training.inputs import collate, label_key, structure_inputs
from qmgen.training.neighbors import NeighborList

STANDARDISATION = Standardisation(
    {
        "energy": Scaling(0.3, 2.0, {1: -13.0, 6: -1000.0, 8: -2000.0}),
        "forces": Scaling(0.0, 1.7),
        "gap": Scaling(5.0, 1.5),
        "dipole": Scaling(0.0, 0.8),
    },
    (1, 6, 8),
)
WORKFLOW = Path(__file__).parents[2] / "workflows" / "schnet9m.yaml"


def _config(representation, **changes):
    return TrainConfig(
        targets=dict.fromkeys(STANDARDISATION.scalings, 1.0),
        representation=representation,
        n_atom_basis=12,
        n_interactions=2,
        n_rbf=8,
        accelerator="cpu",
        **changes,
    )


def _structures(number=3):
    rng = np.random.default_rng(4)
    z = [rng.choice([1, 6, 8], size) for size in range(4, 4 + number)]
    return z, [rng.normal(scale=1.5, size=(len(numbers), 3)) for numbers in z]


@pytest.mark.parametrize("max_neighbors", [None, 2])
@pytest.mark.parametrize("representation", ["schnet", "painn"])
def test_forces_are_the_gradient_of_the_energy(representation, max_neighbors):
    torch.manual_seed(0)
    model = build_model(_config(representation, max_neighbors=max_neighbors), STANDARDISATION)
    z, x = _structures()
    forces = predict(model.double(), z, x)["forces_ev_per_angstrom"]
    step = 1e-4
    for i in range(len(z)):
        moves = step * np.eye(x[i].size).reshape(-1, *x[i].shape)
        moved = [x[i] + move for move in np.concatenate([moves, -moves])]
        energy_ev = predict(model, [z[i]] * len(moved), moved)["energy_ev"]
        above, below = np.split(energy_ev, 2)
        expected = -(above - below).reshape(x[i].shape) / (2 * step)
        assert np.abs(expected).max() > 1e-2
        # Central differences in float64: truncation and rounding of 4 keV / step.
        np.testing.assert_allclose(forces[i], expected, atol=2e-7)


def test_forces_of_a_model_that_learnt_energies_alone():
    z, x = _structures(1)
    scalings = {"energy": STANDARDISATION["energy"]}
    torch.manual_seed(0)
    config = _config("schnet").model_copy(update={"targets": {"energy": 1.0}})
    model = build_model(config, Standardisation(scalings, (1, 6, 8))).double()
    assert set(predict(model, z, x)) == {"energy_ev"}
    found = predict(model, z, x, forces=True)["forces_ev_per_angstrom"][0]
    moved = x[0].copy()
    moved[1, 2] += 1e-4
    above = predict(model, z, [moved])["energy_ev"][0]
    moved[1, 2] -= 2e-4
    below = predict(model, z, [moved])["energy_ev"][0]
    assert found[1, 2] == pytest.approx(-(above - below) / 2e-4, abs=1e-6)
    gap = build_model(
        config.model_copy(update={"targets": {"gap": 1.0}}),
        Standardisation({"gap": Scaling(0.0, 1.0)}, (1, 6, 8)),
    )
    with pytest.raises(InputError, match="use a model that has learnt energy"):
        predict(gap, z, x, forces=True)


@pytest.mark.parametrize("representation", ["schnet", "painn"])
def test_vectors_turn_with_the_molecule(representation):
    torch.manual_seed(0)
    model = build_model(_config(representation), STANDARDISATION).double()
    z, x = _structures()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    still, turned = predict(model, z, x), predict(model, z, [p @ rotation.T + 7.0 for p in x])
    assert np.abs(still["dipole_debye"]).max() > 0.01
    for key in ("energy_ev", "gap_ev"):
        np.testing.assert_allclose(turned[key], still[key], atol=1e-9)
    np.testing.assert_allclose(
        turned["dipole_debye"], still["dipole_debye"] @ rotation.T, atol=1e-9
    )
    for one, two in zip(
        turned["forces_ev_per_angstrom"], still["forces_ev_per_angstrom"], strict=True
    ):
        np.testing.assert_allclose(one, two @ rotation.T, atol=1e-9)
        np.testing.assert_allclose(one.sum(axis=0), 0.0, atol=1e-9)


def test_force_errors_reach_the_weights():
    # The gradient of a loss of forces by a weight, against a finite difference.
    torch.manual_seed(0)
    model = build_model(_config("schnet"), STANDARDISATION).double().train()
    z, x = _structures()
    neighbors = NeighborList.of(model.config)
    batch = collate(
        [
            structure_inputs(numbers, positions, neighbors, dtype=torch.float64)
            for numbers, positions in zip(z, x, strict=True)
        ]
    )

    def loss():
        return model(batch)["forces"].square().mean()

    loss().backward()
    weight = model.representation.interactions[0].f2out[0].weight
    found = float(weight.grad[0, 0])
    with torch.no_grad():
        weight[0, 0] += 1e-5
        above = float(loss())
        weight[0, 0] -= 2e-5
        below = float(loss())
    assert found == pytest.approx((above - below) / 2e-5, rel=1e-5)
    with torch.no_grad():  # as in validation
        assert not model.eval()(batch)["forces"].requires_grad


def test_schnet9m_is_that_of_the_paper():
    config = load_train_config(WORKFLOW)
    model = build_model(config, Standardisation({"gap": Scaling(0.0, 1.0)}, (1,)))
    count = sum(weights.numel() for weights in model.parameters())
    assert 8e6 < count < 10e6
    assert (config.n_atom_basis, config.n_filters, config.n_interactions) == (1024, 256, 5)
    assert (config.n_rbf, config.max_neighbors, config.cutoff_angstrom) == (200, 28, 15.0)


def test_a_step_of_a_small_schnet9m():
    small = {"n_atom_basis": 16, "n_filters": 8, "n_rbf": 10, "max_neighbors": 3}
    config = load_train_config(WORKFLOW, small)
    torch.manual_seed(0)
    model = build_model(config, Standardisation({"gap": Scaling(0.0, 1.0)}, (1, 6, 8)))
    assert model.representation.interactions[0].in2f.out_features == 8
    task = PropertyTask(model, {})
    settings = task.configure_optimizers()
    optimizer = settings["optimizer"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * 5e-4)
    z, x = _structures()
    batch = collate(
        [
            structure_inputs(numbers, positions, NeighborList.of(config))
            for numbers, positions in zip(z, x, strict=True)
        ]
    )
    batch[label_key("gap")] = torch.tensor([1.0, -1.0, 0.5])
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(task.training_step(batch))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
