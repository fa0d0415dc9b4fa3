"""Networks trained on a dataset, and their predictions; torch is used only here."""

from qmgen.training import _backend as _backend  # isort: skip  # reports a missing extra

from qmgen.training.checkpoint import load_model as load_model
from qmgen.training.config import TrainConfig as TrainConfig
from qmgen.training.data import ConformerDataModule as ConformerDataModule
from qmgen.training.data import ConformerDataset as ConformerDataset
from qmgen.training.data import ConformerStream as ConformerStream
from qmgen.training.model import PropertyModel as PropertyModel
from qmgen.training.model import build_schnet as build_schnet
from qmgen.training.prediction import predict as predict
from qmgen.training.prediction_files import PredictionRow as PredictionRow
from qmgen.training.prediction_files import PredictionSummary as PredictionSummary
from qmgen.training.prediction_files import predict_file as predict_file
from qmgen.training.prediction_files import write_predictions_csv as write_predictions_csv
from qmgen.training.selection import Selection as Selection
from qmgen.training.selection import select_rows as select_rows
from qmgen.training.standardise import Standardisation as Standardisation
from qmgen.training.standardise import fit_standardisation as fit_standardisation
from qmgen.training.task import PropertyTask as PropertyTask
from qmgen.training.train import SplitSize as SplitSize
from qmgen.training.train import TrainResult as TrainResult
from qmgen.training.train import train_model as train_model
