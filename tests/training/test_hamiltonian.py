"""Networks of Hamiltonians: symmetries, training on the energy alone, resume, and the guess."""

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from scipy.spatial.transform import Rotation

from qmgen.cli import main
from qmgen.dataset import open_dataset, schema_text
from qmgen.dft import DFTConfig, label_conformers
from qmgen.dft.basis import build_basis
from qmgen.dft.integrals import libcint_one_electron_integrals
from qmgen.errors import ConfigError, InputError, UnsupportedMoleculeError
from qmgen.generate import RunConfig, generate
from qmgen.generate.config import ClusterConfig
from qmgen.molecules import ConformerConfig
from qmgen.training import predict_file
from qmgen.training.checkpoint import load_model
from qmgen.training.hamiltonian import (
    HamiltonianConfig,
    HamiltonianModel,
    load_hamiltonian,
    load_hamiltonian_config,
    network_guess,
    predict_conformers,
    train_hamiltonian,
)
from qmgen.training.hamiltonian.inputs import batch_of, conformers_of, matrix_blocks
from qmgen.training.hamiltonian.orbital_layout import (
    OrbitalSlots,
    block_tensors,
    slot_places,
    slots_of_elements,
    spherical_harmonics,
)
from qmgen.training.neighbors import NeighborList
from qmgen.units import BOHR_PER_ANGSTROM, EV_PER_HARTREE
from tests.dft.systems import embed, pyscf_solution

MOLECULES = "\n".join(["O", "C", "CO", "N", "C#N", "C=O", "NO", "CN", "[CH3]", "X"])


def rotated(positions: np.ndarray) -> np.ndarray:
    turn = Rotation.from_euler("zyx", [0.7, -1.1, 2.3]).as_matrix()
    return positions @ turn.T


def config_of(**changes) -> HamiltonianConfig:
    values = {
        "dft": DFTConfig(functional="b3lyp", basis="sto-3g", grid_level=0, precision="float32"),
        "n_atom_basis": 16,
        "n_interactions": 2,
        "n_rbf": 12,
        "n_channels": 4,
        "epochs": 3,
        "batch_size": 3,
        "visits": 2,
        "window": 4,
        "warmup_steps": 3,
        "learning_rate": 5e-3,
    }
    return HamiltonianConfig(**{**values, **changes})


@pytest.mark.parametrize("shells", [(2, 1), (3, 2, 1), (1, 1, 1, 1)])
def test_blocks_are_tensors(shells: tuple[int, ...]) -> None:
    slots = OrbitalSlots(shells)
    matrix = block_tensors(slots).matrix
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(slots.size**2), atol=1e-12)
    assert sum((2 * L + 1) * n for (L, _), n in block_tensors(slots).number.items()) == len(matrix)


@pytest.mark.parametrize("basis", ["sto-3g", "def2-svp", "cc-pvtz"])
def test_blocks_turn_with_the_molecule(basis: str) -> None:
    """Norms of libcint's blocks by degree stay, and between two atoms they are harmonics."""
    z, positions, _ = embed("C#N")
    slots = slots_of_elements((1, 6, 7), basis)
    molecule = build_basis(z, basis, ())
    places = torch.from_numpy(slot_places(molecule, slots))
    tensors = block_tensors(slots)
    sizes = []
    for place in (positions[0], rotated(positions[0])):
        kinetic = libcint_one_electron_integrals(molecule, place[None]).kinetic
        blocks = matrix_blocks(torch.from_numpy(np.asarray(kinetic)), places, len(z), slots)
        flat = blocks[:, 0].flatten(1).numpy() @ tensors.matrix.T
        start, of_degree = 0, []
        # Atoms 0 and 1: what depends on one direction alone is along its harmonics.
        direction = torch.from_numpy(place[1] - place[0])[None]
        for (degree, parity), number in tensors.number.items():
            part = flat[:, start : start + number * (2 * degree + 1)]
            part = part.reshape(len(flat), number, 2 * degree + 1)
            of_degree.append(np.linalg.norm(part, axis=2))
            pair = part[1]
            if parity == (-1) ** degree:
                Y = spherical_harmonics(degree, direction)[0].numpy()
                along = np.outer(pair @ Y, Y) / (Y @ Y)
                np.testing.assert_allclose(pair, along, atol=1e-10)
            else:
                np.testing.assert_allclose(pair, 0.0, atol=1e-10)
            start += number * (2 * degree + 1)
        sizes.append(np.concatenate(of_degree, axis=1))
    np.testing.assert_allclose(sizes[0], sizes[1], atol=1e-10)


