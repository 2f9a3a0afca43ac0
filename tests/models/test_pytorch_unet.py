from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unet_pipeline.errors import UserError
from unet_pipeline.models import UNet, load_model

Reference = Callable[..., nn.Module]
SavePth = Callable[..., Path]


def raw_image(channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (2, channels, 45, 38), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("base", [4, 64])
@pytest.mark.parametrize("bilinear", [False, True])
def test_a_checkpoint_with_two_classes_predicts_as_its_network(
    reference_unet: Reference, save_pth: SavePth, bilinear: bool, base: int
) -> None:
    reference = reference_unet(in_channels=3, num_classes=2, bilinear=bilinear, base=base)
    segmenter = load_model(save_pth(reference, mask_values=[0, 255]))
    raw = raw_image()
    with torch.no_grad():
        difference = segmenter(raw) - reference(raw / 255)
    assert difference.abs().max() <= 1e-5
    assert segmenter.card.classes.values == (0, 255)
    assert segmenter.card.options["bilinear"] is bilinear
    assert segmenter.card.options["base_channels"] == base


@pytest.mark.parametrize("bilinear", [False, True])
def test_a_checkpoint_with_one_logit_becomes_two_with_the_same_probability(
    reference_unet: Reference, save_pth: SavePth, bilinear: bool
) -> None:
    reference = reference_unet(in_channels=3, num_classes=1, bilinear=bilinear, base=4)
    segmenter = load_model(save_pth(reference, mask_values=[[0, 0, 0], [255, 0, 0]]))
    raw = raw_image()
    with torch.no_grad():
        probability = segmenter(raw).softmax(dim=1)[:, 1:]
        wanted = reference(raw / 255).sigmoid()
    assert wanted.std() > 0.01
    assert (probability - wanted).abs().max() <= 1e-6
    assert segmenter.card.classes.num_classes == 2
    assert segmenter.card.classes.encoding == "rgb"
    assert segmenter.card.classes.values == ((0, 0, 0), (255, 0, 0))


@pytest.mark.parametrize(
    ("mask_values", "values"),
    [
        ([0, 1], (0, 1)),
        ([0, 255], (0, 255)),
        ([False, True], (0, 1)),
        ([0.0, 128.0], (0, 128)),
        ([[255, 255, 255], [0, 0, 0]], ((255, 255, 255), (0, 0, 0))),
    ],
)
def test_mask_values_become_the_values_of_the_classes(
    reference_unet: Reference, save_pth: SavePth, mask_values: list, values: tuple
) -> None:
    reference = reference_unet(in_channels=1, num_classes=2, bilinear=False, base=2)
    card = load_model(save_pth(reference, mask_values=mask_values)).card
    assert card.classes.values == values
    assert card.classes.names == ("background", "foreground")


def test_an_older_checkpoint_without_mask_values_has_the_values_from_zero(
    reference_unet: Reference, save_pth: SavePth
) -> None:
    reference = reference_unet(in_channels=4, num_classes=3, bilinear=True, base=2)
    path = save_pth(reference)
    card = load_model(path).card
    assert card.classes.values == (0, 1, 2)
    assert card.classes.names == ("background", "class 1", "class 2")
    assert (card.in_channels, card.dtype, card.value_range) == (4, "uint8", (0.0, 255.0))
    assert (card.mean, card.std) == ((0.0,) * 4, (1.0,) * 4)
    assert card.facts == {"imported_from": str(path)}


@pytest.mark.parametrize(
    "mask_values",
    [
        *([0], [0, 1, 2], "ab", 3, [0, 0], [0.5, 1], ["a", "b"], [None, 1], [float("inf"), 0]),
        *([[0, 0, 0, 255], [1, 1, 1, 255]], [0, [1, 1, 1]], [-1, 0], [0, 70000]),
    ],
)
def test_mask_values_that_make_no_classes_are_refused(
    reference_unet: Reference, save_pth: SavePth, mask_values: Any
) -> None:
    reference = reference_unet(in_channels=1, num_classes=2, bilinear=False, base=2)
    with pytest.raises(UserError, match="mask_values") as caught:
        load_model(save_pth(reference, mask_values=mask_values))
    assert "\n" not in str(caught.value)


def test_half_precision_is_read_into_float32(reference_unet: Reference, save_pth: SavePth) -> None:
    reference = reference_unet(in_channels=1, num_classes=2, bilinear=False, base=2)
    segmenter = load_model(save_pth(reference.half()))
    reference.float()
    assert all(p.dtype == torch.float32 for p in segmenter.parameters())
    assert segmenter(raw_image(1)).isfinite().all()


def test_counters_of_batches_may_be_missing(reference_unet: Reference, tmp_path: Path) -> None:
    reference = reference_unet(in_channels=1, num_classes=2, bilinear=False, base=2)
    state = {k: v for k, v in reference.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    segmenter = load_model(tmp_path / "old.pth")
    raw = raw_image(1)
    with torch.no_grad():
        assert torch.allclose(segmenter(raw), reference(raw / 255), atol=1e-5)


def drop(state: dict[str, torch.Tensor]) -> None:
    del state["up2.up.bias"]


def add(state: dict[str, torch.Tensor]) -> None:
    state["attention.gate"] = torch.zeros(1)


def reshape(state: dict[str, torch.Tensor]) -> None:
    state["down2.maxpool_conv.1.double_conv.0.weight"] = torch.zeros(3, 3, 3, 3)


def widen(state: dict[str, torch.Tensor]) -> None:
    state["inc.double_conv.0.weight"] = torch.zeros(64, 1, 3, 3)


def empty(state: dict[str, torch.Tensor]) -> None:
    state["inc.double_conv.0.weight"] = torch.zeros(0, 1, 3, 3)


def flatten(state: dict[str, torch.Tensor]) -> None:
    state["outc.conv.weight"] = state["outc.conv.weight"].flatten()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, r"missing: up2\.up\.bias"),
        (add, r"unknown: attention\.gate"),
        (reshape, r"down2.* is \(3, 3, 3, 3\) in the file"),
        (widen, r"in the file and \(64, 64, 3, 3\) in the model.* and \d+ more"),
        (empty, "state dict of something else"),
        (flatten, "state dict of something else"),
    ],
)
def test_a_state_dict_that_is_no_unet_is_refused(
    reference_unet: Reference, tmp_path: Path, change: Callable[[dict], None], words: str
) -> None:
    reference = reference_unet(in_channels=1, num_classes=2, bilinear=False, base=2)
    state = dict(reference.state_dict())
    change(state)
    path = tmp_path / "strange.pth"
    torch.save(state, path)
    with pytest.raises(UserError, match=words) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert "strange.pth" in str(caught.value)


def test_a_state_dict_of_another_network_is_named_by_its_first_tensors(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(UserError, match=r"first names are weight, bias"):
        load_model(tmp_path / "linear.pth")


def test_a_state_of_a_unet_with_a_stem_is_not_taken_for_a_plain_one(save_pth: SavePth) -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=2, depth=1, stem=2)
    with pytest.raises(UserError, match="state dict of something else"):
        load_model(save_pth(network))


def test_heads_of_deep_supervision_are_named_where_a_plain_unet_is_expected(
    save_pth: SavePth,
) -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=2, depth=2, deep_supervision=True)
    with pytest.raises(UserError, match=r"unknown: aux1\.conv\.weight"):
        load_model(save_pth(network))
