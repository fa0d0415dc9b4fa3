import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.dataset import batch_loader, open_dataset, padded_batches
from qmgen.errors import InputError

COLUMNS = ("z", "pos", "energy", "dipole", "converged")


def test_padded_batches_hold_the_rows_and_zeros(shared_store):
    dataset = open_dataset(shared_store)
    loader = batch_loader(dataset, 9, columns=COLUMNS, seed=1, block_rows=10)
    seen = []
    padded = list(padded_batches(loader, epoch=1, atom_buckets=(4, 8, 12)))
    for batch, expected in zip(padded, loader.batches(epoch=1), strict=True):
        n = len(expected)
        assert batch["pos"].shape[1] == min(
            size for size in (4, 8, 12) if size >= expected.n_atoms.max()
        )
        assert batch["dipole"].shape == (9, 3)
        assert batch.row_mask.tolist() == [True] * n + [False] * (9 - n)
        assert batch.rows[:n].tolist() == expected.rows.tolist()
        assert batch.atom_mask.sum(axis=1).tolist() == [*expected.n_atoms, *[0] * (9 - n)]
        np.testing.assert_array_equal(batch["energy"][:n], expected["energy"])
        for place in range(n):
            row, nat = expected.row(place), expected.n_atoms[place]
            for name in ("z", "pos"):
                np.testing.assert_array_equal(batch[name][place, :nat], row[name])
                assert not batch[name][place, nat:].any()
        seen += batch.rows[batch.row_mask].tolist()
    assert sorted(seen) == dataset.indices().tolist()
    assert not padded[-1].row_mask.all()


def test_jax_compiles_once_a_bucket(shared_store):
    loader = batch_loader(
        open_dataset(shared_store), 4, columns=("z", "pos"), seed=0, block_rows=10
    )
    shapes = []

    @jax.jit
    def radius(pos, mask):
        shapes.append(pos.shape)
        return jnp.where(mask[..., None], pos, 0.0).sum()

    sums = [
        float(radius(batch["pos"], batch.atom_mask))
        for batch in padded_batches(loader, atom_buckets=(8, 12))
    ]
    assert len(sums) == len(loader)
    assert len(shapes) == len(set(shapes)) <= 2
    expected = [batch["pos"].sum() for batch in loader.batches()]
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)  # float32


def test_what_does_not_fit_is_named(shared_store):
    dataset = open_dataset(shared_store)
    with pytest.raises(InputError, match="atoms, more than the largest bucket, 4; add a larger"):
        list(padded_batches(batch_loader(dataset, 9, columns=("z",)), atom_buckets=(2, 4)))
    for name in ("smile", "orbital_energies"):
        with pytest.raises(InputError, match=f"{name} can't be padded"):
            next(padded_batches(batch_loader(dataset, 9, columns=(name,))))
