"""What rounding costs: processor time as a ratio to what isn't rounded, in one process.

Casts are against XLA's own conversion to float8_e4m3fn and back, products and their gradients
against those of float32. Run as `make benchmark-efficiency`.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.reporting import table
from qmgen.efficiency import formats, unit_scaling
from qmgen.efficiency import unit_scaled_nonlinear as nonlinear
from qmgen.efficiency.fp4_training import MXFP4_BEST, NVFP4_RECIPE
from qmgen.efficiency.fp8_linear import FP8_AMAX
from qmgen.efficiency.hadamard import random_signs, rotate
from qmgen.efficiency.mxnorm import mxnorm
from qmgen.efficiency.quantise import fake_quantise
from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul
from qmgen.efficiency.stable_spam import stable_spam


def milliseconds(
    function: Callable[..., Any],
    *arguments: Any,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Least processor time, or by another clock, of ten calls after one that compiles."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    taken = []
    for _ in range(10):
        start = clock()
        jax.block_until_ready(compiled(*arguments))
        taken.append(clock() - start)
    return 1e3 * min(taken)


def compare(title: str, cases: dict[str, float]) -> None:
    base = next(iter(cases.values()))
    rows = [[name, f"{took:.2f}", f"{took / base:.1f}"] for name, took in cases.items()]
    table([title, "ms", "ratio"], rows)


def main() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1024, 1024)), jnp.float32)
    native = milliseconds(lambda v: v.astype(jnp.float8_e4m3fn).astype(jnp.float32), x)
    casts = {"XLA's conversion to float8_e4m3fn": native}
    for name in ("FP8_E4M3", "INT8_ABSMAX", "MXFP8", "MXFP4", "NVFP4", "NF4_ABSMAX"):
        format = getattr(formats, name)
        casts[name] = milliseconds(lambda v, f=format: fake_quantise(v, f), x)
    stochastic = formats.MXFP4.with_rounding("stochastic")
    key = jax.random.key(0)
    casts["MXFP4, stochastic"] = milliseconds(lambda v: fake_quantise(v, stochastic, key), x)
    compare("cast of 2^20 numbers and back", casts)

    def rms_norm(v: jax.Array) -> jax.Array:
        return v * jax.lax.rsqrt(jnp.mean(v**2, -1, keepdims=True))

    compare(
        "normalisation of 1024 rows of 1024, cast to MXFP8",
        {
            "RMSNorm, then a cast": milliseconds(
                lambda v: fake_quantise(rms_norm(v), formats.MXFP8), x
            ),
            "MXNorm": milliseconds(mxnorm, x),
        },
    )
    a, b = x[:512], x[:, :512]

    def step(f: MatmulFormats) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]]:
        return jax.grad(lambda a, b: jnp.sum(quantised_matmul(a, b, f, key) ** 2), (0, 1))

    mx = MatmulFormats(formats.MXFP4, formats.MXFP4, formats.MXFP4)
    products = {
        "float32": milliseconds(step(MatmulFormats()), a, b),
        "FP8-AMAX": milliseconds(step(FP8_AMAX), a, b),
        "MXFP4": milliseconds(step(mx), a, b),
    }
    for name, recipe in (("MXFP4, rotated, stochastic", MXFP4_BEST), ("NVFP4", NVFP4_RECIPE)):
        products[name] = milliseconds(step(recipe.formats()), a, b)
    compare("a product of 512 x 1024 x 512 and its gradients", products)

    def gradients(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
        return jax.grad(lambda *v: jnp.sum(function(*v) ** 2), (0, 1))

    compare(
        "a linear layer of 1024 x 1024 x 512, GELU, and its gradients",
        {
            "standard": milliseconds(gradients(lambda v, w: jax.nn.gelu(v @ w)), x, b),
            "unit-scaled": milliseconds(
                gradients(lambda v, w: nonlinear.gelu(unit_scaling.linear(v, w.T))), x, b
            ),
        },
    )
    signs = random_signs(key, 16)
    compare(
        "2^20 numbers",
        {
            "copied": milliseconds(lambda v: v * 1.5, x),
            "rotated in blocks of 16": milliseconds(lambda v: rotate(v, signs), x),
        },
    )

    def update(optimiser: optax.GradientTransformation) -> float:
        state = optimiser.init(x)
        return milliseconds(lambda g, s, p: optimiser.update(g, s, p)[0], x, state, x)

    compare(
        "an optimiser's step of 2^20 weights",
        {"Adam": update(optax.adam(1e-3)), "StableSPAM": update(stable_spam(1e-3))},
    )


if __name__ == "__main__":
    main()
