# `make demo` and `make test` set up what they need in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: molecules this small gain nothing from more, threads that wait for each
# other on a busy machine take ten times as long, and tests stay repeatable.
ONE_THREAD := OMP_NUM_THREADS=1 NPROC=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false

.PHONY: accuracy benchmark benchmark-accelerator benchmark-architectures benchmark-dft-loss benchmark-efficiency benchmark-few-bits benchmark-fine-tuning benchmark-knowledge benchmark-label-codec benchmark-large benchmark-layout benchmark-loaders benchmark-loss benchmark-methods benchmark-million benchmark-peers benchmark-quantisation benchmark-run benchmark-workers clean demo format lint notebooks scaling-law schemas setup test test-slow

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "qmgen needs Python 3.11 to 3.13; say make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Label 144 molecules with energies and forces, check some against PySCF, train a SchNet, predict.
demo: setup
	rm -rf demo
	mkdir demo
	$(BIN)/qmgen generate workflows/data/demo.smi demo/dataset.zarr --config workflows/demo.yaml
	$(BIN)/qmgen validate demo/dataset.zarr --sample 20
	$(ONE_THREAD) $(BIN)/qmgen train demo/dataset.zarr --target gap --epochs 60 --out demo/schnet
	$(BIN)/qmgen predict demo/schnet/model.ckpt demo/dataset.zarr --split test --out demo/predictions.csv
	$(BIN)/qmgen info demo/dataset.zarr
	@echo "Dataset: demo/dataset.zarr   learning curve: demo/schnet/learning_curve.png"

# What benchmarks take from the demo, if it was not made yet.
demo/schnet/model.ckpt:
	$(MAKE) demo

# A part of QM9 without the molecules that `make scaling-law` labels.
scaling/qm9.zarr: | setup
	$(BIN)/qmgen import-qm9 $@ --limit 6000 --exclude workflows/data/scaling.smi

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes of tests, as each takes one core; tests/conftest.py says which go together. A third of
# their time would be XLA's optimisation of programs that then run once, so it does little of that
# here; in `make test-slow`, `make demo` and `make accuracy` programs are those that users run.
test: lint
	$(ONE_THREAD) JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(BIN)/pytest -m "not slow" -n 2 --dist loadscope --durations=20

test-slow: setup
	$(ONE_THREAD) $(BIN)/pytest -m slow

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: setup
	$(BIN)/python -m schemas.write

# Labels per second per core against PySCF; the tables belong into benchmarks/README.md.
benchmark: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/labels_per_second.py
	$(ONE_THREAD) $(BIN)/python benchmarks/labels_per_second.py --precision float32
	$(ONE_THREAD) $(BIN)/python benchmarks/labels_per_second.py --forces

# A larger basis, with exact integrals and with density fitting on both sides; half an hour.
LARGE := --basis 6-31g* --grid-level 1 --conformers 4 --reference 1
benchmark-large: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/labels_per_second.py $(LARGE)
	$(ONE_THREAD) $(BIN)/python benchmarks/labels_per_second.py $(LARGE) \
		--two-electron density_fitting

# A whole run of 200 molecules, compilation included, against a script that loops PySCF.
benchmark-run: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/end_to_end.py

# One worker against two, which a machine of two cores or more can show.
benchmark-workers: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/workers.py

# Conformers per second of every loader against schnetpack's ASE database; minutes.
benchmark-loaders: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/loaders.py

# Labels per second of a GPU, if JAX finds one (pip install 'jax[cuda13]').
benchmark-accelerator: setup
	$(BIN)/python benchmarks/accelerator.py

# A million conformers of QM9's molecules with a force field, killed once; about an hour.
benchmark-million: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/million.py

# The store cut in several ways, Parquet and HDF5: reading, writing, bytes and files; half an hour.
benchmark-layout: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/layout.py

# Run all notebooks and keep what they show.
notebooks: setup
	$(ONE_THREAD) $(BIN)/python -m notebooks.execute

# The test error by size of the training set, in scaling/law; goes on where it was interrupted.
SIZES := 384,768,1536,3072,6144,12288
scaling-law: setup
	$(ONE_THREAD) $(BIN)/qmgen generate workflows/data/scaling.smi scaling/dataset.zarr \
		--config workflows/scaling.yaml
	$(ONE_THREAD) $(BIN)/qmgen scaling-law scaling/dataset.zarr \
		--config workflows/scaling-train.yaml --sizes $(SIZES) --out scaling/law

