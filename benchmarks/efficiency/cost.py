"""What rounding costs: processor time as a ratio to what isn't rounded, in one process.

Casts are against XLA's own conversion to float8_e4m3fn and back, products and their gradients
against those of float32. Run as `make benchmark-efficiency`.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from eight_bit_formats import table

from qmgen.efficiency import formats
from qmgen.efficiency.fp8_linear import FP8_AMAX
from qmgen.efficiency.mxnorm import mxnorm
from qmgen.efficiency.quantise import fake_quantise
from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul


def milliseconds(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """Least processor time of ten calls after one that compiles."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    taken = []
    for _ in range(10):
        start = time.process_time()
        jax.block_until_ready(compiled(*arguments))
        taken.append(time.process_time() - start)
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
        return jax.grad(lambda a, b: jnp.sum(quantised_matmul(a, b, f) ** 2), (0, 1))

    mx = MatmulFormats(formats.MXFP4, formats.MXFP4, formats.MXFP4)
    compare(
        "a product of 512 x 1024 x 512 and its gradients",
        {
            "float32": milliseconds(step(MatmulFormats()), a, b),
            "FP8-AMAX": milliseconds(step(FP8_AMAX), a, b),
            "MXFP4": milliseconds(step(mx), a, b),
        },
    )


if __name__ == "__main__":
    main()
