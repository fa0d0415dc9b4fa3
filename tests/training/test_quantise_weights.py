"""Weights of a network in number formats: bits, errors, and what Fisher information tells."""

import numpy as np
import pytest
import torch

from qmgen.dataset import open_dataset
from qmgen.efficiency.bit_allocation import allocate_bits, predicted_kl, sensitivities
from qmgen.efficiency.codebooks import NORMAL
from qmgen.efficiency.weight_formats import (
    codebook_and_outliers,
    codebook_by_block,
    codebook_by_tensor,
    integers_by_channel,
)
from qmgen.errors import InputError
from qmgen.training import evaluate, load_model
from qmgen.training.checkpoint import describe_model, save_model
from qmgen.training.inputs import collate, label_key
from qmgen.training.quantise_weights import (
    batches_of,
    mean_absolute_errors,
    quantise_weights,
    split_structures,
    spreads,
    standardised_errors,
    total_kl,
    weight_fisher,
    weight_tensors,
    with_weights,
)


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained.checkpoint)


@pytest.fixture(scope="module")
def test_split(model, store):
    return split_structures(model, open_dataset(store), "test")


def test_tensors_are_the_matrices_of_what_was_learnt(model) -> None:
    tensors = weight_tensors(model)
    embedding = "representation.embedding.weight"
    learnt = model.standardisation.elements
    np.testing.assert_array_equal(
        tensors[embedding], dict(model.named_parameters())[embedding].detach()[list(learnt)]
    )
    assert all(tensor.ndim == 2 for tensor in tensors.values())
    assert len(tensors) > 10
    changed = with_weights(model, {name: 2 * tensor for name, tensor in tensors.items()})
    for (name, before), (_, after) in zip(
        model.named_parameters(), changed.named_parameters(), strict=True
    ):
        if name == embedding:
            factor = torch.ones(len(before), 1)
            factor[list(learnt)] = 2
        else:
            factor = 2 if name in tensors else 1
        torch.testing.assert_close(after, factor * before, rtol=0, atol=0)


def test_errors_are_those_of_evaluate(model, test_split, store, tmp_path) -> None:
    coarse = quantise_weights(
        model, integers_by_channel(), dict.fromkeys(weight_tensors(model), 4.0)
    )
    batches = batches_of(test_split)
    errors = mean_absolute_errors(model, standardised_errors(coarse.model, batches))
    path = tmp_path / "model.ckpt"
    save_model(path, coarse.model.state_dict(), describe_model(coarse.model, {}))
    (total,) = evaluate(path, store, "molecule").total
    assert errors["gap"] == pytest.approx(total.mae, rel=1e-4)
    whole = mean_absolute_errors(model, standardised_errors(model, batches))["gap"]
    assert errors["gap"] > whole


def test_bits_are_all_counted(model) -> None:
    tensors = weight_tensors(model)
    size = sum(tensor.size for tensor in tensors.values())
    even = dict.fromkeys(tensors, 4.0)
    rounded = quantise_weights(model, codebook_by_tensor(NORMAL), even)
    assert rounded.bits_per_weight == pytest.approx(4 + 16 * len(tensors) / size)
    for name, values in rounded.weights.items():
        assert len(np.unique(values)) <= 16
        change = np.abs(values - tensors[name]).mean()
        assert 0 < change < 0.2 * np.abs(tensors[name]).mean()
    blocks = sum(-(-tensor.size // 128) for tensor in tensors.values())
    by_block = quantise_weights(model, codebook_by_block(NORMAL, 128), even)
    assert by_block.bits_per_weight == pytest.approx(4 + 16 * blocks / size)
    with pytest.raises(InputError, match="whole"):
        quantise_weights(model, codebook_and_outliers(NORMAL), dict.fromkeys(tensors, 4.5))
    with pytest.raises(InputError, match="no bits"):
        quantise_weights(model, codebook_by_tensor(NORMAL), {})


def test_fisher_is_that_of_the_outputs_derivative(model, test_split) -> None:
    # The same structure again and again: F = (d output / d weight)^2 / spread^2.
    structure = test_split[3]
    fisher = weight_fisher(model, [structure] * 200, {"gap": 0.5})
    output = model(collate([structure]))["gap"].sum()
    parameters = dict(model.named_parameters())
    for name in ("heads.gap.outnet.0.weight", "representation.embedding.weight"):
        (derivative,) = torch.autograd.grad(output, parameters[name], retain_graph=True)
        if "embedding" in name:
            derivative = derivative[list(model.standardisation.elements)]
        exact = derivative.numpy().astype(np.float64) ** 2 / 0.25
        # All entries share the drawn labels, so that their ratio is exact.
        ratio = fisher[name][exact > 1e-12] / exact[exact > 1e-12]
        np.testing.assert_allclose(ratio, ratio.flat[0], rtol=2e-3)
        assert ratio.flat[0] == pytest.approx(1, abs=0.3)
    assert not model.training


def test_fisher_predicts_what_rounding_does(model, test_split) -> None:
    batches = batches_of(test_split)
    errors = standardised_errors(model, batches)
    spread = spreads(errors)
    label = np.concatenate([batch[label_key("gap")].numpy() for batch in batches])
    assert 0 < spread["gap"] < label.std()
    structures = [test_split[place] for place in range(len(test_split))]
    fisher = weight_fisher(model, structures, spread)
    tensors = weight_tensors(model)
    generator = np.random.default_rng(0)
    measured, predicted = [], []
    for _ in range(12):
        change = {
            name: (0.003 * x.std() * generator.normal(size=x.shape)).astype(np.float32)
            for name, x in tensors.items()
        }
        changed = with_weights(model, {name: x + change[name] for name, x in tensors.items()})
        measured.append(total_kl(errors, standardised_errors(changed, batches), spread))
        predicted.append(predicted_kl(fisher, change) * len(test_split))
    assert np.mean(predicted) == pytest.approx(np.mean(measured), rel=0.6)
    flat = dict.fromkeys(tensors, 4.0)
    shares = allocate_bits(sensitivities(tensors, fisher), 4.0, whole=True)
    assert len(set(shares.values())) > 1
    kl = {}
    for title, bits in (("flat", flat), ("shares", shares)):
        rounded = quantise_weights(model, integers_by_channel(), bits)
        assert rounded.bits_per_weight <= 6
        kl[title] = total_kl(errors, standardised_errors(rounded.model, batches), spread)
    assert kl["shares"] < kl["flat"]


def test_forces_and_dipoles_have_information_too(force_store) -> None:
    from qmgen.training import TrainConfig, build_model, fit_standardisation, select_rows

    dataset = open_dataset(force_store)
    targets = ("energy", "forces", "dipole")
    config = TrainConfig(
        targets=dict.fromkeys(targets, 1.0), n_atom_basis=8, n_interactions=1, n_rbf=8
    )
    train = select_rows(dataset, "train", targets)
    torch.manual_seed(0)
    model = build_model(config, fit_standardisation(dataset, train, targets))
    structures = split_structures(model, dataset, "val")
    spread = spreads(standardised_errors(model, batches_of(structures)))
    assert set(spread) == set(targets)
    few = [structures[place] for place in range(8)]
    whole = weight_fisher(model, few, spread)
    # Forces alone inform about the filters of distances, too.
    without = weight_fisher(model, few, spread | {"forces": 1e6})
    name = next(n for n in whole if "filter_network" in n)
    assert whole[name].mean() > 1.2 * without[name].mean() > 0
