"""Schedules against their closed forms, and the plateau against torch's, step by step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unet_pipeline.catalogue import describe
from unet_pipeline.errors import UserError
from unet_pipeline.training.schedules import SCHEDULES, Plateau, build_schedule, cosine, poly

SCHEDULE = pytest.mark.parametrize("name", list(SCHEDULES))


@SCHEDULE
@given(progress=st.floats(-0.5, 1.5), warmup=st.floats(0, 0.9))
@settings(max_examples=30, deadline=None)
def test_a_factor_lies_in_zero_to_one(name: str, progress: float, warmup: float) -> None:
    factor = build_schedule(name, {"warmup_fraction": warmup})(progress)
    assert 0 <= factor <= 1


@SCHEDULE
def test_warm_up_is_a_line_from_a_hundredth_to_one(name: str) -> None:
    schedule = build_schedule(name, {"warmup_fraction": 0.2})
    assert schedule(0.0) == pytest.approx(0.01)
    assert schedule(0.1) == pytest.approx((0.01 + 1) / 2)
    assert schedule(0.2) == pytest.approx(1)


@SCHEDULE
def test_without_warm_up_it_begins_at_one(name: str) -> None:
    assert build_schedule(name, {"warmup_fraction": 0})(0.0) == 1


@SCHEDULE
def test_after_warm_up_it_never_rises(name: str) -> None:
    schedule = build_schedule(name, {"warmup_fraction": 0.05})
    factors = [schedule(0.05 + 0.95 * step / 100) for step in range(101)]
    assert all(a >= b for a, b in itertools.pairwise(factors))


def test_schedules_follow_their_closed_forms() -> None:
    for step in range(11):
        u = step / 10
        progress = 0.05 + 0.95 * u
        assert cosine(progress) == pytest.approx(math.cos(math.pi * u / 2) ** 2, abs=1e-12)
        assert poly(progress) == pytest.approx((1 - u) ** 0.9, abs=1e-12)
        assert poly(progress, power=1, final_fraction=0.2) == pytest.approx(1 - 0.8 * u)
        assert SCHEDULES["constant"](progress) == 1


def test_the_end_is_the_final_fraction_also_past_the_limit() -> None:
    for progress in (1.0, 1.02):
        assert cosine(progress) == pytest.approx(0, abs=1e-12)
        assert cosine(progress, final_fraction=0.1) == pytest.approx(0.1)
        assert poly(progress, final_fraction=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "unknown schedule 'cosin': did you mean 'cosine'?"),
        ("cosine", {"warmup": 0.1}, "no option 'warmup'"),
        ("cosine", {"warmup_fraction": 1.0}, "warmup_fraction = 1.0"),
        ("cosine", {"warmup_fraction": -0.1}, "warmup_fraction = -0.1"),
        ("cosine", {"final_fraction": 2}, "final_fraction = 2.0"),
        ("constant", {"final_fraction": 0.5}, "no option 'final_fraction'"),
        ("poly", {"power": 0}, "power = 0.0"),
        ("plateau", {"patience": -1}, "patience = -1"),
        ("plateau", {"factor": 1}, "factor = 1.0"),
        ("plateau", {"factor": 0}, "factor = 0.0"),
        ("plateau", {"min_factor": -0.1}, "min_factor = -0.1"),
        ("plateau", {"warmup_fraction": 1}, "warmup_fraction = 1.0"),
        ("plateau", {"patients": 1}, "did you mean 'patience'"),
    ],
)
def test_schedules_that_cannot_be_are_refused_when_built(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        build_schedule(name, options)
    assert message in str(caught.value)


@SCHEDULE
def test_every_schedule_takes_scores_and_comes_back_from_its_state(name: str) -> None:
    schedule, resumed = build_schedule(name, {}), build_schedule(name, {})
    for score in (0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.1):
        schedule.observe(score)
    resumed.load_state_dict(schedule.state_dict())
    for score in (math.nan, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1):
        assert schedule(0.5) == resumed(0.5)
        schedule.observe(score)
        resumed.observe(score)
    assert schedule.state_dict() == resumed.state_dict()


@pytest.mark.parametrize("name", ["cosine", "constant", "poly"])
def test_scores_move_no_schedule_of_progress(name: str) -> None:
    schedule = build_schedule(name, {})
    before = [schedule(step / 10) for step in range(11)]
    for _ in range(20):
        schedule.observe(0.0)
    assert [schedule(step / 10) for step in range(11)] == before
    assert schedule.state_dict() == {}


@SCHEDULE
def test_every_schedule_is_listed_with_its_options(name: str) -> None:
    described = describe(SCHEDULES[name])
    assert described.summary.endswith(".")
    assert "warmup_fraction" in described.options


def test_the_options_of_the_plateau_are_listed() -> None:
    assert describe(Plateau).options == {
        "patience": 5,
        "factor": 0.1,
        "min_factor": 1e-4,
        "warmup_fraction": 0.0,
    }


def torch_factors(scores: list[float], *, patience: int, factor: float, min_factor: float):
    """The learning rates of torch's own scheduler after each score, from 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", patience=patience, factor=factor, min_lr=min_factor, eps=0
    )
    for score in scores:
        scheduler.step(score)
        yield optimizer.param_groups[0]["lr"]


score = st.one_of(
    st.sampled_from([0.0, 0.5, 0.50004, 0.50006, -0.5, 1.0, math.nan, math.inf, -math.inf]),
    st.floats(-1, 1),
)


@settings(deadline=None, max_examples=200)
@given(
    scores=st.lists(score, max_size=40),
    patience=st.integers(0, 4),
    factor=st.sampled_from([0.1, 0.5, 0.9]),
    min_factor=st.sampled_from([0.0, 1e-4, 0.2, 1.0]),
)
def test_the_plateau_steps_when_torchs_own_does(
    scores: list[float], patience: int, factor: float, min_factor: float
) -> None:
    plateau = Plateau(patience=patience, factor=factor, min_factor=min_factor)
    wanted = torch_factors(scores, patience=patience, factor=factor, min_factor=min_factor)
    for value, expected in zip(scores, wanted, strict=True):
        plateau.observe(value)
        assert plateau.factor == expected
        assert plateau(0.5) == expected


def test_the_plateau_steps_down_by_hand() -> None:
    plateau = Plateau(patience=1, factor=0.5, min_factor=0.2)
    assert plateau.factor == 1
    seen = []
    for value in (0.5, 0.4, 0.5, 0.5, 0.50001, 0.6, 0.1, 0.1, 0.1, 0.1):
        plateau.observe(value)
        seen.append(plateau.factor)
    # two in a row that are not better by 1e-4; the count then begins again; the floor holds
    assert seen == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2]


def test_the_plateau_warms_up_only_when_asked() -> None:
    assert Plateau()(0.0) == 1
    assert Plateau(warmup_fraction=0.5)(0.25) == pytest.approx((0.01 + 1) / 2)


def test_the_state_of_a_plateau_survives_a_checkpoint(tmp_path) -> None:
    plateau = Plateau(patience=0)
    torch.save(plateau.state_dict(), tmp_path / "state")  # nothing observed: the best is -inf
    fresh = Plateau(patience=0)
    fresh.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert fresh.state_dict() == plateau.state_dict()
