"""Confusion counts and losses of labelled images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from unet_pipeline.errors import DatasetError, DivergedError, UserError
from unet_pipeline.evaluation import confusion_matrix, summarize
from unet_pipeline.inference import ImageScores, predict_image, score
from unet_pipeline.inference.probabilities import ProbabilityTally
from unet_pipeline.models.unet import UNet

WINDOW = {"window": 32, "overlap": 0.25}


def cross_entropy(logits, target):
    return functional.cross_entropy(logits, target, ignore_index=255)


def samples(sizes, seed=0, num_classes=2):
    """Images of the given sizes with masks that fit in part, some pixels ignored."""
    rng = np.random.default_rng(seed)
    for n, size in enumerate(sizes):
        mask = rng.integers(0, num_classes, size).astype(np.uint8)
        image = (mask * (255 // (num_classes - 1)))[..., None].astype(np.uint8)
        noise = rng.random(size) < 0.2
        image[noise] = 255 - image[noise]
        mask[rng.random(size) < 0.1] = 255
        yield f"sample {n}", image, mask


def test_counts_are_those_of_predict_image_in_the_order_of_the_samples(make_segmenter):
    sizes = [(20, 30), (9, 9), (20, 30), (90, 70), (20, 30), (9, 9), (20, 30), (20, 30), (1, 1)]
    segmenter = make_segmenter()

    result = score(segmenter, samples(sizes), **WINDOW)

    assert result.sample_ids == tuple(f"sample {n}" for n in range(9))
    assert result.matrices.dtype == np.int64
    assert result.loss is None
    for matrix, (_, image, mask) in zip(result.matrices, samples(sizes), strict=True):
        indices, _ = predict_image(segmenter, image, **WINDOW)
        np.testing.assert_array_equal(matrix, confusion_matrix(mask, indices, num_classes=2))
    assert 0.7 < summarize(result.matrices).pixel_accuracy < 0.9


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_neither_batches_nor_order_change_counts_or_loss(make_segmenter, batch_size):
    sizes = [(20, 30), (9, 9), (20, 30), (40, 70), (20, 30), (16, 16), (9, 9), (20, 30)]
    segmenter = make_segmenter()
    every = list(samples(sizes))

    expected = score(segmenter, every, loss=cross_entropy, batch_size=1, **WINDOW)
    result = score(segmenter, every, loss=cross_entropy, batch_size=batch_size, **WINDOW)
    backwards = score(segmenter, every[::-1], loss=cross_entropy, batch_size=batch_size, **WINDOW)

    np.testing.assert_array_equal(result.matrices, expected.matrices)
    np.testing.assert_array_equal(backwards.matrices[::-1], expected.matrices)
    assert result.loss == pytest.approx(expected.loss, abs=1e-7)
    assert backwards.loss == pytest.approx(expected.loss, abs=1e-7)


def test_two_scorings_agree_to_the_last_bit(make_segmenter):
    torch.manual_seed(0)
    segmenter = make_segmenter(UNet(in_channels=1, num_classes=2, base_channels=4, depth=2))
    sizes = [(20, 30), (33, 9), (20, 30), (90, 70), (20, 30)]
    first = score(segmenter, samples(sizes), loss=cross_entropy, **WINDOW)
    segmenter.train()  # as during training
    second = score(segmenter, samples(sizes), loss=cross_entropy, **WINDOW)
    np.testing.assert_array_equal(first.matrices, second.matrices)
    assert first.loss == second.loss


def test_images_of_one_size_cross_the_network_together_and_large_ones_alone(make_segmenter):
    shapes = []

    class Spy(nn.Module):
        def forward(self, x):
            shapes.append(tuple(x.shape))
            return torch.zeros(x.shape[0], 2, *x.shape[2:])

    sizes = [(8, 8), (8, 9)] * 4 + [(8, 8)] + [(40, 50)] * 2
    score(make_segmenter(Spy()), samples(sizes), batch_size=4, **WINDOW)
    # 40 x 50 goes whole, but two of them are more pixels than 4 windows: 4 * 32 * 32 // 2000 = 2
    assert sorted(shapes) == [(1, 1, 8, 8), (2, 1, 40, 50), (4, 1, 8, 8), (4, 1, 8, 9)]


def test_few_images_wait_for_others_of_their_size(make_segmenter):
    alive = []

    def watched():
        for n in range(60):
            yield f"{n}", np.zeros((n + 1, 3, 1), np.uint8), np.zeros((n + 1, 3), np.uint8)
            alive.append(n)

    done = []
    score(
        make_segmenter(), watched(), batch_size=2, **WINDOW,
        on_progress=lambda count: done.append((count, len(alive))),
    )  # fmt: skip
    assert [count for count, _ in done] == list(range(1, 61))
    assert max(read - count for count, read in done) <= 8


def test_the_loss_is_the_mean_over_images_and_leaves_out_those_without_counted_pixels(
    make_segmenter,
):
    segmenter = make_segmenter()
    every = [*samples([(4, 5), (50, 60), (7, 7)])]
    every.append(("void", np.zeros((4, 5, 1), np.uint8), np.full((4, 5), 255, np.uint8)))

    result = score(segmenter, every, loss=cross_entropy, **WINDOW)

    losses = []
    with torch.no_grad():
        for _, image, mask in every[:3]:
            logits = segmenter(torch.from_numpy(image).permute(2, 0, 1)[None])
            losses.append(float(cross_entropy(logits, torch.from_numpy(mask).long()[None])))
    assert result.loss == pytest.approx(np.mean(losses), abs=1e-6)
    assert result.matrices[3].sum() == 0


def test_scoring_leaves_the_segmenter_as_it_was(make_segmenter):
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    segmenter = make_segmenter(network).train()
    network[1].eval()
    before = {k: v.clone() for k, v in segmenter.state_dict().items()}
    score(segmenter, samples([(9, 9)] * 3), loss=cross_entropy, **WINDOW)
    assert network[0].training
    assert not network[1].training
    assert all(torch.equal(v, before[k]) for k, v in segmenter.state_dict().items())
    assert all(p.grad is None for p in segmenter.parameters())


def test_masks_may_be_the_caches_own_and_read_only(make_segmenter):
    ((name, image, mask),) = samples([(90, 90)])
    image.flags.writeable = mask.flags.writeable = False
    result = score(make_segmenter(), [(name, image, mask)], loss=cross_entropy, **WINDOW)
    assert result.matrices.sum() == (mask != 255).sum()


def test_no_samples_give_empty_scores(make_segmenter):
    result = score(make_segmenter(num_classes=3), [], loss=cross_entropy, **WINDOW)
    assert result.matrices.shape == (0, 3, 3)
    assert result.loss is None


def test_bad_samples_are_named(make_segmenter):
    image = np.zeros((4, 5, 1), np.uint8)
    with pytest.raises(DatasetError, match="odd: the image is 5x4 pixels"):
        score(make_segmenter(), [("odd", image, np.zeros((5, 4), np.uint8))], **WINDOW)
    with pytest.raises(DatasetError, match="odd: the target holds the class index 7"):
        score(make_segmenter(), [("odd", image, np.full((4, 5), 7, np.uint8))], **WINDOW)
    with pytest.raises(UserError, match="overlap 3"):
        score(make_segmenter(), [], window=32, overlap=3)


def test_a_network_that_says_nan_is_not_scored(make_segmenter):
    segmenter = make_segmenter(nn.Conv2d(1, 2, 1))
    segmenter.network.weight.data[:] = math.inf
    with pytest.raises(DivergedError):
        score(segmenter, samples([(9, 9)]), **WINDOW)


def test_probabilities_are_counted_over_all_images_and_windows(make_segmenter):
    every = list(samples([(20, 30), (90, 70), (20, 30)]))
    segmenter = make_segmenter()
    result = score(segmenter, every, probabilities=True, **WINDOW)
    found = result.probabilities
    matrix = result.matrices.sum(axis=0)
    np.testing.assert_array_equal(found.positives.sum(axis=1), matrix.sum(axis=1))
    np.testing.assert_array_equal(found.negatives.sum(axis=1), matrix.sum() - matrix.sum(axis=1))
    assert found.right.sum() == np.trace(matrix)
    assert found.wrong.sum() == matrix.sum() - np.trace(matrix)
    _, shares = predict_image(segmenter, every[1][1], probabilities=True, **WINDOW)
    expected = ProbabilityTally(2)
    expected.add(torch.from_numpy(shares).float().log(), torch.from_numpy(shares).argmax(0),
                 every[1][2])  # fmt: skip
    alone = score(segmenter, every[1:2], probabilities=True, **WINDOW).probabilities
    cumulated = [c.positives.cumsum(axis=1) for c in (alone, expected.counts())]
    # half precision moves a probability by a level or two, and no pixel further
    assert (cumulated[0][:, :-3] <= cumulated[1][:, 3:]).all()
    assert (cumulated[1][:, :-3] <= cumulated[0][:, 3:]).all()


def test_the_shares_of_several_processes_add_up_to_the_whole(make_segmenter):
    every = list(samples([(20, 30)] * 5))
    names = [name for name, _, _ in every]
    segmenter = make_segmenter()
    whole = score(segmenter, every, probabilities=True, **WINDOW)
    shares = [score(segmenter, every[n::2], probabilities=True, **WINDOW) for n in (0, 1)]
    together = ImageScores.in_order(shares, names).probabilities
    np.testing.assert_array_equal(together.positives, whole.probabilities.positives)
    np.testing.assert_array_equal(together.wrong, whole.probabilities.wrong)
    without = ImageScores.in_order([score(segmenter, every, **WINDOW)], names)
    assert without.probabilities is None


def test_every_prediction_is_shown_whole(make_segmenter):
    every = list(samples([(20, 30), (90, 70), (20, 30), (9, 9)]))
    segmenter = make_segmenter()
    shown = {}
    score(
        segmenter, every, **WINDOW,
        on_prediction=lambda name, *arrays: shown.setdefault(name, arrays),
    )  # fmt: skip
    assert sorted(shown) == sorted(name for name, _, _ in every)
    for name, image, mask in every:
        indices, _ = predict_image(segmenter, image, **WINDOW)
        for found, expected in zip(shown[name], (image, mask, indices), strict=True):
            np.testing.assert_array_equal(found, expected)
