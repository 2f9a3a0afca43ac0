"""Counts and scores against hand values and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from unet_pipeline.errors import UserError
from unet_pipeline.evaluation.metrics import (
    class_scores,
    confusion_matrix,
    image_means,
    summarize,
)

NAN = math.nan


def random_masks(seed: int, num_classes: int, shape: tuple[int, ...] = (60, 70)):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_classes, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.6, target, rng.integers(0, num_classes, shape))
    target[rng.random(shape) < 0.15] = 255
    return target, prediction.astype(np.uint8)


@pytest.mark.parametrize("num_classes", [2, 3, 11, 60])
def test_all_figures_equal_those_of_scikit_learn(num_classes):
    target, prediction = random_masks(num_classes, num_classes)
    truth, guess = target[target != 255], prediction[target != 255]
    labels = range(num_classes)
    expected = reference.confusion_matrix(truth, guess, labels=labels)

    matrix = confusion_matrix(target, prediction, num_classes=num_classes)
    scores = summarize(matrix[None])

    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)
    precision, recall, dice, _ = reference.precision_recall_fscore_support(
        truth, guess, labels=labels, zero_division=np.nan
    )
    iou = reference.jaccard_score(truth, guess, labels=labels, average=None)
    for ours, theirs in (
        (scores.classes.iou, iou),
        (scores.classes.dice, dice),
        (scores.classes.precision, precision),
        (scores.classes.recall, recall),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert scores.mean_iou == pytest.approx(iou.mean(), abs=1e-12)
    assert scores.mean_dice == pytest.approx(dice.mean(), abs=1e-12)
    assert scores.pixel_accuracy == pytest.approx(reference.accuracy_score(truth, guess), abs=1e-12)


def test_hand_values_with_classes_that_are_absent_never_present_and_never_predicted():
    #                 0  0  0  1  1  2  ignored
    target = np.array([0, 0, 0, 1, 1, 2, 255])
    prediction = np.array([0, 0, 3, 1, 0, 0, 4])
    # class 2 is never predicted, class 3 never present, class 4 occurs in neither
    scores = summarize(confusion_matrix(target, prediction, num_classes=5)[None])

    np.testing.assert_allclose(scores.classes.iou, [2 / 5, 1 / 2, 0, 0, NAN])
    np.testing.assert_allclose(scores.classes.dice, [4 / 7, 2 / 3, 0, 0, NAN])
    np.testing.assert_allclose(scores.classes.precision, [2 / 4, 1, NAN, 0, NAN])
    np.testing.assert_allclose(scores.classes.recall, [2 / 3, 1 / 2, 0, NAN, NAN])
    assert scores.num_classes_averaged == 4
    assert scores.mean_iou == pytest.approx((2 / 5 + 1 / 2) / 4)
    assert scores.mean_dice == pytest.approx((4 / 7 + 2 / 3) / 4)
    assert scores.pixel_accuracy == pytest.approx(3 / 6)
    assert scores.num_pixels == 6


def test_the_mean_over_images_differs_from_that_over_pixels_and_skips_absent_classes():
    all_background_and_right = np.diag([100, 0])
    small_object_half_found = np.array([[90, 0], [5, 5]])
    nothing_counted = np.zeros((2, 2), dtype=int)
    stack = np.stack([all_background_and_right, small_object_half_found, nothing_counted])

    scores = summarize(stack)

    second = (90 / 95 + 5 / 10) / 2
    mean_iou, mean_dice = image_means(stack)
    np.testing.assert_allclose(mean_iou, [1.0, second, NAN])
    assert math.isnan(mean_dice[2])
    assert scores.mean_iou_per_image == pytest.approx((1.0 + second) / 2)
    assert scores.mean_iou == pytest.approx((190 / 195 + 5 / 10) / 2)
    assert scores.num_images == 3


def test_figures_are_one_flat_dict_with_a_key_for_every_class():
    figures = summarize(np.array([[[3, 1], [0, 0]]])).figures(["sky", "road"])

    assert figures["mean_iou"] == pytest.approx((3 / 4 + 0) / 2)
    assert figures["iou/sky"] == pytest.approx(3 / 4)
    assert figures["precision/road"] == 0
    assert math.isnan(figures["recall/road"])
    assert set(figures) == {
        "mean_iou", "mean_dice", "pixel_accuracy", "mean_iou_per_image", "mean_dice_per_image",
        "num_classes_averaged", "iou/sky", "iou/road", "dice/sky", "dice/road", "precision/sky",
        "precision/road", "recall/sky", "recall/road",
    }  # fmt: skip
    assert all(type(value) is float for value in figures.values())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), parts=st.integers(1, 9), num_classes=st.integers(2, 7))
def test_counts_do_not_depend_on_batches_or_order(seed, parts, num_classes):
    target, prediction = random_masks(seed, num_classes, (24, 10))
    whole = confusion_matrix(target, prediction, num_classes=num_classes)

    order = np.random.default_rng(seed).permutation(24)
    pieces = [
        confusion_matrix(target[rows], prediction[rows], num_classes=num_classes)
        for rows in np.array_split(order, parts)
    ]

    np.testing.assert_array_equal(sum(pieces), whole)
    split, one = summarize(np.stack(pieces)), summarize(whole[None])
    np.testing.assert_array_equal(split.matrix, one.matrix)
    assert (split.mean_iou, split.pixel_accuracy) == (one.mean_iou, one.pixel_accuracy)


def test_5000_x_5000_pixels_are_counted_exactly():
    # float32 would stop at 16,777,216
    target = np.zeros((5000, 5000), dtype=np.uint8)
    prediction = np.zeros_like(target)
    prediction[0, :3] = 1
    target[4999, :5] = 1

    matrix = confusion_matrix(target, prediction, num_classes=2)

    assert matrix.tolist() == [[5000 * 5000 - 8, 3], [5, 0]]
    many = summarize(np.broadcast_to(matrix, (400, 2, 2)))  # 10**10: more than int32 holds
    assert many.num_pixels == 400 * 5000 * 5000


def test_what_is_predicted_under_ignored_pixels_changes_nothing():
    target, prediction = random_masks(1, 3)
    changed = prediction.copy()
    changed[target == 255] = 99

    np.testing.assert_array_equal(
        confusion_matrix(target, prediction, num_classes=3),
        confusion_matrix(target, changed, num_classes=3),
    )


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint16, np.int32, np.int64])
def test_every_integer_type_counts_alike(dtype):
    target = np.array([[0, 1], [1, 0]])
    prediction = np.array([[0, 1], [0, 0]])

    matrix = confusion_matrix(target.astype(dtype), prediction.astype(dtype), num_classes=2)

    assert matrix.tolist() == [[2, 0], [1, 1]]


def test_without_counted_pixels_every_figure_is_nan():
    for matrices in (np.zeros((0, 3, 3), dtype=np.int64), np.zeros((2, 3, 3), dtype=np.int64)):
        scores = summarize(matrices)
        assert math.isnan(scores.mean_iou)
        assert math.isnan(scores.pixel_accuracy)
        assert math.isnan(scores.mean_dice_per_image)
        assert scores.num_classes_averaged == 0


def test_scores_of_a_stack_are_those_of_its_matrices():
    stack = np.random.default_rng(0).integers(0, 9, (4, 3, 3))
    scores = class_scores(stack)
    for n, matrix in enumerate(stack):
        np.testing.assert_array_equal(scores.dice[n], class_scores(matrix).dice)


def test_bad_input_is_refused_in_words():
    grid = np.zeros((2, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"shape \(2, 3\), the prediction \(3, 2\)"):
        confusion_matrix(grid, grid.T, num_classes=2)
    with pytest.raises(UserError, match="class index 7, but there are 2 classes"):
        confusion_matrix(grid + 7, grid, num_classes=2)
    with pytest.raises(UserError, match="prediction holds the class index -1"):
        confusion_matrix(grid, grid.astype(int) - 1, num_classes=2)
    with pytest.raises(UserError, match="argmax"):
        confusion_matrix(grid, grid.astype(np.float32), num_classes=2)
    with pytest.raises(UserError, match="stacked"):
        summarize(np.zeros((3, 3), dtype=np.int64))
