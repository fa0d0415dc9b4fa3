from dataclasses import replace

import numpy as np
import pytest

from qmgen.dataset import CONFORMER, check_record, empty_conformers
from qmgen.errors import InputError


def _changed(record, **fields):
    return replace(record, conformers={**record.conformers, **fields})


def test_realistic_records_pass(make_records):
    for record in make_records(20):
        check_record(record)


def test_empty_conformers_fit_the_schema(make_records):
    record = make_records(1)[0]
    for nconf in (0, 3):
        conformers = empty_conformers(record.z.size, record.nao, nconf)
        conformers["index"][:] = np.arange(nconf)
        assert set(conformers) == set(CONFORMER)
        check_record(replace(record, conformers=conformers))


@pytest.mark.parametrize("name", CONFORMER)
def test_wrong_type_or_shape_of_any_field_is_named(make_records, name):
    record = make_records(1, nconf=2)[0]
    values = record.conformers[name]
    with pytest.raises(InputError, match=name):
        check_record(_changed(record, **{name: values.astype(np.complex64)}))
    with pytest.raises(InputError, match=f"{name}|index"):
        check_record(_changed(record, **{name: values[..., None]}))


def test_missing_and_unknown_fields_are_named(make_records):
    record = make_records(1, nconf=2)[0]
    conformers = {k: v for k, v in record.conformers.items() if k != "dipole"}
    with pytest.raises(InputError, match=r"missing fields \['dipole'\], unknown fields \['force"):
        check_record(replace(record, conformers={**conformers, "forces": np.zeros(2)}))


def test_bad_values_are_refused(make_records):
    record = make_records(1, nconf=2)[0]
    with pytest.raises(InputError, match="atomic numbers"):
        check_record(replace(record, z=np.zeros_like(record.z)))
    with pytest.raises(InputError, match="non-empty"):
        check_record(replace(record, z=record.z[:0]))
    with pytest.raises(InputError, match="ascend"):
        check_record(_changed(record, index=np.array([4, 4], dtype=np.int32)))
    nan = np.full(2, np.nan)
    with pytest.raises(InputError, match="energy of a converged"):
        check_record(_changed(record, energy=nan, converged=np.ones(2, dtype=bool)))
    check_record(_changed(record, energy=nan, converged=np.zeros(2, dtype=bool)))
