from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn.functional import conv2d, group_norm, pad, silu

from qmgen.efficiency.networks.efficientnet import (
    B0,
    EFFICIENT,
    HALF_RESOLUTIONS,
    ORIGINAL,
    SCALINGS,
    Architecture,
    EfficientNet,
    MBConv,
    SqueezeExcite,
    Stage,
    Variant,
    efficientnet,
    group_count,
    scaled,
    top_layers,
)
from qmgen.efficiency.networks.flop_count import multiply_accumulates
from qmgen.efficiency.networks.proxy_norm import ProxyNorm
from qmgen.errors import InputError

# Of the released models (torchvision counts the same), norms' gains and biases included.
PARAMETERS = {
    "B0": 5_288_548,
    "B1": 7_794_184,
    "B2": 9_109_994,
    "B3": 12_233_232,
    "B4": 19_341_616,
    "B5": 30_389_784,
    "B6": 43_040_704,
    "B7": 66_347_960,
}
TINY = Architecture(16, (Stage(3, 1, 16, 1, expands=False), Stage(3, 2, 16, 2)), 16)


def size(model: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model))


def shapes(name: str, variant: Variant) -> EfficientNet:
    """The network without numbers."""
    return eqx.filter_eval_shape(lambda k: efficientnet(name, variant, key=k), jax.random.key(0))


def with_numbers(make: Callable[[jax.Array], Any]) -> Any:
    """A module with numbers of NumPy in place of its own, which would take seconds to compile."""
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * random.normal(size=leaf.shape), leaf.dtype),
        eqx.filter_eval_shape(make, jax.random.key(0)),
    )


def images(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        pytest.param(name, count, marks=[] if name in ("B0", "B4") else [pytest.mark.slow])
        for name, count in PARAMETERS.items()
    ],
)
def test_published_parameter_counts(name: str, parameters: int) -> None:
    assert size(shapes(name, ORIGINAL)) == parameters


@pytest.mark.parametrize(
    ("variant", "resolution", "weights", "millions"),
    [
        (ORIGINAL, 224, 5.25e6, 386),
        (EFFICIENT, 224, 5.88e6, 635),
        (EFFICIENT, 160, 5.88e6, 325),
    ],
)
def test_counts_of_both_variants(
    variant: Variant, resolution: int, weights: float, millions: float
) -> None:
    """Against counts of another implementation; weights without norms' parameters."""
    model = shapes("B0", variant)
    image = jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32)
    assert multiply_accumulates(model, image) == pytest.approx(millions * 1e6, rel=0.005)
    names = {"gain", "proxy_shift", "proxy_scale"}
    leaves = jax.tree_util.tree_leaves_with_path(model)
    # Biases of convolutions don't exist, those of linear layers are weights.
    norms = [
        leaf.size
        for path, leaf in leaves
        if path[-1].name in names
        or (path[-1].name == "bias" and path[-2].name in ("activation", "norm"))
    ]
    assert size(model) - sum(norms) == pytest.approx(weights, rel=0.005)


def test_scaling_by_hand() -> None:
    b4 = scaled(B0, SCALINGS["B4"])
    assert (b4.stem, b4.head) == (48, 1792)
    assert [s.channels for s in b4.stages] == [24, 32, 56, 112, 160, 272, 448]
    assert [s.blocks for s in b4.stages] == [2, 4, 4, 6, 6, 8, 2]
    assert scaled(B0, SCALINGS["B0"]) == B0


@pytest.mark.parametrize(("name", "half"), HALF_RESOLUTIONS.items())
def test_half_resolutions(name: str, half: int) -> None:
    full = SCALINGS[name].resolution
    assert full % 32 == half % 32
    assert (half / full) ** 2 == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
    ("channels", "group_size", "groups"), [(64, 16, 4), (64, 1, 64), (64, 64, 1), (8, 16, 1)]
)
def test_group_count(channels: int, group_size: int, groups: int) -> None:
    assert group_count(channels, group_size) == groups


