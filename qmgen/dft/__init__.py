"""Batched Kohn-Sham and Hartree-Fock in JAX: geometries in, labels out."""

from qmgen.dft.config import DFTConfig as DFTConfig
from qmgen.dft.conformer_labels import ConformerLabels as ConformerLabels
from qmgen.dft.conformer_labels import SpinLabels as SpinLabels
from qmgen.dft.label import label_conformers as label_conformers
from qmgen.dft.sizes import program_shape as program_shape
