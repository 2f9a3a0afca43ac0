"""Losses by expression: what is read, what is refused, and in which words."""

from __future__ import annotations

import pytest
import torch

from tests.training.loss_cases import ALL, ONLY_WITH, case, options_of
from unet_pipeline.errors import UserError
from unet_pipeline.training.losses import (
    CRITERIA,
    LOSSES,
    ce,
    dice,
    parse_loss,
)

# ---- expressions


def test_an_expression_is_the_weighted_sum_of_its_parts() -> None:
    logits, target = case()
    loss = parse_loss("ce(label_smoothing=0.1) + 0.5*dice + 2*(dice(smooth=0) + ce)")
    parts = loss.loss_parts(logits, target)
    assert list(parts) == ["ce(label_smoothing=0.1)", "dice", "dice(smooth=0)", "ce"]
    expected = ce(logits, target, label_smoothing=0.1) + dice(logits, target) / 2
    expected += 2 * dice(logits, target, smooth=0) + 2 * ce(logits, target)
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(loss.total(parts), expected)
    assert torch.equal(parts["ce"], ce(logits, target))


@pytest.mark.parametrize("expression", ["dice", " dice ", "1*dice", "(dice)", "dice*1.0", "dice()"])
def test_one_loss_can_be_written_in_many_ways(expression: str) -> None:
    logits, target = case()
    torch.testing.assert_close(parse_loss(expression)(logits, target), dice(logits, target))


def test_weights_of_parentheses_multiply() -> None:
    terms = parse_loss("ce + 2*(0.25*dice)").terms
    assert [(term.name, term.weight) for term in terms] == [("ce", 1.0), ("dice", 0.5)]


def test_class_weights_reach_the_loss_through_an_expression() -> None:
    logits, target = case()
    expected = ce(logits, target, class_weights=[1, 2, 3, 4])
    value = parse_loss("ce(class_weights=[1, 2, 3, 4])", num_classes=4)(logits, target)
    assert torch.equal(value, expected)


