"""Pipelines and workers on three devices that a processor is made to look like."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import optax
import pytest

from qmgen.efficiency.methods.local_pipeline import (
    Stage,
    pipelined_gradients,
    train_overlapping_pipeline,
    train_pipeline,
)
from qmgen.errors import InputError


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=3"
    done = subprocess.run(
        [sys.executable, "-m", "tests.efficiency.methods.on_devices"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.slow
def test_a_pipeline_is_local_training_on_devices_of_its_own(found: dict[str, Any]) -> None:
    figures = found["pipelines"]
    assert figures["places"] == [0, 1, 2]
    # Rounding of float32 over five steps of Adam, in programs that are compiled apart.
    assert figures["weights"] < 1e-5
    assert figures["losses"] < 1e-5


@pytest.mark.slow
def test_stages_that_overlap_get_the_gradient_of_the_next_one(found: dict[str, Any]) -> None:
    figures = found["pipelines"]
    assert figures["overlapping places"] == [0, 1, 2]
    assert figures["overlapping weights"] < 1e-5
    assert figures["overlapping losses"] < 1e-5
    assert figures["overlapping or apart"] > 1e-2


@pytest.mark.slow
def test_pipelined_gradients_are_those_of_one_program(found: dict[str, Any]) -> None:
    figures = found["pipelines"]
    assert figures["gradient places"] == [0, 1, 2]
    assert figures["pipelined loss"] < 1e-6
    assert figures["pipelined gradients"] < 1e-6


@pytest.mark.slow
def test_two_workers_span_twice_as_many_directions(found: dict[str, Any]) -> None:
    figures = found["workers"]
    assert figures["moved"] > 1e-3
    assert figures["same minibatch"] < 1e-5
    assert figures["own minibatches"] < 1e-5
    assert figures["workers differ"] == 0


@pytest.mark.slow
def test_workers_send_components_alone(found: dict[str, Any]) -> None:
    # 4 for each of 2 workers and 2 compartments, where there are 155 parameters.
    assert found["workers"]["numbers sent"] == 16


def test_missing_devices_are_named() -> None:
    stage = Stage((), lambda x: x)
    with pytest.raises(InputError, match="as many devices"):
        train_pipeline([stage, stage], optax.sgd(1.0), [], lambda p, y: p, jax.devices()[:1])
    with pytest.raises(InputError, match="at least two"):
        train_overlapping_pipeline([stage], optax.sgd(1.0), [], lambda p, y: p, jax.devices()[:1])
    with pytest.raises(InputError, match="micro-batch"):
        pipelined_gradients([stage], [], lambda p, y: p, jax.devices()[:1])
