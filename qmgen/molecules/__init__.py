"""Molecules from files, and their conformers; RDKit is used only here."""

from qmgen.molecules.conformers import ConformerConfig as ConformerConfig
from qmgen.molecules.conformers import conformer_seed as conformer_seed
from qmgen.molecules.conformers import embed_conformers as embed_conformers
from qmgen.molecules.deduplicate import deduplicate as deduplicate
from qmgen.molecules.deduplicate import molecule_key as molecule_key
from qmgen.molecules.depiction import depict as depict
from qmgen.molecules.fingerprints import morgan_fingerprints as morgan_fingerprints
from qmgen.molecules.force_field import mmff94 as mmff94
from qmgen.molecules.fragments import Fragments as Fragments
from qmgen.molecules.fragments import fragments as fragments
from qmgen.molecules.fragments import similar_pairs as similar_pairs
from qmgen.molecules.molecule import Molecule as Molecule
from qmgen.molecules.molecule import RejectedRecord as RejectedRecord
from qmgen.molecules.molecule import unsupported_reason as unsupported_reason
from qmgen.molecules.reader import read_molecules as read_molecules
from qmgen.molecules.rmsd import rmsd_to_conformer as rmsd_to_conformer
from qmgen.molecules.scaffold import scaffold as scaffold
from qmgen.molecules.smiles import constitution as constitution
from qmgen.molecules.smiles import molecule_from_smiles as molecule_from_smiles
from qmgen.molecules.substructure import substructure_test as substructure_test
