"""Labels on a grid, entropy-coded: within the bound, smaller, and readable with plain Zarr."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import Crc32cCodec, ZstdCodec

pytest.importorskip("constriction")

from qmgen.dataset.quantised_codec import NAME, UniformGridCodec, decode_chunk, encode_chunk
from qmgen.dataset.rounding import rounded, rounding_step
from qmgen.errors import InputError

BOUND = 1e-5


def positions(count: int = 6000) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=3.0, size=(count, 3))


def write(path: Path, values: np.ndarray, bound: float = BOUND) -> zarr.Array:
    array = zarr.create_array(
        str(path),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(512, *values.shape[1:]),
        shards=(2048, *values.shape[1:]),
        serializer=UniformGridCodec.of_bound(bound),
        compressors=[Crc32cCodec()],
    )
    array[:] = values
    return array


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("c/**/*") if file.is_file())


def test_an_array_comes_back_within_the_bound_and_is_smaller(tmp_path: Path) -> None:
    values = positions()
    values[7, 1], values[5000, 2], values[5001, 0] = np.nan, np.inf, -np.inf
    write(tmp_path / "grid", values)
    back = zarr.open_array(str(tmp_path / "grid"), mode="r")[:]
    np.testing.assert_array_equal(np.isfinite(back), np.isfinite(values))
    np.testing.assert_array_equal(back[~np.isfinite(values)], values[~np.isfinite(values)])
    finite = np.isfinite(values)
    assert np.abs(back[finite] - values[finite]).max() <= BOUND
    # The same numbers as rounding leaves, which Zstd packs less well.
    np.testing.assert_array_equal(back, rounded(values, BOUND))
    plain = zarr.create_array(
        str(tmp_path / "rounded"),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(512, 3),
        shards=(2048, 3),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
    )
    plain[:] = back
    assert size_of(tmp_path / "grid") < 0.8 * size_of(tmp_path / "rounded")


def test_parts_and_growth(tmp_path: Path) -> None:
    values = positions(2000)
    array = write(tmp_path / "grid", values)
    array.resize((3000, 3))
    array[2000:] = values[:1000]
    reopened = zarr.open_array(str(tmp_path / "grid"), mode="r")
    np.testing.assert_array_equal(
        reopened[1990:2010:3, 1], rounded(np.concatenate([values, values])[1990:2010:3, 1], BOUND)
    )


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(max_dims=2, max_side=12),
        elements=st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf, -0.0]),
    ),
    st.floats(1e-9, 1.0),
)
@settings(max_examples=80, deadline=None)
def test_every_number_is_within_the_bound(values: np.ndarray, bound: float) -> None:
    step = rounding_step(bound)
    back = decode_chunk(encode_chunk(values, step), step, values.size).reshape(values.shape)
    np.testing.assert_array_equal(back, rounded(values, bound))


def test_plain_zarr_finds_the_codec(tmp_path: Path) -> None:
    values = positions(100)
    write(tmp_path / "grid", values)
    code = (
        "import sys, zarr\n"
        "array = zarr.open_array(sys.argv[1], mode='r')\n"
        "print(repr(array.metadata.codecs[0].codecs[0]), float(array[3, 1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "grid")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0].startswith("UniformGridCodec")
    assert float(done.stdout.split()[-1]) == rounded(values, BOUND)[3, 1]


def test_float32_and_no_other_types(tmp_path: Path) -> None:
    values = positions(600).astype(np.float32)
    array = write(tmp_path / "grid", values, 1e-3)
    assert np.abs(array[:] - values).max() <= 1e-3
    with pytest.raises(InputError, match="float64"):
        write(tmp_path / "integers", np.arange(600).reshape(200, 3))


def test_bad_steps_numbers_and_bytes() -> None:
    for step in (0.0, -1, np.inf, np.nan):
        with pytest.raises(InputError, match="positive"):
            UniformGridCodec.from_dict({"name": NAME, "configuration": {"step": step}})
    for configuration in ({}, {"step": "a"}, {"step": 1.0, "bound": 2.0}, None):
        with pytest.raises(InputError, match="step alone"):
            UniformGridCodec.from_dict({"name": NAME, "configuration": configuration})
    with pytest.raises(InputError, match="larger bound"):
        encode_chunk(np.array([1e300]), 1e-3)
    data = encode_chunk(np.array([1.0, np.nan]), 0.5)
    for bad in (b"", data[:12], data[:-4]):
        with pytest.raises(InputError, match=r"damaged|cut off"):
            decode_chunk(bad, 0.5, 100)


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_what_fills_a_chunk_up_takes_nothing(fill: float) -> None:
    values = positions(400).ravel() - 200.0
    filled = np.append(values, np.full(200_000, fill))
    coded = encode_chunk(filled, rounding_step(BOUND))
    # One more number far away from the others, and for NaN the kinds.
    assert len(coded) < len(encode_chunk(values, rounding_step(BOUND))) + 700
    np.testing.assert_array_equal(
        decode_chunk(coded, rounding_step(BOUND), len(filled)), rounded(filled, BOUND)
    )
    with pytest.raises(InputError, match="damaged"):
        decode_chunk(coded, rounding_step(BOUND), 10)
