"""Curves from counts of probabilities: hand values, scikit-learn, invariances, pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve

from unet_pipeline.classes import Classes
from unet_pipeline.evaluation import curves
from unet_pipeline.evaluation.curve_pictures import calibration_png, pr_curves_png
from unet_pipeline.evaluation.metrics import confusion_matrix
from unet_pipeline.inference.probabilities import ProbabilityTally

STEP = 1 / (curves.NUM_LEVELS - 1)


def case(num_classes=4, size=(37, 53), seed=0, sharpness=2.0):
    """Logits (K, H, W), truth (H, W) with void pixels; class 3 occurs seldom."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(num_classes, size, p=np.r_[1.0, 0.5, 0.3, 0.02, [0.1] * (num_classes - 4)]
                       / (1.82 + 0.1 * (num_classes - 4))).astype(np.uint8)  # fmt: skip
    logits = rng.normal(size=(num_classes, *size)).astype(np.float32)
    logits += sharpness * (np.arange(num_classes)[:, None, None] == truth)
    truth[rng.random(size) < 0.1] = 255
    return torch.from_numpy(logits), truth


def count(logits, truth):
    tally = ProbabilityTally(len(logits))
    tally.add(logits, logits.argmax(0), truth)
    return tally.counts()


def counted(logits, truth):
    """Probabilities (n, K), float64, and true classes (n,) of the pixels that count."""
    shares = logits.double().softmax(0).flatten(1).T.numpy()
    known = truth.ravel() != 255
    return shares[known], truth.ravel()[known]


def on_levels(num_classes=3, num_pixels=500, seed=1):
    """Logits whose softmax lies on the levels exactly, (K, 1, n), and true classes (1, n)."""
    rng = np.random.default_rng(seed)
    shares = rng.multinomial(curves.NUM_LEVELS - 1, rng.dirichlet(np.ones(num_classes), num_pixels))
    truth = np.array([rng.choice(num_classes, p=row / row.sum()) for row in shares])
    logits = torch.from_numpy(np.log(np.maximum(shares, 1e-6).T[:, None]).astype(np.float32))
    return logits, truth[None].astype(np.uint8), shares * STEP


def test_precision_and_average_precision_by_hand():
    # scores of class 1, from the highest: 0.9 right, 0.6 wrong, 0.6 right, 0.2 wrong
    counts = count_of_scores(scores=[0.9, 0.6, 0.6, 0.2], truth=[1, 0, 1, 0])
    precision, recall = curves.precision_recall(counts, 1)
    np.testing.assert_allclose(precision, [1, 2 / 3, 2 / 4])
    np.testing.assert_allclose(recall, [1 / 2, 1, 1])
    assert curves.average_precision(counts)[1] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def count_of_scores(scores, truth):
    """Counts of pixels of two classes, from the probabilities of class 1."""
    share = torch.tensor(scores, dtype=torch.float64)[None]
    logits = torch.stack([(1 - share).log(), share.log()]).float()
    return count(logits, np.array(truth, dtype=np.uint8)[None])


def test_calibration_and_brier_by_hand():
    # confidences 0.9 (right), 0.9 (wrong), 0.7 (right): two bins, gaps of 0.4 and 0.3
    counts = count_of_scores(scores=[0.9, 0.9, 0.3], truth=[1, 0, 0])
    bins = curves.reliability(counts)
    assert bins.pixels[13] == 2  # (13/15, 14/15]
    assert bins.pixels[10] == 1  # (10/15, 11/15]
    assert bins.accuracy[13] == 0.5
    assert np.isnan(bins.accuracy[0])
    assert bins.ece == pytest.approx((2 * 0.4 + 1 * 0.3) / 3, abs=STEP)
    squares = 2 * 0.1**2 + 2 * 0.9**2 + 2 * 0.3**2
    assert curves.brier(counts) == pytest.approx(squares / 3, abs=2 * STEP)


def test_a_confidence_between_two_bins_belongs_to_the_lower_one():
    level = 12 * 273  # 12/15 exactly
    empty = np.zeros(curves.NUM_LEVELS, dtype=np.int64)
    right = empty.copy()
    right[[level, level + 1]] = 1, 2
    counts = curves.ProbabilityCounts(np.stack([empty] * 2), np.stack([empty] * 2), right, empty)
    assert curves.reliability(counts).pixels.tolist() == [0] * 11 + [1, 2, 0, 0]


def test_on_the_levels_all_figures_are_exact():
    logits, truth, shares = on_levels()
    found = curves.summarize_curves(count(logits, truth))
    for k, value in enumerate(found.average_precision):
        expected = average_precision_score(truth[0] == k, np.rint(shares[:, k] / STEP))
        assert value == pytest.approx(expected, abs=1e-12)
        precision, recall = curves.precision_recall(found.counts, k)
        theirs = precision_recall_curve(truth[0] == k, np.rint(shares[:, k] / STEP))
        np.testing.assert_allclose(precision[::-1], theirs[0][:-1], atol=1e-12)
        np.testing.assert_allclose(recall[::-1], theirs[1][:-1], atol=1e-12)
    confidence, hits = shares.max(axis=1), logits.argmax(0)[0].numpy() == truth[0]
    assert found.ece == pytest.approx(guo(confidence, hits), abs=1e-12)
    assert found.brier == pytest.approx(
        ((shares - np.eye(3)[truth[0]]) ** 2).sum() / len(shares), abs=1e-12
    )


