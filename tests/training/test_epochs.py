"""`train_epoch` and `validate_epoch`: what they count, what they leave alone, what is learnt."""

from __future__ import annotations

import copy
import gzip
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from unet_pipeline.errors import DivergedError, UserError
from unet_pipeline.models import MLP, LeNet, build_network
from unet_pipeline.training import EpochResult, parse_loss, train_epoch, validate_epoch

Pair = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    ),
]


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def segmenter() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, 3, padding=1)


def with_buffers() -> nn.Module:
    """A network whose output depends on the mode, with statistics that training moves."""
    torch.manual_seed(0)
    parts = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)]
    return nn.Sequential(*parts)


def labelled(count: int, *, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return x, torch.randint(0, 3, (count,), generator=generator)


def masked(count: int, *, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, 6, 5, generator=generator)
    return x, torch.randint(0, 3, (count, 6, 5), generator=generator)


def split(pair: Pair, *sizes: int) -> list[Pair]:
    return list(zip(*(part.split(sizes) for part in pair), strict=True))


def still(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that moves nothing."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


def train(model: nn.Module, loader: Iterable[Any], loss: Loss = F.cross_entropy) -> EpochResult:
    return train_epoch(model, loader, loss, still(model))


def validate(model: nn.Module, loader: Iterable[Any], loss: Loss = F.cross_entropy) -> EpochResult:
    return validate_epoch(model, loader, loss)


Epoch = Callable[..., EpochResult]
both = pytest.mark.parametrize("epoch", [train, validate])
kinds = pytest.mark.parametrize(
    ("make", "data"), [(classifier, labelled), (segmenter, masked)], ids=["labels", "masks"]
)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ---- what is counted


@both
@kinds
def test_uneven_batches_give_what_one_big_batch_gives(
    epoch: Epoch, make: Callable[[], nn.Module], data: Callable[..., Pair]
) -> None:
    model, (inputs, targets) = make(), data(10)
    inputs[7:].mul_(20)  # so that the batches differ much
    logits = model(inputs)
    loss = F.cross_entropy(logits, targets).item()
    accuracy = (logits.argmax(1) == targets).double().mean().item()
    batches = split((inputs, targets), 5, 2, 3)
    by_batch = sum(F.cross_entropy(model(x), y).item() for x, y in batches) / 3
    assert loss != pytest.approx(by_batch, rel=1e-2)
    for loader in ([(inputs, targets)], batches):
        result = epoch(model, loader)
        assert result.loss == pytest.approx(loss, rel=1e-5)
        assert result.accuracy == pytest.approx(accuracy, rel=1e-12)
        assert result.num_samples == 10


@both
def test_accuracy_counts_pixels_and_ignored_ones_for_nothing(epoch: Epoch) -> None:
    model, (inputs, targets) = segmenter(), masked(5)
    right = model(inputs).argmax(1)
    targets[:] = (right + 1) % 3  # all wrong
    targets[0] = right[0]  # 30 right
    targets[1, :, :4] = 255
    targets[2:4] = 255
    loss = parse_loss("ce")
    result = epoch(model, split((inputs, targets), 2, 3), loss)
    assert result.accuracy == pytest.approx(30 / (30 + 6 + 30), rel=1e-12)
    # with what they hold, and what the network says of them, being of no account
    inputs[2:4] = 1e3
    assert epoch(model, split((inputs, targets), 2, 3), loss).accuracy == result.accuracy


@both
def test_an_epoch_of_ignored_pixels_alone_has_no_accuracy(epoch: Epoch) -> None:
    inputs, targets = masked(2)
    result = epoch(segmenter(), [(inputs, torch.full_like(targets, 255))], parse_loss("ce"))
    assert math.isnan(result.accuracy)
    assert result.loss == 0
    assert result.num_samples == 2


def test_what_is_ignored_can_be_chosen() -> None:
    model, (inputs, targets) = classifier(), labelled(6)
    targets[:2] = -100  # what torch's own loss ignores
    right = model(inputs).argmax(1)
    targets[2:5] = right[2:5]
    targets[5] = (right[5] + 1) % 3
    for result in (
        train_epoch(model, [(inputs, targets)], F.cross_entropy, still(model), ignore_index=-100),
        validate_epoch(model, [(inputs, targets)], F.cross_entropy, ignore_index=-100),
    ):
        assert result.accuracy == 0.75


def test_the_label_255_is_void_in_masks_and_a_class_among_labels() -> None:
    labels = torch.tensor([255, 3, 4])
    logits = F.one_hot(labels, 300).float()
    logits[1] = logits[0]  # the second is missed
    of_labels = validate_epoch(nn.Identity(), [(logits, labels)], F.cross_entropy)
    assert of_labels.accuracy == pytest.approx(2 / 3)
    maps = (logits[..., None, None], labels[:, None, None])
    assert validate_epoch(nn.Identity(), [maps], F.cross_entropy).accuracy == 0.5


def test_an_ignored_class_counts_for_nothing_where_it_is_hit() -> None:
    model, (inputs, _) = classifier(), labelled(20)
    right = model(inputs).argmax(1)
    ignored = int(right[0])
    (others,) = torch.nonzero(right != ignored, as_tuple=True)
    targets = right.clone()
    targets[others[0]] = 3 - ignored - right[others[0]]  # the third class: a miss
    assert 2 < len(others) < 19
    wanted = 1 - 1 / len(others)
    for result in (
        train_epoch(
            model, [(inputs, targets)], F.cross_entropy, still(model), ignore_index=ignored
        ),
        validate_epoch(model, [(inputs, targets)], F.cross_entropy, ignore_index=ignored),
    ):
        assert result.accuracy == pytest.approx(wanted, rel=1e-12)


def test_training_reports_what_it_met_on_the_way_and_validation_what_became() -> None:
    model, reference = classifier(), classifier()
    batches = split(labelled(9), 4, 5)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5)
    met, hits = 0.0, 0
    for x, y in batches:
        logits = reference(x)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        met += loss.item() * len(x)
        hits += int((logits.argmax(1) == y).sum())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    result = train_epoch(model, batches, F.cross_entropy, optimizer)
    assert result.loss == pytest.approx(met / 9, rel=1e-6)
    assert result.accuracy == hits / 9
    torch.testing.assert_close(model.state_dict(), reference.state_dict())
    after = validate_epoch(model, batches, F.cross_entropy)
    assert after.loss < result.loss


# ---- loaders


def generated(pair: Pair) -> Iterator[Pair]:
    yield from split(pair, 4, 3)


LOADERS: dict[str, Callable[[Pair], Iterable[Any]]] = {
    "tuples": lambda pair: split(pair, 4, 3),
    "lists": lambda pair: [list(batch) for batch in split(pair, 4, 3)],
    "DataLoader": lambda pair: DataLoader(TensorDataset(*pair), batch_size=4),
    "generator": generated,
    "with sample numbers": lambda pair: [(*b, torch.arange(len(b[0]))) for b in split(pair, 4, 3)],
    "bytes": lambda pair: [(x, y.to(torch.uint8)) for x, y in split(pair, 4, 3)],
}


@both
@kinds
@pytest.mark.parametrize("name", LOADERS)
def test_any_iterable_of_inputs_and_targets_is_a_loader(
    name: str, epoch: Epoch, make: Callable[[], nn.Module], data: Callable[..., Pair]
) -> None:
    model, pair = make(), data(7)
    result, wanted = epoch(model, LOADERS[name](pair)), epoch(model, [pair])
    assert result.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert (result.accuracy, result.num_samples) == (wanted.accuracy, 7)


@both
@pytest.mark.parametrize("loader", [[], DataLoader([]), iter(())])
def test_a_loader_without_batches_is_refused_in_one_line(epoch: Epoch, loader: Any) -> None:
    with pytest.raises(UserError, match="the loader has no batches") as caught:
        epoch(classifier(), loader)
    assert "\n" not in str(caught.value)


class Watched(nn.Linear):
    """Remembers the devices of its inputs, and the modes that it was called in."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.devices: list[str] = []
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.devices.append(x.device.type)
        self.modes.append((self.training, torch.is_grad_enabled()))
        return super().forward(x)


@both
@pytest.mark.parametrize("device", DEVICES)
def test_inputs_and_targets_go_to_the_device_of_the_model(epoch: Epoch, device: str) -> None:
    model, pair = Watched(), labelled(7)
    wanted = epoch(model, [pair])
    model.to(device).devices.clear()
    result = epoch(model, split(pair, 4, 3))
    assert model.devices == [device] * 2
    assert result.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert result.accuracy == wanted.accuracy


def test_a_network_without_parameters_can_be_validated() -> None:
    logits = torch.eye(3)
    result = validate_epoch(nn.Identity(), [(logits, torch.tensor([0, 1, 0]))], F.cross_entropy)
    assert result.accuracy == pytest.approx(2 / 3)


# ---- the loss


@both
def test_the_loss_is_given_the_prediction_first_and_the_target_second(epoch: Epoch) -> None:
    model, (inputs, targets) = classifier(), labelled(7)
    seen: list[tuple[Any, ...]] = []

    def recording(*arguments: Tensor) -> Tensor:
        seen.append(arguments)
        prediction, target = arguments
        return (prediction - 2 * F.one_hot(target, 3)).square().mean()  # no symmetric one

    result = epoch(model, split((inputs, targets), 4, 3), recording)
    with torch.no_grad():
        wanted = recording(model(inputs), targets).item()
    assert result.loss == pytest.approx(wanted, rel=1e-5)
    for (prediction, target), (x, y) in zip(seen, split((inputs, targets), 4, 3), strict=False):
        torch.testing.assert_close(prediction.detach(), model(x).detach())
        assert prediction.dtype == torch.float32
        assert torch.equal(target, y)
        assert target.dtype == torch.int64


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_training_and_leaves_the_weights(poison: float) -> None:
    model, (inputs, targets) = classifier(), labelled(4)
    inputs[0, 0] = poison
    before = snapshot(model)
    with pytest.raises(DivergedError, match="loss nan") as caught:
        train_epoch(model, [(inputs, targets)], F.cross_entropy, still(model))
    assert "\n" not in str(caught.value)
    assert unchanged(model, before)


# ---- modes


@both
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_every_part_is_afterwards_in_the_mode_that_it_was_in(
    epoch: Epoch, training: bool, fails: bool
) -> None:
    model = with_buffers().train(training)
    model[1].eval()  # frozen, as in fine-tuning
    model[3].train()
    before = [part.training for part in model.modules()]
    during: list[bool] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        during.append(model.training)
        if fails:
            raise ZeroDivisionError
        return F.cross_entropy(logits, targets)

    if fails:
        with pytest.raises(ZeroDivisionError):
            epoch(model, [labelled(8)], loss)
    else:
        epoch(model, [labelled(8)], loss)
    assert during == [epoch is train]
    assert [part.training for part in model.modules()] == before


@both
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_the_gradient_mode_is_that_of_the_epoch_and_afterwards_as_it_was(
    epoch: Epoch, grad: bool, fails: bool
) -> None:
    model = Watched()

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        assert torch.is_grad_enabled() == logits.requires_grad == (epoch is train)
        if fails:
            raise ZeroDivisionError
        return F.cross_entropy(logits, targets)

    with torch.set_grad_enabled(grad):
        if fails:
            with pytest.raises(ZeroDivisionError):
                epoch(model, [labelled(8)], loss)
        else:
            epoch(model, [labelled(8)], loss)
        assert torch.is_grad_enabled() == grad
    assert torch.is_grad_enabled()
    assert model.modes == [(epoch is train, epoch is train)]


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_training_learns_also_where_gradients_are_off(around: Callable[[], Any]) -> None:
    model, reference, pair = classifier(), classifier(), labelled(8)
    for one in (model, reference):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        if one is model:
            with around():
                train_epoch(one, [pair], F.cross_entropy, optimizer)
        else:
            train_epoch(one, [pair], F.cross_entropy, optimizer)
    assert unchanged(model, reference.state_dict())
    assert not unchanged(model, classifier().state_dict())


def test_a_model_in_evaluation_mode_is_trained_in_training_mode() -> None:
    model, (inputs, targets) = with_buffers().eval(), labelled(8)
    before = model[1].running_mean.clone()
    train(model, [(inputs, targets)])
    mean = F.linear(inputs, model[0].weight, model[0].bias).mean(0).detach()
    torch.testing.assert_close(model[1].running_mean, before + 0.1 * (mean - before))
    assert not any(part.training for part in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_validation_teaches_nothing(training: bool) -> None:
    model, pair = with_buffers().train(training), labelled(9)
    F.cross_entropy(model(pair[0]), pair[1]).backward()
    gradients = [tensor.grad.clone() for tensor in model.parameters() if tensor.grad is not None]
    before = snapshot(model)
    first, second = (validate(model, split(pair, 5, 3, 1)) for _ in range(2))
    assert first == second  # no dropout
    wanted = F.cross_entropy(copy.deepcopy(model).eval()(pair[0]), pair[1]).item()
    assert first.loss == pytest.approx(wanted, rel=1e-5)
    assert unchanged(model, before)
    assert len(gradients) == len(list(model.parameters()))
    for gradient, tensor in zip(gradients, model.parameters(), strict=True):
        assert tensor.grad is not None
        assert torch.equal(gradient, tensor.grad)


def test_validation_makes_no_gradients() -> None:
    model = with_buffers()
    validate(model, [labelled(4)])
    assert all(tensor.grad is None for tensor in model.parameters())


def test_one_sample_is_too_few_for_batch_normalisation_only_in_training() -> None:
    model, loader = with_buffers(), split(labelled(5), 4, 1)
    assert validate(model, loader).num_samples == 5
    with pytest.raises(UserError, match="batch normalisation needs more than one value"):
        train(model, loader)


def test_a_unet_and_patch_networks_are_trained_as_they_are() -> None:
    for name, options in {"unet": {"base_channels": 2, "depth": 1}, "lenet": {}}.items():
        torch.manual_seed(0)
        model = build_network(name, options, in_channels=2, num_classes=3)
        before = snapshot(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        result = train_epoch(model, split(masked(5), 3, 2), parse_loss("ce + dice"), optimizer)
        assert math.isfinite(result.loss)
        assert not unchanged(model, before)


def test_points_of_a_batch_go_to_a_patch_network() -> None:
    torch.manual_seed(0)
    model = build_network("mlp", {"patch_size": 3}, in_channels=2, num_classes=3)
    inputs, targets = masked(4)
    points = torch.cartesian_prod(torch.arange(6), torch.arange(5)).expand(4, -1, -1)
    by_points = train(model, [(inputs, targets.flatten(1)[..., None], torch.arange(4), points)])
    whole = train(model, [(inputs, targets)])
    assert by_points.loss == pytest.approx(whole.loss, rel=1e-5)
    assert by_points.accuracy == whole.accuracy


# ---- learning


def learn(
    model: nn.Module, train_set: Pair, test_set: Pair, *, epochs: int, lr: float, batch_size: int
) -> float:
    """The accuracy on the test set after `epochs` of Adam, its rate falling to zero."""
    mean, std = train_set[0].mean(), train_set[0].std()
    train_set, test_set = (((x - mean) / std, y) for x, y in (train_set, test_set))
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(*train_set), batch_size, shuffle=True, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / epochs)
    losses = []
    for _ in range(epochs):
        losses.append(train_epoch(model, loader, F.cross_entropy, optimizer).loss)
        schedule.step()
    assert losses[-1] < losses[0] / 3
    result = validate_epoch(model, DataLoader(TensorDataset(*test_set), 500), F.cross_entropy)
    assert result.num_samples == len(test_set[0])
    return result.accuracy


def digits(side: int) -> tuple[Pair, Pair]:
    """scikit-learn's 1,797 digits of 8x8 pixels, enlarged; a quarter is for the test."""
    data = load_digits()
    images = torch.from_numpy(data.images / 16).float()[:, None]
    images = F.interpolate(images, size=(side, side), mode="bilinear")
    targets = torch.from_numpy(data.target)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(targets)))
    held_out, rest = order.split([len(order) // 4, len(order) - len(order) // 4])
    return (images[rest], targets[rest]), (images[held_out], targets[held_out])


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in the format of the MNIST files."""
    data = gzip.decompress(path.read_bytes())
    assert data[:3] == b"\0\0\x08"
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def mnist(folder: Path, side: int) -> tuple[Pair, Pair]:
    """Digits of 28x28 pixels, with a border of zeros where the network looks at more."""
    pairs = []
    for part in ("train", "t10k"):
        images = torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz") / 255).float()
        border = (side - 28) // 2
        targets = torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte.gz").copy())
        pairs.append((F.pad(images[:, None], [border] * 4), targets))
    return pairs[0], pairs[1]


@pytest.mark.slow
def test_lenet_learns_the_digits_of_scikit_learn() -> None:
    torch.manual_seed(0)
    accuracy = learn(LeNet(), *digits(32), epochs=15, lr=2e-3, batch_size=32)
    assert accuracy >= 0.97


@pytest.mark.slow
def test_a_perceptron_learns_the_digits_of_scikit_learn() -> None:
    torch.manual_seed(0)
    accuracy = learn(MLP(), *digits(28), epochs=15, lr=2e-3, batch_size=32)
    assert accuracy >= 0.94


@pytest.mark.slow
def test_lenet_learns_mnist(real_data: Callable[[str], Path]) -> None:
    torch.manual_seed(0)
    accuracy = learn(LeNet(), *mnist(real_data("mnist10k"), 32), epochs=5, lr=3e-3, batch_size=64)
    assert accuracy >= 0.97


@pytest.mark.slow
def test_a_perceptron_learns_mnist(real_data: Callable[[str], Path]) -> None:
    torch.manual_seed(0)
    accuracy = learn(MLP(), *mnist(real_data("mnist10k"), 28), epochs=6, lr=2e-3, batch_size=64)
    assert accuracy >= 0.94


def test_targets_of_a_regression_keep_their_fractions_and_have_no_accuracy() -> None:
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    loader = [(torch.zeros(4, 2), torch.full((4, 1), 0.9))]
    for result in (
        train_epoch(model, loader, F.mse_loss, still(model)),
        validate_epoch(model, loader, F.mse_loss),
    ):
        assert result.loss == pytest.approx(0.81)
        assert math.isnan(result.accuracy)
        assert result.num_samples == 4


def test_an_empty_batch_is_passed_over() -> None:
    model, (inputs, targets) = classifier(), labelled(4)
    loader = [(inputs, targets), (inputs[:0], targets[:0])]
    expected = validate_epoch(model, loader[:1], F.cross_entropy)
    assert validate_epoch(model, loader, F.cross_entropy) == expected
    assert train_epoch(model, loader, F.cross_entropy, still(model)).num_samples == 4
