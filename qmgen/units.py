"""Conversion factors between atomic units and the units used at qmgen's edges.

Inside qmgen every quantity is in atomic units (Hartree, Bohr, elementary charge). The values are
CODATA 2018, full digits. PySCF's own Angstrom differs from this one in the tenth digit, so qmgen
hands it positions in Bohr.
"""

ANGSTROM_PER_BOHR = 0.529177210903
BOHR_PER_ANGSTROM = 1.0 / ANGSTROM_PER_BOHR
MILLIHARTREE_PER_HARTREE = 1e3
EV_PER_HARTREE = 27.211386245988
DEBYE_PER_ATOMIC_UNIT = 2.541746473
KCAL_PER_MOL_PER_HARTREE = 627.5094740631
