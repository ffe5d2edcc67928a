"""A training that was killed at any step goes on to the same bits; average, accumulation and log do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fct_fast.errors import ConfigError, CorruptError
from fct_fast.training import FitConfig, fit
from fct_fast.training import transform_loop as loop
from fct_fast.training.config import LossConfig

CONFIG = FitConfig(inner_dim=16, epochs=4, batch_size=40, lr=4e-3, warmup_epochs=1, device="cpu", baseline=False)
STEPS = 4 * 4


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arrays(views: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    old = rng.normal(size=(views, 160, 8)).astype(np.float32)
    side = rng.normal(size=(views, 160, 3)).astype(np.float32)
    mix = rng.normal(size=(11, 6))
    new = np.maximum(np.concatenate([old, side], axis=2) @ mix, 0).astype(np.float32)
    return {"old": old, "side": side, "new": new}


def weights(result) -> list[np.ndarray]:
    return [x for _, layer in result.transform.to_spec().named_layers() for x in (layer.weight, layer.bias)]


class Killed(BaseException):
    pass


@pytest.fixture
def killer(monkeypatch):
    """killer(n): the n-th step of Adam from now on never returns."""

    def arm(n: int) -> None:
        left = [n]
        real = torch.optim.Adam.step

        def step(self, *args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return real(self, *args, **kwargs)

        monkeypatch.setattr(torch.optim.Adam, "step", step)

    return arm


@pytest.mark.parametrize(
    "config", [CONFIG, CONFIG.replace(method="residual", ema=0.9, accumulate=2)], ids=["fct", "residual"]
)
def test_killed_at_any_step_and_resumed_gives_the_same_bits(config, tmp_path: Path, killer, monkeypatch):
    whole = fit(**arrays(), config=config)
    steps = config.epochs * (2 if config.accumulate == 2 else 4)
    for n in range(1, steps + 1):
        path = tmp_path / f"{n}.safetensors"
        with monkeypatch.context():
            killer(n)
            with pytest.raises(Killed):
                fit(**arrays(), config=config, checkpoint=path, checkpoint_every=0)
        monkeypatch.undo()
        assert path.exists() == (n > 1)
        resumed = fit(**arrays(), config=config, checkpoint=path, checkpoint_every=0)
        assert resumed.metrics == whole.metrics
        assert all(np.array_equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_a_finished_training_is_not_done_again(tmp_path: Path, killer):
    path = tmp_path / "c.safetensors"
    first = fit(**arrays(), config=CONFIG, checkpoint=path)
    killer(1)
    again = fit(**arrays(), config=CONFIG, checkpoint=path)
    assert again.metrics == first.metrics
    assert all(np.array_equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))


def test_a_checkpoint_of_other_rows_options_or_threads_is_refused(tmp_path: Path):
    path = tmp_path / "c.safetensors"
    fit(**arrays(), config=CONFIG, checkpoint=path)
    with pytest.raises(ConfigError, match=r"another lr \(0.004, now 0.001\)"):
        fit(**arrays(), config=CONFIG.replace(lr=1e-3), checkpoint=path)
    other = arrays()
    other["old"][1, 100, 3] += 1e-3
    with pytest.raises(ConfigError, match="another rows"):
        fit(**other, config=CONFIG, checkpoint=path)
    torch.set_num_threads(2)
    with pytest.raises(ConfigError, match="another number of threads"):
        fit(**arrays(), config=CONFIG, checkpoint=path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path):
    path = tmp_path / "c.safetensors"
    fit(**arrays(), config=CONFIG, checkpoint=path)
    good = path.read_bytes()
    for at in (3, 40, good.index(b"epoch"), good.index(b'step\\": 0') + 8, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises((CorruptError, ConfigError)):
            fit(**arrays(), config=CONFIG, checkpoint=path)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(CorruptError, match="remove it"):
        fit(**arrays(), config=CONFIG, checkpoint=path)


def test_the_average_follows_the_weights():
    """Against the plain recurrence, on a single weight."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    average, expected = [torch.tensor([5.0])], 5.0
    for step in range(200):
        with torch.no_grad():
            weight.copy_(torch.tensor([float(step)]))
        loop._follow(average, [weight], 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert float(average[0]) == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_are_one_large_batch():
    """Without BatchNorm, whose statistics are those of a batch."""
    options = {"method": "residual", "held_out": 0.0, "epochs": 3, "warmup_epochs": 0.0, "eval_mode_switch": False}
    large = fit(**arrays(1), config=CONFIG.replace(batch_size=80, **options))
    small = fit(**arrays(1), config=CONFIG.replace(batch_size=40, accumulate=2, **options))
    assert max(np.abs(a - b).max() for a, b in zip(weights(large), weights(small), strict=True)) < 1e-4
    assert large.metrics["loss"] == pytest.approx(small.metrics["loss"], rel=1e-4)


def test_the_uncertainty_head_ranks_rows_by_their_error():
    """Rows whose new embedding holds noise are predicted to be the uncertain ones."""
    rng = np.random.default_rng(1)
    old = rng.normal(size=(4000, 8)).astype(np.float32)
    noisy = old[:, 0] > 0
    new = (old @ rng.normal(size=(8, 6))).astype(np.float32)
    new[noisy] += rng.normal(scale=3, size=(noisy.sum(), 6)).astype(np.float32)
    config = CONFIG.replace(epochs=12, batch_size=128, loss=LossConfig(uncertainty=True))
    result = fit(old=old, new=new, config=config)
    assert result.metrics["held_out"]["uncertainty_agreement"] > 0.5
    _, s = result.transform(torch.from_numpy(old), return_uncertainty=True)
    s = s.detach()
    assert float(s[noisy].mean()) > float(s[~noisy].mean()) + 1


def test_the_log_holds_every_epoch(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = fit(**arrays(), config=CONFIG, log_dir=tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in events.Scalars("fit/loss")] == pytest.approx(result.metrics["loss"])
    assert len(events.Scalars("fit/learning_rate")) == CONFIG.epochs
