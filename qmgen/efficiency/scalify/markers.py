"""Primitives that act on data or scale, and so mean something only in a scalified function."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from qmgen.efficiency.scalify.powers import power_of_two_below, product_of_scales
from qmgen.efficiency.scalify.scaled_array import (
    ScaledArray,
    checked,
    is_float,
    root_mean_square,
    wide_dtype,
)
from qmgen.efficiency.scalify.values import Rule, Value, lift
from qmgen.errors import InputError

# What the norm of data is taken for at least, so that all zeros don't change the scale much.
_LEAST_NORM = np.float32(1e-4)

dynamic_rescale_p = Primitive("dynamic_rescale")
saturating_cast_p = Primitive("saturating_cast")


def _largest(x: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.max(jnp.abs(x), initial=0.0).astype(jnp.float32)


def _mean_magnitude(x: Float[Array, "..."]) -> Float[Array, ""]:
    unit = power_of_two_below(_largest(x))
    return jnp.mean(jnp.abs(x) / unit).astype(jnp.float32) * unit


_NORMS = {"max": _largest, "l1": _mean_magnitude, "l2": root_mean_square}


def rescaled(value: ScaledArray, norm: str) -> ScaledArray:
    """Bring the norm of data to between 1 and 2, unless it is 0 or not finite."""
    data = jnp.asarray(value.data).astype(wide_dtype(value.dtype))
    size = jax.lax.stop_gradient(_NORMS[norm](data)) if data.size else _LEAST_NORM
    # The larger of two before or after rounding both down is the same.
    factor = power_of_two_below(jnp.maximum(size, _LEAST_NORM))
    factor = jnp.where(jnp.isfinite(size), factor, 1)
    scale, rest = product_of_scales(value.scale, factor)
    return ScaledArray((data / factor * rest).astype(value.dtype), scale)


def _dynamic_rescale(x: Any, norm: str) -> Any:
    if isinstance(x, ScaledArray):
        return rescaled(checked(x), norm)
    array = jnp.asarray(x)
    if not is_float(array):
        raise InputError(f"only floats are rescaled, not {array.dtype}")
    return dynamic_rescale_p.bind(array, norm=norm)


def dynamic_rescale_max(x: Any) -> Any:
    """Scale data to a largest magnitude between 1 and 2, but by 2^14 at most.

    The value stays the same. A plain array also stays as it is; in a scalified function it is what
    this is done to. Gradients pass as they are. Non-finite data isn't rescaled.

    Raises
    ------
    InputError
        No array of floats.
    """
    return _dynamic_rescale(x, "max")


def dynamic_rescale_l1(x: Any) -> Any:
    """`dynamic_rescale_max` by the mean magnitude."""
    return _dynamic_rescale(x, "l1")


def dynamic_rescale_l2(x: Any) -> Any:
    """`dynamic_rescale_max` by the RMS."""
    return _dynamic_rescale(x, "l2")


@jax.custom_vjp
def rescale_gradient(x: Any) -> Any:
    """Give an array back, and its gradient through `dynamic_rescale_l2`.

    Products in a backward pass multiply data of gradients, which would overflow 16 bits after
    some layers.
    """
    return x


rescale_gradient.defvjp(lambda x: (x, None), lambda _, gradient: (dynamic_rescale_l2(gradient),))


def saturating_cast(x: Float[Array, "*shape"], dtype: np.dtype | type) -> Float[Array, "*shape"]:
    """Cast to a narrower float, where larger numbers become its largest; NaN stays.

    In a scalified function it is data that is cast. The gradient is that of a cast. Rounding is
    XLA's own, which may round twice on a CPU; `qmgen.efficiency.casting` doesn't.

    Raises
    ------
    InputError
        A dtype that isn't a float.
    """
    if not is_float(np.dtype(dtype)):
        raise InputError(f"numbers are cast to a float here, not to {np.dtype(dtype)}")
    return saturating_cast_p.bind(x, dtype=np.dtype(dtype))


def _saturating_cast(x: Array, *, dtype: np.dtype) -> Array:
    largest = float(jnp.finfo(dtype).max)
    wide = jnp.asarray(x).astype(wide_dtype(x.dtype))
    # NaN compares false and stays.
    bounded = jnp.where(wide > largest, largest, jnp.where(wide < -largest, -largest, wide))
    return bounded.astype(dtype)


def _rescale_rule(equation: JaxprEqn, x: Value) -> list[Value]:
    return [rescaled(lift(x), equation.params["norm"])]


def _cast_rule(equation: JaxprEqn, x: Value) -> list[Value]:
    value = lift(x)
    return [ScaledArray(saturating_cast(value.data, **equation.params), value.scale)]


RULES: dict[str, Rule] = {"dynamic_rescale": _rescale_rule, "saturating_cast": _cast_rule}


def _identity(x: Array, *, norm: str) -> Array:
    return x


def _rescale_jvp(primals: Any, tangents: Any, *, norm: str) -> tuple[Any, Any]:
    return dynamic_rescale_p.bind(*primals, norm=norm), tangents[0]


def _cast_transpose(cotangent: Any, x: Any, *, dtype: np.dtype) -> list[Any]:
    return [cotangent if type(cotangent) is ad.Zero else cotangent.astype(x.aval.dtype)]


dynamic_rescale_p.def_impl(_identity)
dynamic_rescale_p.def_abstract_eval(lambda x, *, norm: x)
ad.primitive_jvps[dynamic_rescale_p] = _rescale_jvp
batching.defvectorized(dynamic_rescale_p)
mlir.register_lowering(dynamic_rescale_p, mlir.lower_fun(_identity, multiple_results=False))

saturating_cast_p.def_impl(_saturating_cast)
saturating_cast_p.def_abstract_eval(lambda x, *, dtype: x.update(dtype=dtype, weak_type=False))
ad.deflinear2(saturating_cast_p, _cast_transpose)
batching.defvectorized(saturating_cast_p)
mlir.register_lowering(saturating_cast_p, mlir.lower_fun(_saturating_cast, multiple_results=False))
