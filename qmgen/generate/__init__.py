"""Runs: from a file of molecules to a finished dataset, on Dask, resumable."""

from qmgen.generate.append import AppendSummary as AppendSummary
from qmgen.generate.append import append_molecules as append_molecules
from qmgen.generate.append_labels import append_labels as append_labels
from qmgen.generate.config import RunConfig as RunConfig
from qmgen.generate.config import load_config as load_config
from qmgen.generate.estimate import Estimate as Estimate
from qmgen.generate.estimate import estimate_run as estimate_run
from qmgen.generate.merge import MergeSummary as MergeSummary
from qmgen.generate.merge import merge as merge
from qmgen.generate.progress import Progress as Progress
from qmgen.generate.repair import RepairSummary as RepairSummary
from qmgen.generate.repair import repair as repair
from qmgen.generate.run import RunSummary as RunSummary
from qmgen.generate.run import generate as generate
from qmgen.generate.validate import Tolerances as Tolerances
from qmgen.generate.validate import validate as validate
