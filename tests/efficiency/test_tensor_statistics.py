import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.efficiency import formats
from qmgen.efficiency.element import FLOAT16
from qmgen.efficiency.formats import Format
from qmgen.efficiency.tensor_statistics import range_shares
from qmgen.errors import InputError


def test_shares_of_float16_are_those_of_numpy() -> None:
    x = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    x = x * np.exp2(np.arange(4000, dtype=np.float32) % 60 - 35)
    x[:100] = 0
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    shares = range_shares([jnp.asarray(x)], Format(FLOAT16))
    assert shares.underflow == pytest.approx((half == 0)[100:].mean())
    assert shares.overflow == pytest.approx(np.isinf(half).mean() * 4000 / 3900)
    assert min(shares) > 0.05


def test_scales_follow_and_clip() -> None:
    x = np.full((4, 32), 1.0, np.float32)
    x[:, 0], x[:, 1] = 7.9, 0.2
    # The scale of 1 leaves room for 6, and 0.2 rounds to 0; absmax / 6 clips nothing.
    assert range_shares([jnp.asarray(x)], formats.MXFP4) == (1 / 32, 1 / 32)
    assert range_shares([jnp.asarray(x)], formats.FP4_UE5M3) == (1 / 32, 0)
    mixed = [jnp.asarray(x), jnp.asarray(x[:, 2:18])]
    assert range_shares(mixed, formats.MXFP4) == (4 / 192, 4 / 192)
    with pytest.raises(InputError, match="float"):
        range_shares(mixed, formats.INT8_ABSMAX)