def test_group_count_of_widths_that_are_no_multiple() -> None:
    # 56 channels aren't three groups.
    assert group_count(56, 16) == 2


def tensor(x: jax.Array) -> torch.Tensor:
    return torch.tensor(np.array(x))


def reference(block: MBConv, x: jax.Array, stride: int) -> torch.Tensor:
    """The original block in torch, channels first."""

    def convolve(y: torch.Tensor, weight: jax.Array, stride: int = 1) -> torch.Tensor:
        kernel = tensor(weight).permute(3, 2, 0, 1)
        # As TensorFlow pads: the odd one comes after.
        total = max((-(-y.shape[-1] // stride) - 1) * stride + kernel.shape[-1] - y.shape[-1], 0)
        y = pad(y, (total // 2, total - total // 2) * 2)
        return conv2d(y, kernel, stride=stride, groups=y.shape[1] // kernel.shape[1])

    def norm(y: torch.Tensor, of: Any) -> torch.Tensor:
        return group_norm(y, 4, tensor(of.gain), tensor(of.bias))

    def linear(y: torch.Tensor, of: Any) -> torch.Tensor:
        return torch.nn.functional.linear(y, tensor(of.weight[0]), tensor(of.bias))

    given = tensor(x).permute(0, 3, 1, 2)
    y = silu(norm(convolve(given, block.expand.weight), block.expand_activation.activation))
    y = silu(norm(convolve(y, block.spatial.weight, stride), block.activation.activation))
    squeezed = silu(linear(y.mean((2, 3)), block.squeeze_excite.reduce))
    y = y * torch.sigmoid(linear(squeezed, block.squeeze_excite.expand))[..., None, None]
    y = norm(convolve(y, block.project.weight), block.norm)
    return given + y if block.residual else y


@pytest.mark.parametrize(
    ("stride", "outputs"), [(1, 8), pytest.param(2, 12, marks=pytest.mark.slow)]
)
def test_original_block_is_that_of_torch(stride: int, outputs: int) -> None:
    stage = Stage(3, stride, outputs, 1)
    # Gains and biases are other than at first, so that each matters.
    block = with_numbers(lambda k: MBConv(8, stage, stride, ORIGINAL, key=k, dense=False))
    x = images(2, 6, 6, 8)
    y = np.moveaxis(np.asarray(eqx.filter_jit(block)(x)), -1, 1)
    assert block.residual == (stride == 1)
    np.testing.assert_allclose(y, reference(block, x, stride), rtol=1e-4, atol=1e-4)


def test_group_sizes_at_both_ends() -> None:
    """Groups of one channel are depthwise, one group is a dense convolution."""
    stage = Stage(3, 1, 8, 1)
    for group_size, inputs in ((1, 1), (10_000, 32)):
        variant = Variant(group_size, 4, 1, True)
        block = with_numbers(lambda k, v=variant: MBConv(8, stage, 1, v, key=k, dense=False))
        spatial = block.spatial
        assert spatial.weight.shape == (3, 3, inputs, 32)
        x = images(2, 5, 5, 32)
        expected = conv2d(
            tensor(x).permute(0, 3, 1, 2),
            tensor(spatial.weight).permute(3, 2, 0, 1),
            padding=1,
            groups=32 // inputs,
        )
        y = np.moveaxis(np.asarray(spatial(x)), -1, 1)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_variants_differ_in_norms_only_where_they_should() -> None:
    efficient, original = (
        eqx.filter_eval_shape(
            lambda k, v=v: EfficientNet(TINY, v, 5, key=k, channels=1), jax.random.key(0)
        )
        for v in (EFFICIENT, ORIGINAL)
    )
    assert isinstance(efficient.head_activation.activation, ProxyNorm)
    assert efficient.blocks[0].norm.bias is None
    assert original.blocks[0].norm.bias is not None
    # Squeeze-excite is plain in both.
    assert isinstance(efficient.blocks[1].squeeze_excite, SqueezeExcite)
    assert not [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(efficient.blocks[1].squeeze_excite)
        if path[-1].name == "proxy_shift"
    ]


@pytest.fixture(scope="module")
def tiny() -> EfficientNet:
    return with_numbers(lambda key: EfficientNet(TINY, EFFICIENT, 5, key=key, channels=1))


def test_outputs_do_not_depend_on_the_batch(tiny: EfficientNet) -> None:
    x = images(3, 8, 8, 1)
    call = eqx.filter_jit(tiny)
    first, again = call(x), call(x.at[1:].set(3 * x[1:] + 1))
    assert first.shape == (3, 5)
    np.testing.assert_allclose(first[0], again[0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(first[1], again[1])


def test_fine_tuning_leaves_all_but_the_top(tiny: EfficientNet) -> None:
    def moved(blocks: int) -> set[str]:
        trained, frozen = eqx.partition(tiny, top_layers(tiny, blocks))
        updates = jax.tree.map(jnp.ones_like, trained)
        new = eqx.combine(optax.apply_updates(trained, updates), frozen)
        pairs = zip(
            jax.tree_util.tree_leaves_with_path(tiny), jax.tree_util.tree_leaves(new), strict=True
        )
        names = {
            jax.tree_util.keystr(path[:2])
            for (path, old), leaf in pairs
            if not np.array_equal(old, leaf)
        }
        return {name.split(".weight")[0].split(".bias")[0] for name in names}

    top = {".head", ".head_activation.activation", ".classifier"}
    assert moved(0) == top
    assert moved(2) == top | {".blocks[1]", ".blocks[2]"}
    with pytest.raises(InputError, match="network of 3"):
        top_layers(tiny, 4)


def test_names() -> None:
    with pytest.raises(InputError, match="B0, B1"):
        efficientnet("B8", key=jax.random.key(0))


@pytest.mark.slow
def test_trains_at_half_the_pixels_and_on_to_all() -> None:
    """Bright corners: learnt from small images, and adapted to large ones by the top alone."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 128)
    large = random.normal(size=(128, 16, 16, 1)).astype(np.float32)
    for image, label in zip(large, labels, strict=True):
        image[8 * (label // 2) :, :][:8, 8 * (label % 2) :][:, :8] += 1
    small = jax.image.resize(jnp.asarray(large), (128, 12, 12, 1), "linear")

    optimiser = optax.adam(0.01)

    @eqx.filter_jit
    def step(parameters: Any, frozen: Any, state: Any, x: jax.Array) -> tuple[Any, Any]:
        def loss(parameters: Any) -> jax.Array:
            logits = eqx.combine(parameters, frozen)(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimiser.update(eqx.filter_grad(loss)(parameters), state)
        return optax.apply_updates(parameters, updates), state

    def fit(model: EfficientNet, trained: Any, x: jax.Array) -> EfficientNet:
        parameters, frozen = eqx.partition(model, trained)
        state = optimiser.init(parameters)
        for _ in range(40):
            parameters, state = step(parameters, frozen, state, x)
        return eqx.combine(parameters, frozen)

    def accuracy(model: EfficientNet, x: jax.Array) -> float:
        return float(np.mean(np.argmax(eqx.filter_jit(model)(x), -1) == labels))

    make = lambda key: EfficientNet(TINY, EFFICIENT, 4, key=key, channels=1, dense=True)  # noqa: E731
    model = eqx.filter_jit(make)(jax.random.key(0))
    model = fit(model, eqx.is_inexact_array, small)
    assert accuracy(model, small) > 0.9
    before = accuracy(model, jnp.asarray(large))
    model = fit(model, top_layers(model), jnp.asarray(large))
    assert accuracy(model, jnp.asarray(large)) > max(before, 0.9)
