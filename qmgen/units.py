"""Conversion factors between atomic units and the units used at qmgen's edges.

Inside qmgen every quantity is in atomic units (Hartree, Bohr, elementary charge). Values are
CODATA 2018, full digits; PySCF uses the same Bohr radius, so that geometries agree to rounding.
"""

ANGSTROM_PER_BOHR = 0.529177210903
BOHR_PER_ANGSTROM = 1.0 / ANGSTROM_PER_BOHR
EV_PER_HARTREE = 27.211386245988
MILLIHARTREE_PER_HARTREE = 1e3
DEBYE_PER_ATOMIC_UNIT = 2.541746473

# Units of the published QM1B files, which were made with rounded constants.
QM1B_EV_PER_HARTREE = 27.2114