@pytest.mark.parametrize(
    ("representation", "basis"),
    [
        ("schnet", "sto-3g"),
        ("painn", "sto-3g"),
        pytest.param("schnet", "6-31g*", marks=pytest.mark.slow),
        pytest.param("painn", "6-31g*", marks=pytest.mark.slow),
    ],
)
def test_hamiltonians_turn_with_the_molecule(representation: str, basis: str) -> None:
    """Orbital energies stay when the molecule is turned and its atoms change places."""
    z, positions, _ = embed("CO")
    # Quadratures are not invariant; Hartree-Fock has none.
    dft = DFTConfig(functional="hf", basis=basis, precision="float64")
    torch.manual_seed(0)
    model = HamiltonianModel(config_of(dft=dft, representation=representation), (1, 6, 8))
    with torch.no_grad():
        for weights in model.head.mix_out.parameters():
            weights *= 20  # far beyond the guess
    order = np.array([3, 0, 5, 1, 4, 2])
    energies = []
    for numbers, place in (
        (z, positions[0]),
        (z, rotated(positions[0])),
        (z[order], positions[0][order]),
    ):
        conformers = conformers_of(numbers, place[None], dft, model.slots, NeighborList(5.0))
        if not energies:
            model.fit_means(conformers)
        with torch.no_grad():
            (H,) = model.hamiltonians(batch_of(conformers, model.slots))
        guess = np.asarray(conformers[0].energy_problem.guess)[: len(H), : len(H)]
        assert np.abs(H.numpy() - guess).max() > 1e-3
        torch.testing.assert_close(H, H.T, atol=1e-12, rtol=0)
        energies.append(np.linalg.eigvalsh(H.numpy()))
    # float32 of the network, whose inputs are up to 20 Hartree.
    np.testing.assert_allclose(energies[1], energies[0], atol=2e-5)
    np.testing.assert_allclose(energies[2], energies[0], atol=2e-5)


def test_batch_equals_single() -> None:
    config = config_of()
    model = HamiltonianModel(config, (1, 6, 8))
    conformers = []
    for smiles in ("O", "CO"):
        z, positions, _ = embed(smiles)
        conformers += conformers_of(z, positions, config.dft, model.slots, NeighborList(5.0))
    with torch.no_grad():
        together = model(batch_of(conformers, model.slots))
        for conformer, change in zip(conformers, together, strict=True):
            (alone,) = model(batch_of([conformer], model.slots))
            # float32 sums in another order.
            torch.testing.assert_close(alone, change, atol=1e-6, rtol=1e-4)


