"""Formats of qmgen.efficiency against qwix, the JAX library that a user could take instead.

The same numbers in the same format: how many results differ, and processor time as a ratio to
qwix's. The formats of qwix that have another rule than ours by default (integers reach half a step
above the largest, scales of MX round up) are given that rule here. Run as `make benchmark-peers`,
which installs qwix.
"""

import jax.numpy as jnp
import numpy as np
import qwix
from cost import milliseconds

from benchmarks.reporting import table
from qmgen.efficiency.element import E2M1, E4M3FN, E5M2, E8M0, INT4, INT8, NF4
from qmgen.efficiency.formats import Format, ScaleFormat
from qmgen.efficiency.granularity import blocks_along, per_channel
from qmgen.efficiency.quantise import fake_quantise

ROWS = {"channelwise_axes": (0,)}
UP = ScaleFormat(E8M0, rounding="up")
CASES = {
    "E4M3, a scale a row": (
        Format(E4M3FN, ScaleFormat(), per_channel(0)),
        (jnp.float8_e4m3fn, ROWS),
    ),
    "E5M2, a scale a row": (Format(E5M2, ScaleFormat(), per_channel(0)), (jnp.float8_e5m2, ROWS)),
    "INT8, a scale a row": (
        Format(INT8, ScaleFormat(target=127.5), per_channel(0)),
        (jnp.int8, ROWS),
    ),
    "INT4, blocks of 128": (
        Format(INT4, ScaleFormat(target=7.5), blocks_along(128)),
        (jnp.int4, ROWS | {"tiled_axes": {1: 128}}),
    ),
    "NF4, blocks of 64": (
        Format(NF4, ScaleFormat(), blocks_along(64)),
        ("nf4", ROWS | {"tiled_axes": {1: 64}}),
    ),
    "MXFP8, scales rounded up": (
        Format(E4M3FN, UP, blocks_along(32)),
        ("mxfp8", ROWS | {"tiled_axes": {1: 32}}),
    ),
    "MXFP4, scales rounded up": (
        Format(E2M1, UP, blocks_along(32)),
        ("mxfp4", ROWS | {"tiled_axes": {1: 32}}),
    ),
    "E2M1, E4M3 scales of 16": (
        Format(E2M1, ScaleFormat(E4M3FN), blocks_along(16)),
        ("nvfp4", ROWS | {"tiled_axes": {1: 16}}),
    ),
}


def main() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1024, 1024)), jnp.float32)
    rows = []
    for name, (format, (qtype, where)) in CASES.items():

        def ours(v, f=format):
            return fake_quantise(v, f)

        def theirs(v, qtype=qtype, where=where):
            return qwix.dequantize(qwix.quantize(v, qtype, **where))

        mine, peer = np.asarray(ours(x)), np.asarray(theirs(x))
        far = np.abs(mine - peer) > 1e-6 * np.abs(peer)
        took, peers_took = milliseconds(ours, x), milliseconds(theirs, x)
        rows.append(
            [
                name,
                f"{int(far.sum())}",
                f"{np.linalg.norm(mine - x) / np.linalg.norm(x):.5f}",
                f"{np.linalg.norm(peer - x) / np.linalg.norm(x):.5f}",
                f"{took:.1f}",
                f"{took / peers_took:.2f}",
            ]
        )
    title = "2^20 normal numbers"
    table([title, "that differ", "error", "qwix's", "ms", "ratio to qwix's time"], rows)


if __name__ == "__main__":
    main()