def guo(confidence, hits, num_bins=15):
    """Equation 3 of the paper, bin by bin."""
    total = 0.0
    for m in range(num_bins):
        low, high = m / num_bins, (m + 1) / num_bins
        inside = (confidence > low + 1e-9) & (confidence <= high + 1e-9)
        if inside.any():
            total += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("sharpness", [0.5, 3.0, 9.0])
def test_any_probabilities_come_as_near_as_the_levels_allow(sharpness):
    logits, truth = case(sharpness=sharpness)
    shares, known = counted(logits, truth)
    found = curves.summarize_curves(count(logits, truth))
    for k, value in enumerate(found.average_precision):
        exact = average_precision_score(known == k, shares[:, k])
        assert value == pytest.approx(exact, abs=2e-3)  # pixels within a level are tied
    hits = shares.argmax(axis=1) == known
    assert found.ece == pytest.approx(guo(shares.max(axis=1), hits), abs=2e-3)
    exact = ((shares - np.eye(4)[known]) ** 2).sum() / len(shares)
    assert found.brier == pytest.approx(exact, abs=4 * STEP)
    assert found.counts.num_pixels == len(known)
    assert found.counts.right.sum() == hits.sum()


def test_a_class_that_the_truth_lacks_has_no_average_precision():
    logits, truth = case()
    truth[truth == 3] = 0
    found = curves.summarize_curves(count(logits, truth))
    assert np.isnan(found.average_precision[3])
    assert found.mean_average_precision == pytest.approx(found.average_precision[:3].mean())
    assert found.counts.positives[3].sum() == 0
    assert curves.precision_recall(found.counts, 3)[0].size == 0


def test_no_pixels_give_no_figures():
    logits, truth = case()
    for counts in (count(logits, np.full_like(truth, 255)), ProbabilityTally(4).counts()):
        assert counts.num_pixels == 0
        assert np.isnan(list(curves.summarize_curves(counts).figures().values())).all()


def test_void_pixels_change_nothing_whatever_they_hold():
    logits, truth = case()
    expected = count(logits, truth)
    other = logits.clone()
    other[:, torch.from_numpy(truth == 255)] = torch.randn(4, int((truth == 255).sum()))
    assert_equal(count(other, truth), expected)


def test_counts_add_over_images_and_do_not_depend_on_blocks(monkeypatch):
    first, second = case(seed=1), case(seed=2, size=(20, 30))
    both = ProbabilityTally(4)
    for logits, truth in (first, second):
        both.add(logits, logits.argmax(0), truth)
    shares = [count(*first), count(*second)]
    assert_equal(both.counts(), curves.add_counts(shares))
    monkeypatch.setattr("unet_pipeline.inference.probabilities._BLOCK", 100)
    assert_equal(count(*first), shares[0])


def test_the_order_of_classes_and_of_pixels_does_not_matter():
    logits, truth = case()
    expected = count(logits, truth)
    flipped = count(logits.flip(1), truth[::-1].copy())
    assert_equal(flipped, expected)
    renamed = np.where(truth == 255, 255, 3 - truth).astype(np.uint8)
    swapped = count(logits.flip(0), renamed)
    np.testing.assert_array_equal(swapped.positives, expected.positives[::-1])
    np.testing.assert_array_equal(swapped.negatives, expected.negatives[::-1])
    np.testing.assert_array_equal(swapped.right, expected.right)


def assert_equal(one, other):
    for name in ("positives", "negatives", "right", "wrong"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("num_classes", [4, 40])
def test_the_pictures_are_drawn_for_few_and_many_classes(num_classes):
    logits, truth = case(num_classes)
    truth[truth == 2] = 0  # a class without a curve
    classes = Classes(
        names=tuple(f"$class_{k} " + "x" * 30 for k in range(num_classes)),
        colors=tuple((5 * k, 255, 255) for k in range(num_classes)),
        values=tuple(range(num_classes)),
    )
    matrix = confusion_matrix(truth, logits.argmax(0).numpy(), num_classes=num_classes)
    found = curves.summarize_curves(count(logits, truth))
    for data in (pr_curves_png(found, classes, matrix=matrix), calibration_png(found)):
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.width > 400
            assert np.asarray(picture.convert("L")).std() > 10


def test_pictures_without_any_pixel_are_drawn_too():
    nothing = curves.summarize_curves(ProbabilityTally(2).counts())
    classes = Classes(names=("a", "b"), colors=((0, 0, 0), (255, 255, 255)), values=(0, 1))
    assert pr_curves_png(nothing, classes)
    assert calibration_png(nothing)
