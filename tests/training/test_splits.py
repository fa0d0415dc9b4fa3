import numpy as np
import pytest

from qmgen.dataset import SPLITS, open_dataset
from qmgen.errors import InputError
from qmgen.molecules import scaffold
from qmgen.training import predict_file, train_model
from qmgen.training.splits import blocks_of_split, split_by_scaffold, split_codes
from tests.training.synthetic import molecule

SMILES = [
    *("C" * n for n in range(1, 9)),
    *(f"{'C' * n}C1CC1" for n in range(6)),
    *(f"{'C' * n}C1CCC1" for n in range(3)),
    *("C1CO1", "CC1CO1", "c1ccccc1", "c1ccncc1", "O=C1CC1"),
]


@pytest.fixture(scope="module")
def rings(write):
    """A store of 22 molecules with SMILES of seven scaffolds."""
    records = [molecule(i, nconf=2) for i in range(len(SMILES))]
    return write([_named(r, s) for r, s in zip(records, SMILES, strict=True)], (0.7, 0.15, 0.15))


def _named(record, smile):
    return type(record)(**{**vars(record), "smile": smile})


def test_no_scaffold_is_in_two_splits(rings):
    codes = split_codes(open_dataset(rings), "scaffold")
    found = {}
    for smile, code in zip(SMILES, codes, strict=True):
        found.setdefault(scaffold(smile), set()).add(int(code))
    assert len(found) == 7
    assert all(len(splits) == 1 for splits in found.values())
    assert set(codes) == {0, 1, 2}
    # 70 % of 22 molecules: chains and cyclopropanes, the most frequent ones, and a single ring
    assert (codes == 0).sum() == 8 + 6 + 1
    assert found[""] == {0}
    assert found["C1CC1"] == {0}


def test_the_order_of_molecules_does_not_matter():
    scaffolds = [scaffold(smile) for smile in SMILES]
    expected = split_by_scaffold(scaffolds, (0.7, 0.15, 0.15))
    order = np.random.default_rng(0).permutation(len(SMILES))
    found = split_by_scaffold([scaffolds[i] for i in order], (0.7, 0.15, 0.15))
    np.testing.assert_array_equal(found, expected[order])


def test_shares_are_kept_where_scaffolds_are_small():
    codes = split_by_scaffold([str(i) for i in range(200)], (0.8, 0.1, 0.1))
    assert np.bincount(codes).tolist() == [160, 20, 20]


def test_blocks_have_the_conformers_of_a_split(rings):
    dataset = open_dataset(rings)
    codes = split_codes(dataset, "scaffold")
    rows = []
    for code, split in enumerate(SPLITS):
        for block in blocks_of_split(dataset, split, codes, ("molecule",)):
            assert (codes[block["molecule"]] == code).all()
            rows += block.rows.tolist()
    assert sorted(rows) == list(range(len(dataset)))
    assert split_codes(dataset, "stored") is None
    (stored,) = blocks_of_split(dataset, "val", None, ("split",))
    assert set(stored["split"]) == {"val"}
    with pytest.raises(InputError, match="no split 'tset'"):
        blocks_of_split(dataset, "tset", codes, ("molecule",))


def test_training_and_prediction_keep_to_it(rings, small_config, tmp_path):
    dataset = open_dataset(rings)
    config = small_config.model_copy(update={"split": "scaffold", "epochs": 1})
    result = train_model(rings, tmp_path / "out", config)
    codes = split_codes(dataset, "scaffold")
    assert result.train.molecules == (codes == 0).sum()
    assert result.test.molecules == (codes == 2).sum()
    predicted = {row.smile for row in predict_file(result.checkpoint, rings, split="test")}
    assert predicted == {SMILES[i] for i in np.flatnonzero(codes == 2)}


def test_a_molecule_without_smiles(write):
    path = write([_named(molecule(i), "" if i == 2 else "CC") for i in range(4)])
    with pytest.raises(InputError, match="molecule 2 has no SMILES"):
        split_codes(open_dataset(path), "scaffold")
