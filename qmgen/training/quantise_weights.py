"""A trained network with its weights in a number format, and what that does to its errors.

Tensors with one axis (biases) stay as they are, and so do the embeddings of elements that the
network has not learnt; neither counts.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64

from qmgen.dataset import Dataset
from qmgen.efficiency.bit_allocation import mean_of_squares
from qmgen.efficiency.weight_formats import WeightFormat
from qmgen.errors import InputError
from qmgen.training.data import ConformerDataset
from qmgen.training.inputs import Inputs, collate, label_key, make_loader
from qmgen.training.model import PropertyModel
from qmgen.training.neighbors import NeighborList
from qmgen.training.selection import select_rows
from qmgen.training.splits import split_codes
from qmgen.training.targets import Target

Tensors = dict[str, Float[np.ndarray, "..."]]
Errors = dict[Target, Float64[np.ndarray, " n"]]


@dataclass(frozen=True, eq=False)
class QuantisedModel:
    """A model whose weights a format can hold.

    Attributes
    ----------
    model : PropertyModel
        With the rounded values as float32.
    weights : dict of str to array
        These values, of what was rounded.
    bits_per_weight : float
        Bits of all that was rounded over its numbers, scales and the like included.
    """

    model: PropertyModel
    weights: Tensors
    bits_per_weight: float


def weight_tensors(model: PropertyModel) -> Tensors:
    """Weights that are to be rounded, by name: tensors of two axes or more.

    Of embeddings only the rows of elements that were learnt.
    """
    return {
        # Not a view, which would change with the model.
        name: np.array(parameter.detach().cpu().numpy()[_rows(model, name)])
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1
    }


def quantise_weights(
    model: PropertyModel, format: WeightFormat, bits: Mapping[str, float]
) -> QuantisedModel:
    """Round each tensor of a model; the model itself stays as it is.

    Parameters
    ----------
    model : PropertyModel
        From `load_model`.
    format : WeightFormat
        Format.
    bits : mapping of str to float
        Bits an element of each tensor that `weight_tensors` gives.

    Raises
    ------
    InputError
        The format can't have so many bits, or a tensor's are missing.
    """
    tensors = weight_tensors(model)
    if missing := sorted(set(tensors) - set(bits)):
        raise InputError(f"no bits are given for {', '.join(missing)}")
    values, total = {}, 0.0
    for name, tensor in tensors.items():
        values[name], taken = format.apply(tensor, bits[name])
        total += taken
    size = sum(tensor.size for tensor in tensors.values())
    return QuantisedModel(with_weights(model, values), values, total / size)


def with_weights(
    model: PropertyModel, tensors: Mapping[str, Float32[np.ndarray, "..."]]
) -> PropertyModel:
    """A copy of a model with other values of what `weight_tensors` gives."""
    changed = copy.deepcopy(model)
    parameters = dict(changed.named_parameters())
    with torch.no_grad():
        for name, values in tensors.items():
            rows = _rows(model, name)
            # JAX's arrays can't be written to, which torch wants of what it takes over.
            parameters[name].data[rows] = torch.from_numpy(np.array(values)).to(parameters[name])
    return changed


def split_structures(model: PropertyModel, dataset: Dataset, split: str) -> ConformerDataset:
    """The conformers of a split that the model can be tested on, with labels in its units.

    Raises
    ------
    InputError
        There are none, or the store lacks a label of the model.
    """
    codes = split_codes(dataset, model.config.split)
    elements = model.standardisation.elements
    selection = select_rows(dataset, split, model.targets, elements, codes)
    return ConformerDataset(
        dataset, selection, model.standardisation, NeighborList.of(model.config)
    )


def batches_of(structures: ConformerDataset, batch_size: int = 64) -> list[Inputs]:
    """All structures in batches, to be used more than once."""
    return list(make_loader(structures, batch_size))


def standardised_errors(model: PropertyModel, batches: Sequence[Inputs]) -> Errors:
    """Prediction less label of all components, in the targets' units of spread."""
    parts: dict[Target, list[np.ndarray]] = {target: [] for target in model.targets}
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            with torch.no_grad():
                outputs = model(batch)
            for target in model.targets:
                error = outputs[target].detach() - batch[label_key(target)]
                parts[target].append(error.numpy().astype(np.float64).ravel())
    finally:
        model.train(was_training)
    return {target: np.concatenate(found) for target, found in parts.items()}


def mean_absolute_errors(model: PropertyModel, errors: Errors) -> dict[Target, float]:
    """Mean of `standardised_errors` of each target in its unit; of vectors, over all components."""
    scales = model.standardisation
    return {target: float(np.abs(e).mean()) * scales[target].scale for target, e in errors.items()}


def spreads(errors: Errors) -> dict[Target, float]:
    """RMS of `standardised_errors`: how far labels lie from the model's output.

    What a model of normally distributed labels needs besides its output.
    """
    return {target: float(np.sqrt(np.mean(e**2))) for target, e in errors.items()}


def total_kl(errors: Errors, changed: Errors, spread: Mapping[Target, float]) -> float:
    """KL divergence of a changed model from a model, nats over all that they were tested on.

    Both are taken to say that labels are normally distributed around their outputs; the arguments
    are their `standardised_errors`, which differ as the outputs do.
    """
    return sum(
        float(np.sum((changed[target] - e) ** 2)) / (2 * spread[target] ** 2)
        for target, e in errors.items()
    )


def weight_fisher(
    model: PropertyModel,
    structures: Iterable[Inputs],
    spread: Mapping[Target, float],
    seed: int = 0,
) -> Tensors:
    """Diagonal of the Fisher information of the weights, what one structure tells on average.

    The model is taken to say that labels are normally distributed around its outputs. Labels are
    drawn from that, one for each output.

    Parameters
    ----------
    model : PropertyModel
        On the CPU.
    structures : iterable of dict
        One structure each, such as those of a part of the training split; labels aren't read.
    spread : mapping of str to float
        Standard deviation of the labels of each target, from `spreads`.
    seed : int
        Of the drawn labels.

    Returns
    -------
    dict of str to array
        As `weight_tensors`.

    Raises
    ------
    InputError
        There are no structures.
    """
    names = list(weight_tensors(model))
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    # Forces can be differentiated then; nothing else differs in these networks.
    model.train()

    def gradients() -> Iterator[Tensors]:
        for structure in structures:
            outputs = model(collate([structure]))
            losses = []
            for target in model.targets:
                noise = torch.randn(outputs[target].shape, generator=generator)
                label = outputs[target].detach() + spread[target] * noise
                losses.append(((label - outputs[target]) / spread[target]).square().sum() / 2)
            found = torch.autograd.grad(
                torch.stack(losses).sum(), [parameters[name] for name in names], allow_unused=True
            )
            yield {
                name: torch.zeros_like(parameters[name]).numpy()[_rows(model, name)]
                if gradient is None
                else gradient.numpy()[_rows(model, name)]
                for name, gradient in zip(names, found, strict=True)
            }

    try:
        return mean_of_squares(gradients())
    finally:
        model.train(was_training)


def _rows(model: PropertyModel, name: str) -> slice | list[int]:
    """Rows of a tensor that matter."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, torch.nn.Embedding):
        return list(model.standardisation.elements)
    return slice(None)
