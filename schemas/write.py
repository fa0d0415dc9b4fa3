"""Writes the JSON Schemas from the pydantic models: `make schemas`."""

from pathlib import Path

from qmgen.dataset import write_schema
from qmgen.dataset.metadata import SCHEMA_MODELS
from qmgen.generate import RunConfig
from qmgen.training import TrainConfig

CONFIGURATIONS = {"run-config": RunConfig, "train-config": TrainConfig}

if __name__ == "__main__":
    folder = Path(__file__).parent
    for name, model in {**SCHEMA_MODELS, **CONFIGURATIONS}.items():
        write_schema(model, folder / f"{name}.schema.json")
