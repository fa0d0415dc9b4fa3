import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from qmgen.efficiency.networks.norms import batch_norm, group_norm, instance_norm, layer_norm
from qmgen.errors import InputError

X = jnp.asarray(2 * np.random.default_rng(0).normal(size=(3, 4, 5, 8)).astype(np.float32) + 1)
# Rounding of float32; values are of size one.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def channels_first(x: jax.Array) -> torch.Tensor:
    return torch.tensor(np.moveaxis(np.array(x), -1, 1))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_is_that_of_torch(groups: int) -> None:
    expected = torch.nn.functional.group_norm(channels_first(X), groups)
    y = group_norm(X, groups, spatial_axes=2)
    np.testing.assert_allclose(channels_first(y), expected, **CLOSE)
    alone = {1: layer_norm, 8: instance_norm}.get(groups)
    if alone is not None:
        np.testing.assert_array_equal(alone(X, 2), y)


def test_layer_norm_without_spatial_axes_is_that_of_each_row() -> None:
    expected = torch.nn.functional.layer_norm(torch.tensor(np.array(X)), (8,))
    np.testing.assert_allclose(layer_norm(X), expected, **CLOSE)


def test_batch_norm_is_that_of_torch() -> None:
    expected = torch.nn.functional.batch_norm(channels_first(X), None, None, training=True)
    np.testing.assert_allclose(channels_first(batch_norm(X)), expected, **CLOSE)


def test_bad_groups() -> None:
    with pytest.raises(InputError, match="3 groups"):
        group_norm(X, 3)
    with pytest.raises(InputError, match="spatial axes"):
        group_norm(X[0, 0, 0], 2, spatial_axes=1)