def test_the_ignore_index_of_a_run_reaches_every_term() -> None:
    logits, target = case()
    renamed = torch.where(target == 255, 254, target)
    value = parse_loss("ce + dice", ignore_index=254)(logits, renamed)
    assert torch.equal(value, parse_loss("ce + dice")(logits, target))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("dise", "unknown loss 'dise': did you mean 'dice'?"),
        ("ce + focl", "unknown loss 'focl'"),
        ("ce(label_smoothin=0.1)", "no option 'label_smoothin': did you mean 'label_smoothing'?"),
        ("ce(label_smoothing='much')", "label_smoothing = 'much'"),
        ("ce(ignore_index=3)", "ignore_index comes from the data"),
        ("ce(0.1)", "written by its name: ce(label_smoothing=...)"),
        ("ce(**{'smooth': 1})", "cannot read the loss"),
        ("ce + ce", "twice; write 2*ce"),
        ("ce + ce()", "twice; write 2*ce"),
        ("ce # a comment", "cannot read the loss"),
        ("ce(class_weights=5)", "loss ce: class_weights = 5"),
        ("ce - dice", "cannot read the loss 'ce - dice' at 'ce - dice'"),
        ("ce * dice", "cannot read the loss"),
        ("0*ce", "weight 0: use a positive number"),
        ("-1*ce", "at '-1*ce'"),
        ("1e999*ce", "weight inf"),
        ("True*ce", "cannot read the loss"),
        ("2", "cannot read the loss"),
        ("", "cannot read the loss ''"),
        ("ce +", "cannot read the loss"),
        ("ce; dice", "cannot read the loss"),
        ("ce(label_smoothing=__import__('os').getpid())", "cannot read the loss"),
        ("().__class__", "cannot read the loss"),
        ("losses.ce()", "cannot read the loss"),
        ("ce\0", "cannot read the loss"),
        ("ce(label_smoothing={[1]: 2})", "cannot read the loss"),
        ("ce(label_smoothing=0.1, label_smoothing=0.2)", "label_smoothing is given twice"),
        ("1" * 400 + "*ce", "weight inf"),
        ("(" * 900 + "ce" + ")" * 90, "cannot read the loss"),
        ("-" * 990 + "ce", "cannot read the loss"),
        ("ce" + " + dice" * 1000, "characters"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(expression: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_loss(expression)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("ce(label_smoothing=1)", "label_smoothing = 1.0"),
        ("ce(label_smoothing=-0.1)", "label_smoothing = -0.1"),
        ("dice(smooth=-1)", "smooth = -1.0"),
        ("ce(class_weights=[1, 2])", "2 numbers for 3 classes"),
        ("ce(class_weights=[1, -2, 1])", "use numbers >= 0"),
        ("ce(class_weights=[0, 0, 0])", "not all of them 0"),
        ("ce(class_weights=[1, 2, 1e999])", "use numbers >= 0"),
    ],
)
def test_options_out_of_range_are_found_before_the_first_batch(
    expression: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_loss(expression, num_classes=3)
    assert message in str(caught.value)


# ---- options out of range

OUT_OF_RANGE: dict[str, list[str]] = {
    "alpha": ["-0.1", "1e999", "nan", "much"],
    "beta": ["-0.1", "1e999", "nan", "much"],
    "class_weights": [
        "[1, 2]",
        "[1, 2, 3, 4]",
        "[]",
        "[1, -2, 1]",
        "[0, 0, 0]",
        "[1, 2, 1e999]",
        "[1, 2, 1e39]",
        "[1, 2, 'nan']",
        "[1e-50, 0, 0]",
        "[1, 'much', 2]",
        "ballanced",
        "'ballanced'",
        "5",
        "True",
    ],
    "eps": ["0", "-1", "1e999", "nan"],
    "fraction": ["0", "-0.1", "1.1", "nan", "much"],
    "gamma": ["-1", "1e999", "nan", "much"],
    "label_smoothing": ["-0.1", "1", "nan", "much"],
    "log_input": ["maybe", "2"],
    "margin": ["0", "-1", "1e999", "nan"],
    "min_fraction": ["0", "1.1", "nan"],
    "p": ["0", "3", "1.5"],
    "sigma": ["0", "-1", "1e999", "nan"],
    "smooth": ["-1", "1e999", "nan", "much"],
    "threshold": ["0", "1", "nan"],
    "w0": ["-1", "1e999", "nan"],
}


@ALL
def test_an_option_out_of_range_is_refused_in_one_line_that_names_it(name: str) -> None:
    for option in options_of(name):
        others = "".join(f", {k}={v}" for k, v in ONLY_WITH.get((name, option), {}).items())
        for value in OUT_OF_RANGE[option]:
            with pytest.raises(UserError) as caught:
                parse_loss(f"{name}({option}={value}{others})", num_classes=3)
            message = str(caught.value)
            assert message.removeprefix("loss ").startswith(f"{name}:")
            assert option in message
            assert "\n" not in message


def test_every_option_has_a_value_that_is_refused() -> None:
    assert OUT_OF_RANGE.keys() == {option for name in LOSSES for option in options_of(name)}


@pytest.mark.parametrize(
    "expression",
    ["smooth_l1(beta=0)", "focal_tversky(gamma=0)", "tversky(alpha=0, beta=0)"],
)
def test_zero_is_refused_where_nothing_would_be_left(expression: str) -> None:
    with pytest.raises(UserError, match=r"= 0\.0"):
        parse_loss(expression, num_classes=3)


@pytest.mark.parametrize("name", [name for name in LOSSES if not options_of(name)])
def test_a_loss_without_options_says_so(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} has no options; write {name} alone"):
        parse_loss(f"{name}(1)")
    with pytest.raises(UserError, match="no option 'smooth'"):
        parse_loss(f"{name}(smooth=1)")


def test_there_is_a_loss_without_options() -> None:
    assert options_of("mcc") == options_of("lovasz") == {}


# ---- losses that cannot score a mask


@pytest.mark.parametrize("name", [name for name, c in CRITERIA.items() if c.dense is None])
def test_a_loss_that_cannot_score_a_mask_is_refused_with_reason_and_alternatives(name: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_loss(f"ce + 0.5*{name}")
    message = str(caught.value)
    assert message.startswith(f"loss {name!r} cannot train on masks: {CRITERIA[name].reason}")
    assert message.endswith("use one of " + ", ".join(LOSSES))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "dense"), [(name, c.dense) for name, c in CRITERIA.items() if c.dense is not None]
)
def test_a_loss_of_the_notes_is_found_by_its_name_here(name: str, dense: str) -> None:
    if name in LOSSES:
        assert parse_loss(name).terms[0].entry == dense
    else:
        with pytest.raises(UserError, match=f"^loss {name!r} is called {dense!r} here$"):
            parse_loss(name)


def test_cross_entropy_is_called_ce() -> None:
    with pytest.raises(UserError, match="'cross_entropy' is called 'ce' here"):
        parse_loss("cross_entropy(label_smoothing=0.1)")


def test_none_is_written_as_the_list_of_losses_shows_it() -> None:
    logits, target = case()
    value = parse_loss("ce(class_weights=none)", num_classes=4)(logits, target)
    assert torch.equal(value, LOSSES["ce"](logits, target))