# A step of training on the Kohn-Sham energy against an SCF of PySCF.
benchmark-loss: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/loss_step.py
	$(ONE_THREAD) $(BIN)/python benchmarks/loss_step.py --precision float32

# Training on the energy against labelling first and training after: frames of molecules' dynamics
# (def2-SVP, the smaller STO-3G for uracil), then 300 molecules at the same cost of both ways; two
# hours.
SVP := --basis def2-svp --two-electron density_fitting
benchmark-dft-loss: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/dft_loss.py --molecule water $(SVP) --out scaling/loss/water
	$(ONE_THREAD) $(BIN)/python benchmarks/dft_loss.py --molecule ethanol $(SVP) \
		--out scaling/loss/ethanol
	$(ONE_THREAD) $(BIN)/python benchmarks/dft_loss.py --molecule malondialdehyde $(SVP) \
		--out scaling/loss/malondialdehyde
	$(ONE_THREAD) $(BIN)/python benchmarks/dft_loss.py --molecule uracil --out scaling/loss/uracil
	$(ONE_THREAD) $(BIN)/python benchmarks/dft_loss.py --source workflows/data/scaling.smi \
		--records 300 --fresh --conformers 8 3 --epochs 4 26 --out scaling/loss/molecules

# A part of QM9 learnt from random weights, and from those that the scaling law ends with; 18
# trainings of two minutes and more.
benchmark-fine-tuning: scaling-law scaling/qm9.zarr
	$(ONE_THREAD) $(BIN)/python benchmarks/fine_tuning.py scaling/qm9.zarr \
		scaling/law/size-012288/model.ckpt scaling/fine-tuning

# Number formats, scaling and low precision: a script for each paper, and what formats do to the
# energy of a Kohn-Sham calculation; half an hour.
benchmark-efficiency: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/eight_bit_formats.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/fp8_training.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/block_formats.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/fp4_design_space.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/optimal_formats.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/dft_precision.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/unit_scaling.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/umup.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/scalify.py

# Formats against those of qwix, which it installs; a minute.
benchmark-peers: setup
	$(BIN)/pip install --quiet qwix
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/peers.py

# Methods of training: a script for each paper, on digits and on the store of the demo; half an hour.
benchmark-methods: demo/schnet/model.ckpt
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/dynamic_sparsity.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/local_parallelism.py --store demo/dataset.zarr
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/random_bases.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/small_batch.py --store demo/dataset.zarr

# Architectures that do the same with fewer operations: a script for each paper.
benchmark-architectures: setup scaling/qm9.zarr
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/proxy_norm.py
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/efficientnet.py scaling/qm9.zarr
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/groupbert.py scaling/qm9.zarr --pre-norm
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/sparq.py scaling/qm9.zarr

# Knowledge graphs: a script for each paper, and what predicted bins of the gap are worth beside
# fingerprints and SchNet; forty minutes.
benchmark-knowledge: setup scaling/qm9.zarr
	$(ONE_THREAD) $(BIN)/python benchmarks/knowledge/bess.py
	$(ONE_THREAD) $(BIN)/python benchmarks/knowledge/topology.py
	$(ONE_THREAD) $(BIN)/python benchmarks/knowledge/synth_kgqa.py
	$(ONE_THREAD) $(BIN)/python benchmarks/knowledge/pykeen_peers.py
	$(ONE_THREAD) $(BIN)/python benchmarks/knowledge/ultrag.py
	$(ONE_THREAD) $(BIN)/python benchmarks/knowledge/gap_bins.py scaling/qm9.zarr

# SchNet trained in each number format on the store of the demo; ten minutes.
benchmark-few-bits: demo/schnet/model.ckpt
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/schnet_in_few_bits.py demo/dataset.zarr

# The demo's network with its weights in 2 to 8 bits.
benchmark-quantisation: demo/schnet/model.ckpt
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/schnet_quantisation.py \
		demo/schnet/model.ckpt demo/dataset.zarr

# The demo's labels at two bounds: rounded against entropy-coded.
benchmark-label-codec: demo/schnet/model.ckpt
	$(ONE_THREAD) $(BIN)/python benchmarks/efficiency/label_codec.py demo/dataset.zarr

# Differences from PySCF over molecules, bases and functionals.
accuracy: setup
	$(ONE_THREAD) $(BIN)/python benchmarks/accuracy.py

clean:
	rm -rf $(VENV) demo scaling
