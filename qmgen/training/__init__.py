"""Networks trained on a dataset, and their predictions; torch is used only here."""

from qmgen.training import _backend as _backend  # isort: skip  # reports a missing extra

from qmgen.training.ase_atoms import iter_atoms as iter_atoms
from qmgen.training.batches import pyg_batch as pyg_batch
from qmgen.training.batches import schnetpack_batch as schnetpack_batch
from qmgen.training.batches import tensor_batch as tensor_batch
from qmgen.training.calculator import ModelCalculator as ModelCalculator
from qmgen.training.checkpoint import load_model as load_model
from qmgen.training.config import TrainConfig as TrainConfig
from qmgen.training.config import load_train_config as load_train_config
from qmgen.training.data import ConformerDataModule as ConformerDataModule
from qmgen.training.data import ConformerDataset as ConformerDataset
from qmgen.training.data import ConformerStream as ConformerStream
from qmgen.training.evaluation import GroupErrors as GroupErrors
from qmgen.training.evaluation import evaluate as evaluate
from qmgen.training.evaluation import write_evaluation as write_evaluation
from qmgen.training.export_ase import export_ase_database as export_ase_database
from qmgen.training.export_ase import export_extxyz as export_extxyz
from qmgen.training.model import PropertyModel as PropertyModel
from qmgen.training.model import build_model as build_model
from qmgen.training.prediction import predict as predict
from qmgen.training.prediction_files import FilePredictions as FilePredictions
from qmgen.training.prediction_files import PredictionRow as PredictionRow
from qmgen.training.prediction_files import predict_file as predict_file
from qmgen.training.prediction_table import PredictionSummary as PredictionSummary
from qmgen.training.prediction_table import write_predictions as write_predictions
from qmgen.training.result import SplitSize as SplitSize
from qmgen.training.result import TargetErrors as TargetErrors
from qmgen.training.result import TrainResult as TrainResult
from qmgen.training.scaling_law import ScalingPoint as ScalingPoint
from qmgen.training.scaling_law import scaling_law as scaling_law
from qmgen.training.selection import Selection as Selection
from qmgen.training.selection import select_rows as select_rows
from qmgen.training.standardise import Scaling as Scaling
from qmgen.training.standardise import Standardisation as Standardisation
from qmgen.training.standardise import fit_standardisation as fit_standardisation
from qmgen.training.stream import BatchStream as BatchStream
from qmgen.training.subset import training_subset as training_subset
from qmgen.training.targets import TARGETS as TARGETS
from qmgen.training.task import PropertyTask as PropertyTask
from qmgen.training.train import train_model as train_model
