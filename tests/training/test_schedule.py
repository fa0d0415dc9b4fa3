import pytest
import pytorch_lightning as pl
import torch

from qmgen.training import PropertyTask, Scaling, Standardisation, TrainConfig, build_model
from qmgen.training.config import WarmupDecay
from qmgen.training.ema import MovingAverage
from qmgen.training.schedule import step_schedule


def test_rate_follows_the_formula():
    config = WarmupDecay(warmup_steps=50, warmup_from=0.2, decay_factor=0.9, decay_steps=30)
    optimizer = torch.optim.AdamW(torch.nn.Linear(3, 2).parameters(), lr=5e-4)
    schedule = step_schedule(optimizer, config)
    for step in range(200):
        rise = min(1.0, 0.2 + 0.8 * step / 50)
        expected = 5e-4 * rise * 0.9 ** (step // 30)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        schedule.step()


@pytest.fixture
def trainer():
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


@pytest.fixture
def task():
    torch.manual_seed(0)
    config = TrainConfig(n_atom_basis=4, n_interactions=1, n_rbf=3)
    return PropertyTask(build_model(config, Standardisation({"gap": Scaling(0.0, 1.0)}, (1,))), {})


def test_average_is_that_of_torch_ema(trainer, task):
    torch_ema = pytest.importorskip("torch_ema")  # of some releases of schnetpack
    ours = MovingAverage(0.95)
    ours.setup(trainer, task, "fit")
    theirs = None
    for step in range(200):
        with torch.no_grad():
            for weight in task.model.parameters():
                weight += torch.randn_like(weight)
        ours.on_train_batch_end(trainer, task)
        if theirs is None:  # ours begins with the weights after the first step
            theirs = torch_ema.ExponentialMovingAverage(
                task.model.parameters(), 0.95, use_num_updates=True
            )
        else:
            theirs.update()
        for average, expected in zip(
            ours.average.module.parameters(), theirs.shadow_params, strict=True
        ):
            # float32, weights of up to 20
            torch.testing.assert_close(average, expected, atol=2e-5, rtol=0)
        assert step < 199 or not torch.equal(average, weight)


def test_validation_sees_the_average(trainer, task):
    average = MovingAverage(0.5)
    average.setup(trainer, task, "fit")
    before = [weight.clone() for weight in task.model.parameters()]
    with torch.no_grad():
        for weight in average.average.module.parameters():
            weight.fill_(7.0)
    average.on_validation_start(trainer, task)
    assert all((weight == 7.0).all() for weight in task.model.parameters())
    average.on_validation_end(trainer, task)
    for weight, expected in zip(task.model.parameters(), before, strict=True):
        assert torch.equal(weight, expected)
