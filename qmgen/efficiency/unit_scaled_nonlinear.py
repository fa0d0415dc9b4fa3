"""Activation functions, softmax and attention of unit variance, and where factors come from.

Blake et al., 2303.11257, find factors by experiment; here those of functions of one number and of
softmax are integrals over normal inputs. Gated SiLU and attention have the closed forms of u-muP,
Blake et al., 2407.17465, which hold for any multiplier.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from qmgen.efficiency.unit_scaling import Constraint, constrained, scale_backward, scale_forward
from qmgen.errors import InputError

Function = Callable[[Array], Array]


@lru_cache
def elementwise_factors(function: Function, multiplier: float = 1.0) -> tuple[float, float]:
    """1 / std of f(a x) / a, and 1 / RMS of its derivative, for normal x and multiplier a.

    Raises
    ------
    InputError
        A function that does not vary, or has no finite variance.
    """
    # No point at 0, where derivatives may jump.
    x = (np.arange(24_000) + 0.5) / 1000 - 12
    weights = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) / 1000
    scaled = (multiplier * x).astype(np.float32)
    with jax.ensure_compile_time_eval():
        done = jax.jvp(function, (scaled,), (np.ones_like(scaled),))
        values, slopes = (np.asarray(v, np.float64) for v in done)
    values /= multiplier
    mean = np.sum(weights * values)
    variance, slope = np.sum(weights * (values - mean) ** 2), np.sum(weights * slopes**2)
    if not (np.isfinite(variance + slope) and variance > 0 and slope > 0):
        raise InputError("this function has no unit-scaled form: its variance is 0 or infinite")
    return float(variance**-0.5), float(slope**-0.5)


def elementwise(
    function: Function,
    x: Float[Array, "*shape"],
    *,
    multiplier: float = 1.0,
    constraint: Constraint = "to_output",
) -> Float[Array, "*shape"]:
    """f(a x) / a with factors by `elementwise_factors`; any function that JAX differentiates.

    Parameters
    ----------
    multiplier
        a: above 1 the function is nearer to its limits, below to a straight line.

    Raises
    ------
    InputError
        Unknown constraint, or a function without such factors.
    """
    factors = elementwise_factors(function, float(multiplier))
    forward, backward = constrained(constraint, *factors)
    return scale_forward(function(scale_backward(x, backward) * multiplier) / multiplier, forward)


# `elementwise` with the function filled in.
gelu = partial(elementwise, partial(jax.nn.gelu, approximate=False))
relu = partial(elementwise, jax.nn.relu)
silu = partial(elementwise, jax.nn.silu)
tanh = partial(elementwise, jnp.tanh)
sigmoid = partial(elementwise, jax.nn.sigmoid)


def interpolated(weight: float, low: float, high: float) -> float:
    """low^(1 - weight) high^weight."""
    return low ** (1 - weight) * high**weight


def gated_silu(
    x: Float[Array, "*shape"], gate: Float[Array, "*shape"], *, multiplier: float = 1.0
) -> Float[Array, "*shape"]:
    """Gate x by g: x g sigmoid(a g), with one factor for the value and both gradients.

    It is between those of g / 2 (a = 0) and of ReLU (a infinite).
    """
    factor = interpolated(multiplier**2 / (multiplier**2 + 1), 2.0, 2**0.5)
    x, gate = scale_backward(x, factor), scale_backward(gate, factor)
    return scale_forward(x * gate * jax.nn.sigmoid(multiplier * gate), factor)


@lru_cache
def softmax_deviations(size: int, multiplier: float = 1.0) -> tuple[float, float]:
    """Standard deviations of softmax(a x) over `size` normal numbers, and of its input gradient.

    Powers of p_1 = e^(a x_1) / S have means E[p_1^k] = int t^(k-1) phi_k phi^(size-1) dt / (k-1)!
    with phi_k(t) = E[e^(k a x) exp(-t e^(a x))], since 1 / S^k is such an integral of exp(-t S).
    The gradient's variance for independent g is a^2 E[p_1^2 - 2 p_1^3 + p_1^2 sum_j p_j^2].
    """
    x, step = np.linspace(-10.0, 10.0, 401, retstep=True)
    density = np.exp(-(x**2) / 2) * step / math.sqrt(2 * math.pi)
    # log t from where all of exp(-t S) is 1 to where the smallest e^(a x) makes it 0.
    low, high = -math.log(size) - 10 * multiplier - 12, 10 * multiplier + 5
    log_t, step_t = np.linspace(low, high, 2001, retstep=True)
    exponents = multiplier * x + log_t[:, None]
    term = np.exp(np.minimum(exponents, 300.0))
    # t^k phi_k, which stays finite, and log phi.
    moments = {k: (np.exp(k * np.minimum(exponents, 300.0) - term) @ density) for k in (2, 3, 4)}
    log_phi = np.log1p(np.maximum(np.expm1(-term) @ density, -1 + 1e-15))
    others, one_less = np.exp((size - 1) * log_phi), np.exp((size - 2) * log_phi)
    second = np.sum(moments[2] * others) * step_t
    third = np.sum(moments[3] * others) * step_t / 2
    fourth = np.sum(moments[4] * others) * step_t / 6
    pair = np.sum(moments[2] ** 2 * one_less) * step_t / 6
    gradient = second - 2 * third + fourth + (size - 1) * pair
    return math.sqrt(second - 1 / size**2), multiplier * math.sqrt(gradient)


def softmax(
    x: Float[Array, "*shape"],
    axis: int = -1,
    *,
    multiplier: float = 1.0,
    constraint: Constraint = "to_output",
) -> Float[Array, "*shape"]:
    """softmax(a x) with the factors 1 / `softmax_deviations`, which grow with the size.

    Raises
    ------
    InputError
        Unknown constraint, or an axis of fewer than two numbers.
    """
    if x.shape[axis] < 2:
        raise InputError("a softmax over fewer than two numbers is constant and has no unit scale")
    deviations = softmax_deviations(x.shape[axis], float(multiplier))
    forward, backward = constrained(constraint, *(1 / value for value in deviations))
    return scale_forward(jax.nn.softmax(scale_backward(x, backward) * multiplier, axis), forward)


def attention_factor(length: int, size: int, causal: bool, multiplier: float = 1.0) -> float:
    """Factor of attention over `length` positions with heads of `size`.

    Between that of a mean over all positions (or all earlier ones) and that of a single one.
    """
    positions = math.log(length) if causal and length > 1 else 1.0
    weight = multiplier**2 / (multiplier**2 + 4 * size)
    return 1 / interpolated(weight, (positions / length) ** 0.5, 1.0)


def attention(
    query: Float[Array, "*batch length heads size"],
    key: Float[Array, "*batch length heads size"],
    value: Float[Array, "*batch length heads size"],
    *,
    is_token: Bool[Array, "*batch length"] | None = None,
    causal: bool = False,
    multiplier: float = 1.0,
) -> Float[Array, "*batch length heads size"]:
    """softmax(a Q K^T / size) V with one factor, `attention_factor`, for value and gradients.

    Logits are over size and not its square root, as queries and keys grow alike (u-muP). Gradients
    of queries and keys are about a size^-1/2: without a cut edge they can't have a factor of their
    own.

    is_token
        Which positions are attended to, all by default. The factor is that of all.
    """
    length, heads, size = query.shape[-3:]
    factor = attention_factor(length, size, causal, multiplier)
    q, k, v = (
        scale_backward(part, factor).reshape(-1, length, heads, size)
        for part in (query, key, value)
    )
    mask = None if is_token is None else is_token.reshape(-1, 1, 1, length)
    mixed = jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=multiplier / size, is_causal=causal
    )
    return scale_forward(mixed.reshape(query.shape), factor)
