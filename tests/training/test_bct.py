"""Retraining controls: the terms are their formulas, the old model stays frozen, and compatibility is what they buy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fct_fast.data.digits import digit_items
from fct_fast.data.views import AffineViews, ViewConfig
from fct_fast.errors import ConfigError, ShapeError
from fct_fast.evaluation import evaluate
from fct_fast.models import ClassifierHead, StrideCNN
from fct_fast.training.backbone import BackboneConfig, train_backbone
from fct_fast.training.bct import ControlConfig, extended_head, influence_loss, train_bct, train_l2
from fct_fast.training.embed import embed_views
from fct_fast.training.loop import seeded_initialisation

OLD_CLASSES = 5


def views(*, held_out: bool = False, classes: int = 10) -> AffineViews:
    pictures, labels = digit_items(held_out=held_out)
    chosen = labels < classes
    return AffineViews(pictures[chosen], labels[chosen], ViewConfig(size=8, noise=0.1))


def model(seed: int = 0, channels: int = 8, dim: int = 16) -> StrideCNN:
    with seeded_initialisation(seed):
        return StrideCNN(channels, dim, 8)


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in module.state_dict().values()])


@pytest.fixture(scope="module")
def old() -> tuple[StrideCNN, ClassifierHead]:
    net = model(1, channels=4)
    head = train_backbone(net, views(classes=OLD_CLASSES), BackboneConfig(80, batch_size=128), seed=1).classifier
    return net, head


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_influence_loss_is_the_old_classifiers_cross_entropy_on_known_classes(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    rows, weight, labels = rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), np.array([0, 5, 2, 3, 1, 2])
    losses = []
    for row, label in zip(rows, labels, strict=True):
        if label < 3:
            logits = weight @ row
            log_probabilities = logits - np.log(np.exp(logits).sum())
            losses.append(-((1 - smoothing) * log_probabilities[label] + smoothing * log_probabilities.mean()))
    embeddings = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    old_weight = torch.tensor(weight, dtype=torch.float32, requires_grad=True)
    value = influence_loss(embeddings, torch.from_numpy(labels), old_weight, smoothing)
    assert value.item() == pytest.approx(np.mean(losses), rel=1e-5)
    value.backward()
    assert old_weight.grad is None
    assert embeddings.grad is not None
    assert (embeddings.grad.abs().sum(dim=1) > 0).tolist() == [True, False, True, False, True, True]


def test_a_batch_without_known_classes_has_no_influence() -> None:
    embeddings = torch.ones(2, 4, requires_grad=True)
    value = influence_loss(embeddings, torch.tensor([3, 4]), torch.ones(3, 4), 0.1)
    value.backward()
    assert value.item() == 0
    assert embeddings.grad is not None
    assert (embeddings.grad == 0).all()


def test_the_first_losses_are_the_formulas(old: tuple[StrideCNN, ClassifierHead]) -> None:
    """New cross-entropy + weight * term, each recomputed in float64 from the same random numbers."""
    old_model, old_head = old
    data, config = views(), ControlConfig(1, batch_size=64, weight=0.7, learning_rate=1e-12)
    generator = torch.Generator().manual_seed(5)
    batch = torch.randperm(len(data), generator=generator)[:64]
    images, labels = data.draw(batch, generator), data.labels[batch.numpy()]

    def smoothed(logits: np.ndarray, wanted: np.ndarray) -> float:
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(
            -(0.9 * log_probabilities[range(len(wanted)), wanted] + 0.1 * log_probabilities.mean(axis=1)).mean()
        )

    known = labels < OLD_CLASSES
    for control in ("bct", "l2"):
        net = model()
        if control == "bct":
            result = train_bct(net, data, config, old_head=old_head, seed=5)
        else:
            result = train_l2(net, data, config, old_model=old_model, seed=5)
        with torch.no_grad():
            rows = net.train()(images).double().numpy()
            target = old_model(images).double().numpy()
        new = smoothed(rows @ result.classifier.linear.weight.detach().double().numpy().T, labels)
        old_logits = rows @ old_head.linear.weight.detach().double().numpy().T
        term = smoothed(old_logits[known], labels[known]) if control == "bct" else np.square(rows - target).mean()
        assert result.losses[0] == pytest.approx(new + 0.7 * term, rel=1e-4)


def test_without_weight_both_are_the_free_new_model_bit_for_bit(old: tuple[StrideCNN, ClassifierHead]) -> None:
    """Equal data, steps and batches: what differs between control and free model is the term alone."""
    old_model, old_head = old
    data, nets = views(), [model() for _ in range(5)]
    train_backbone(nets[0], data, BackboneConfig(4, batch_size=32), seed=3)
    for weight, bct, l2 in ((0.0, nets[1], nets[2]), (1.0, nets[3], nets[4])):
        config = ControlConfig(4, batch_size=32, weight=weight)
        train_bct(bct, data, config, old_head=old_head, seed=3)
        train_l2(l2, data, config, old_model=old_model, seed=3)
    weights = [flat(net) for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    assert not torch.equal(weights[0], weights[4])


def test_the_old_model_and_its_head_stay_as_they_were(old: tuple[StrideCNN, ClassifierHead]) -> None:
    old_model, old_head = old
    before = flat(old_model), flat(old_head)
    old_head.zero_grad()  # of its own training
    old_model.train()  # its BatchNorm would count along
    config = ControlConfig(3, batch_size=32)
    train_l2(model(), views(), config, old_model=old_model, seed=0)
    train_bct(model(), views(), config, old_head=old_head, seed=0)
    assert torch.equal(flat(old_model), before[0])
    assert torch.equal(flat(old_head), before[1])
    assert all(p.grad is None for p in old_head.parameters())
    assert not old_model.training


def test_the_new_model_can_be_searched_against_the_old_gallery(old: tuple[StrideCNN, ClassifierHead]) -> None:
    """CMC@1 of new queries in the old gallery: an independent model finds nothing there."""
    old_model, old_head = old
    data, config = views(), ControlConfig(80, batch_size=96)
    nets = {"free": model(), "bct": model(), "bct all": model(), "l2": model()}
    train_backbone(nets["free"], data, BackboneConfig(80, batch_size=96), seed=2)
    train_bct(nets["bct"], data, config, old_head=old_head, seed=2)
    everything = extended_head(old_head, old_model, data, seed=0)
    train_bct(nets["bct all"], data, config, old_head=everything, seed=2)
    train_l2(nets["l2"], data, config, old_model=old_model, seed=2)
    found = {}
    rows = embed_views({"old": old_model, **nets}, views(held_out=True), copies=1, seed=9)
    for name in nets:
        judged = evaluate(rows.embeddings[name], rows.embeddings["old"], rows.labels, exclude_self=True)
        found[name] = judged.cmc[1]
    assert min(found[name] for name in ("bct", "bct all", "l2")) > found["free"] + 0.15, found


def test_the_extended_head_keeps_the_old_rows_and_adds_class_means(old: tuple[StrideCNN, ClassifierHead]) -> None:
    old_model, old_head = old
    data = views()
    head = extended_head(old_head, old_model, data, copies=2, seed=6)
    rows = embed_views({"old": old_model}, data, copies=2, seed=6)
    embeddings = rows.embeddings["old"].astype(np.float64)
    means = np.stack([embeddings[rows.labels == c].mean(axis=0) for c in range(10)])
    weight, old_weight = head.linear.weight.numpy(), old_head.linear.weight.detach().numpy()
    assert np.array_equal(weight[:OLD_CLASSES], old_weight)
    for c in range(OLD_CLASSES, 10):
        expected = means[c] - means.mean(axis=0)
        expected *= np.linalg.norm(old_weight.astype(np.float64), axis=1).mean() / np.linalg.norm(expected)
        np.testing.assert_allclose(weight[c], expected, rtol=1e-3, atol=1e-5)
    assert not any(p.requires_grad for p in head.parameters())
    with torch.no_grad():  # the rows are a classifier: better than chance on classes that the old model never saw
        unseen = torch.from_numpy(embeddings[rows.labels >= OLD_CLASSES]).float()
        guess = F.linear(unseen, torch.from_numpy(weight)).argmax(dim=1).numpy()
    assert (guess == rows.labels[rows.labels >= OLD_CLASSES]).mean() > 0.3


def test_a_head_that_knows_all_classes_is_not_extended(old: tuple[StrideCNN, ClassifierHead]) -> None:
    head = extended_head(old[1], old[0], views(classes=3), seed=0)
    assert torch.equal(head.linear.weight, old[1].linear.weight)


def test_bad_arguments_are_refused(old: tuple[StrideCNN, ClassifierHead]) -> None:
    old_model, old_head = old
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="weight of a control"):
            ControlConfig(1, weight=bad)
    with pytest.raises(ConfigError, match="label_smoothing"):
        ControlConfig(1, label_smoothing=1.0)
    config, wide = ControlConfig(1), model(dim=17)
    with pytest.raises(ShapeError, match="width of the old embedding, 16; the new model has 17"):
        train_bct(wide, views(), config, old_head=old_head, seed=0)
    with pytest.raises(ShapeError, match="16; the new model has 17"):
        train_l2(wide, views(), config, old_model=old_model, seed=0)
    with pytest.raises(ConfigError, match="pass a new model"):
        train_l2(old_model, views(), config, old_model=old_model, seed=0)
    gap = AffineViews(np.zeros((3, 8, 8), np.uint8), np.array([0, 5, 7]), ViewConfig(size=8))
    with pytest.raises(ConfigError, match="class 6 has no item"):
        extended_head(old_head, old_model, gap, seed=0)
