"""Networks that predict Hamiltonians, trained on the Kohn-Sham energy itself."""

from qmgen.training.hamiltonian.checkpoint import load_hamiltonian as load_hamiltonian
from qmgen.training.hamiltonian.config import HamiltonianConfig as HamiltonianConfig
from qmgen.training.hamiltonian.config import load_hamiltonian_config as load_hamiltonian_config
from qmgen.training.hamiltonian.evaluation import HamiltonianErrors as HamiltonianErrors
from qmgen.training.hamiltonian.evaluation import evaluate_hamiltonian as evaluate_hamiltonian
from qmgen.training.hamiltonian.guess import NetworkGuess as NetworkGuess
from qmgen.training.hamiltonian.guess import network_guess as network_guess
from qmgen.training.hamiltonian.model import HamiltonianModel as HamiltonianModel
from qmgen.training.hamiltonian.prediction import HamiltonianPrediction as HamiltonianPrediction
from qmgen.training.hamiltonian.prediction import predict_conformers as predict_conformers
from qmgen.training.hamiltonian.train import HamiltonianResult as HamiltonianResult
from qmgen.training.hamiltonian.train import train_hamiltonian as train_hamiltonian