def test_cartesian_functions_are_refused() -> None:
    slots = slots_of_elements((8,), "6-31g*")
    with pytest.raises(UnsupportedMoleculeError, match="Cartesian"):
        slot_places(build_basis(np.array([8], np.int32), "6-31g*", (2,)), slots)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("molecules") / "small.smi"
    path.write_text(MOLECULES, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    return train_hamiltonian(source, tmp_path_factory.mktemp("run") / "out", config_of())


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_training_lowers_the_energy_without_labels(trained, source) -> None:
    out = trained.checkpoint.parent
    rows = rows_of(out)
    assert len(rows) == 3
    assert float(rows[-1]["train_mha_per_atom"]) < float(rows[0]["train_mha_per_atom"]) - 1
    # Never below the self-consistent energy, but for float32 integrals.
    assert trained.test.energy_mha > -0.05
    assert trained.left_out == 2
    left_out = (out / "left_out.csv").read_text(encoding="utf-8")
    assert "9,[CH3],1 unpaired electrons" in left_out
    assert "10,X" in left_out
    with pytest.raises(InputError, match="exists"):
        train_hamiltonian(source, out, config_of())


def test_the_prediction_is_an_upper_bound_and_a_guess(trained) -> None:
    model = load_hamiltonian(trained.checkpoint)
    z, positions, _ = embed("CO", 2)
    config = model.config.dft.model_copy(update={"precision": "float64"})
    predicted = predict_conformers(model, z, positions)
    for i, place in enumerate(positions):
        reference = pyscf_solution(z, place, config, 0)
        assert predicted.energy[i] > reference.e_tot
        S = reference.mol.intor("int1e_ovlp")
        assert np.trace(predicted.density[i] @ S) == pytest.approx(18, abs=1e-8)
        # PySCF's own energy of that density.
        assert predicted.energy[i] == pytest.approx(
            reference.energy_tot(dm=predicted.density[i]), abs=1e-8
        )
    guess = network_guess(trained.checkpoint, config)
    plain = label_conformers(z, positions[:1], config)
    for options in ({"guess": guess}, {"initial_density": predicted.density[:1]}):
        labels = label_conformers(z, positions[:1], config, **options)
        # The threshold of convergence.
        assert labels.energy[0] == pytest.approx(plain.energy[0], abs=1e-9)
        assert labels.iterations[0] <= plain.iterations[0]


@pytest.mark.slow
def test_a_guess_is_for_its_basis_and_elements(trained) -> None:
    with pytest.raises(ConfigError, match="another basis"):
        network_guess(trained.checkpoint, DFTConfig(basis="6-31g"))
    config = DFTConfig(basis="sto-3g", grid_level=0)
    guess = network_guess(trained.checkpoint, config)
    z, positions, _ = embed("CF")
    # Fluorine is not learnt: superposed atoms take over.
    with_guess = label_conformers(z, positions, config, guess=guess)
    assert with_guess.energy == label_conformers(z, positions, config).energy


# Starts a cluster for each of two runs.
@pytest.mark.slow
def test_generating_from_a_guess(trained, tmp_path) -> None:
    source = tmp_path / "in.smi"
    source.write_text("CO\nC=O\n", encoding="utf-8")
    config = RunConfig(
        conformers=ConformerConfig(per_molecule=1),
        dft=DFTConfig(basis="sto-3g", grid_level=0),
        cluster=ClusterConfig(workers=1),
    )
    guess = network_guess(trained.checkpoint, config.dft)
    generate(source, tmp_path / "guess.zarr", config, guess=guess)
    generate(source, tmp_path / "plain.zarr", config)
    started, plain = (open_dataset(tmp_path / f"{name}.zarr") for name in ("guess", "plain"))
    assert started.metadata.provenance.config["guess"] == guess.identity
    assert started.metadata.provenance.config_hash != plain.metadata.provenance.config_hash
    for i in range(2):
        assert started[i]["energy"] == pytest.approx(plain[i]["energy"], abs=1e-9)


def test_resume_gives_the_same_curve(trained, source, tmp_path, monkeypatch) -> None:
    from qmgen.training.recorder import Recorder

    record = Recorder.on_train_epoch_end

    def killed(self, trainer, pl_module):
        record(self, trainer, pl_module)
        if self.epochs == 1:
            raise RuntimeError("killed")

    monkeypatch.setattr(Recorder, "on_train_epoch_end", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train_hamiltonian(source, tmp_path / "out", config_of())
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="visits was 2, now 3"):
        train_hamiltonian(source, tmp_path / "out", config_of(visits=3))
    again = train_hamiltonian(source, tmp_path / "out", config_of())
    assert rows_of(tmp_path / "out") == rows_of(trained.checkpoint.parent)
    expected = load_hamiltonian(trained.checkpoint).state_dict()
    for name, weights in load_hamiltonian(again.checkpoint).state_dict().items():
        assert torch.equal(weights, expected[name]), name


# Labels come from programs of their own.
@pytest.mark.slow
def test_labelled_training_lowers_the_same_energy(source, tmp_path) -> None:
    config = config_of(loss="fock", fresh_conformers=False, visits=4, epochs=4)
    result = train_hamiltonian(source, tmp_path / "out", config)
    rows = rows_of(tmp_path / "out")
    losses = [float(row["train_loss"]) for row in rows]
    assert losses[-1] < 0.8 * losses[0]
    assert result.test.energy_mha > -0.05


# Its process imports everything anew.
@pytest.mark.slow
def test_worker_processes_change_nothing(trained, source, tmp_path) -> None:
    config = config_of(num_workers=1)
    train_hamiltonian(source, tmp_path / "out", config)
    assert rows_of(tmp_path / "out") == rows_of(trained.checkpoint.parent)


def test_a_model_of_labels_is_told_apart(trained) -> None:
    with pytest.raises(InputError, match="Hamiltonian"):
        load_model(trained.checkpoint)


def test_fresh_conformers_never_repeat(source) -> None:
    from qmgen.training.hamiltonian.data import ConformerProblems
    from qmgen.training.hamiltonian.molecules import read_training_molecules

    config = config_of(conformers=ConformerConfig(per_molecule=2), visits=1)
    molecules = read_training_molecules(source, config)
    slots = slots_of_elements(molecules.elements, "sto-3g")
    runs = []
    for _ in range(2):
        problems = ConformerProblems(molecules.train[:2], config, slots, training=True)
        found = []
        for epoch in range(2):
            problems.epoch.fill_(epoch)
            found += [float(c.energy_problem.hamiltonian.nuclear_repulsion) for c in problems]
        runs.append(found)
    assert len(set(runs[0])) == len(runs[0]) == 8
    assert runs[1] == runs[0]


def test_the_command_trains_without_a_dataset(source, tmp_path, capsys, monkeypatch) -> None:
    settings = tmp_path / "train.yaml"
    settings.write_text(yaml.safe_dump(config_of(epochs=1).model_dump(mode="json")), "utf-8")
    out = tmp_path / "out"

    def qmgen(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["qmgen", "train", str(source), *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, capsys.readouterr().err

    qmgen("--loss", "dft", "--config", str(settings), "--out", str(out), "--seed", "3")
    shown = capsys.readouterr().out
    assert "SCF cycles" in shown
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["seed"] == 3
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8"))["left_out"] == 2
    arguments = ["qmgen", "train", str(source), "--loss", "dft", "--out", "x", "--target", "gap"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "targets" in capsys.readouterr().err


def test_schema_is_current_and_fits_the_workflow() -> None:
    folder = Path(__file__).parents[2]
    text = (folder / "schemas" / "hamiltonian-config.schema.json").read_text(encoding="utf-8")
    assert text == schema_text(HamiltonianConfig), "out of date: make schemas"
    settings = folder / "workflows" / "dft-loss.yaml"
    jsonschema.validate(yaml.safe_load(settings.read_text(encoding="utf-8")), json.loads(text))
    assert load_hamiltonian_config(settings, {"epochs": 2}).epochs == 2
    with pytest.raises(ConfigError, match=r"dft-loss\.yaml: loss"):
        load_hamiltonian_config(settings, {"loss": "both"})


def test_predictions_of_a_file(trained, tmp_path) -> None:
    path = tmp_path / "in.smi"
    path.write_text("CO\n[CH3]\nCF\n", encoding="utf-8")
    rows = list(predict_file(trained.checkpoint, path))
    assert [row.problem for row in rows] == [
        "",
        "9 electrons in 8 orbitals: only closed shells have an energy of doubly occupied orbitals",
        "the training split has no F",
    ]
    methanol = rows[0]
    model = load_hamiltonian(trained.checkpoint)
    assert methanol.structure is not None
    z, place = methanol.structure.atomic_numbers, methanol.structure.positions_angstrom
    config = model.config.dft.model_copy(update={"precision": "float64"})
    reference = pyscf_solution(z, place * BOHR_PER_ANGSTROM, config, 0)
    # Upper bounds, of a network that has hardly learnt.
    above_ev = methanol.predicted["energy"] - reference.e_tot * EV_PER_HARTREE
    assert 0 < above_ev < 3
    nocc = reference.mol.nelectron // 2
    gap_ev = (reference.mo_energy[nocc] - reference.mo_energy[nocc - 1]) * EV_PER_HARTREE
    assert methanol.predicted["gap"] == pytest.approx(gap_ev, abs=3)
