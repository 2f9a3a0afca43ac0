from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
from torch import nn

from unet_pipeline.errors import UserError
from unet_pipeline.models import ModelCard, Segmenter, build_network, load_model, save_model
from unet_pipeline.models import networks as networks_module

MakeCard = Callable[..., ModelCard]


class Echo(nn.Module):
    """A network that returns what it gets."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def pixels(low: int, high: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (2, channels, 5, 7))


@pytest.mark.parametrize(
    ("dtype", "value_range"),
    [("uint8", (0, 255)), ("uint16", (0, 65535)), ("int32", (-1000, 3000)), ("float32", (0, 1))],
)
def test_pixels_are_scaled_and_normalised_as_the_card_says(
    make_card: MakeCard, dtype: str, value_range: tuple[int, int]
) -> None:
    card = make_card(in_channels=2, value_range=value_range, mean=(0.2, 0.7), std=(0.1, 0.3))
    raw = pixels(value_range[0], value_range[1] + 1)
    low, high = value_range
    mean, std = (np.array(v).reshape(1, 2, 1, 1) for v in (card.mean, card.std))
    expected = ((raw - low) / (high - low) - mean) / std
    x = Segmenter(Echo(), card)(torch.from_numpy(raw.astype(dtype)))
    assert x.dtype == torch.float32
    assert np.allclose(x.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_type_that_holds_the_pixels_changes_nothing(
    make_card: MakeCard, tiny_segmenter: Segmenter
) -> None:
    raw = torch.from_numpy(pixels(0, 256, channels=1))
    with torch.no_grad():
        wanted = tiny_segmenter(raw.to(torch.uint8))
        for dtype in (torch.uint16, torch.int32, torch.int64, torch.float32, torch.float64):
            assert torch.equal(tiny_segmenter(raw.to(dtype)), wanted)


def test_a_segmenter_of_16_bits_works_on_uint16(make_card: MakeCard) -> None:
    card = make_card(dtype="uint16", value_range=(0, 65535))
    segmenter = Segmenter.from_card(card).eval()
    raw = torch.from_numpy(pixels(0, 65536, channels=1).astype(np.uint16))
    with torch.no_grad():
        assert segmenter(raw).shape == (2, 2, 5, 7)


def test_logits_are_float32_under_autocast(tiny_segmenter: Segmenter) -> None:
    raw = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert tiny_segmenter.network(raw.float()).dtype == torch.bfloat16
        assert tiny_segmenter(raw).dtype == torch.float32


def test_the_logits_of_all_levels_are_float32_in_training_and_the_full_ones_in_evaluation(
    make_card: MakeCard,
) -> None:
    options = {"base_channels": 2, "depth": 3, "stem": 2, "deep_supervision": True}
    segmenter = Segmenter.from_card(make_card(options=options))
    raw = torch.zeros(2, 1, 32, 48, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        levels = segmenter.train()(raw)
        with torch.no_grad():
            logits = segmenter.eval()(raw)
    assert [tuple(level.shape) for level in levels] == [
        *((2, 2, 32, 48), (2, 2, 8, 12), (2, 2, 4, 6)),
    ]
    assert all(level.dtype == torch.float32 for level in levels)
    assert logits.shape == (2, 2, 32, 48)
    assert logits.dtype == torch.float32


def test_a_model_with_a_stem_and_deep_supervision_survives_its_file(
    make_card: MakeCard, tmp_path: Path
) -> None:
    options = {"base_channels": 2, "depth": 2, "stem": 4, "deep_supervision": True}
    torch.manual_seed(0)
    segmenter = Segmenter.from_card(make_card(options=options)).eval()
    save_model(tmp_path / "model.safetensors", segmenter)
    loaded = load_model(tmp_path / "model.safetensors")
    raw = torch.from_numpy(pixels(0, 256, channels=1))
    with torch.no_grad():
        assert torch.equal(loaded(raw), segmenter(raw))
    for name, tensor in segmenter.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 8, 8), (8, 8), (1, 1, 0, 8), (0, 1, 8, 8)])
def test_pixels_of_another_shape_are_refused(
    tiny_segmenter: Segmenter, shape: tuple[int, ...]
) -> None:
    with pytest.raises(UserError, match=r"the model takes \(N, 1, H, W\)"):
        tiny_segmenter(torch.zeros(shape, dtype=torch.uint8))


def test_normalisation_is_no_parameter_and_in_no_state_dict(tiny_segmenter: Segmenter) -> None:
    assert all(name.startswith("network.") for name in tiny_segmenter.state_dict())
    assert all(name.startswith("network.") for name, _ in tiny_segmenter.named_parameters())


def test_normalisation_follows_the_model_to_its_device(make_card: MakeCard) -> None:
    segmenter = Segmenter(Echo(), make_card()).to("meta")
    assert segmenter(torch.zeros(1, 1, 4, 4, device="meta")).device.type == "meta"


def test_prediction_does_not_depend_on_the_batch(tiny_segmenter: Segmenter) -> None:
    raw = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 1, 33, 21), np.uint8))
    with torch.no_grad():
        together = tiny_segmenter(raw)
        alone = torch.cat([tiny_segmenter(one[None]) for one in raw])
    assert (together - alone).abs().max() <= 1e-5 * together.abs().max()


def test_from_card_builds_the_network_of_the_card(make_card: MakeCard) -> None:
    card = make_card(in_channels=3, num_classes=4, options={"base_channels": 6, "depth": 2})
    weights = Segmenter.from_card(card).network.state_dict()
    assert weights["inc.double_conv.0.weight"].shape == (6, 3, 3, 3)
    assert weights["outc.conv.weight"].shape[0] == 4


def test_from_card_asks_for_no_pretrained_weights(
    make_card: MakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def build(name: str, *, encoder_weights: str | None = "imagenet", **_: object) -> nn.Module:
        asked.append(encoder_weights)
        return Echo()

    monkeypatch.setattr(networks_module, "build_smp", build)
    card = make_card(network="smp:unet/resnet18", options={"encoder_weights": "imagenet"})
    Segmenter.from_card(card)
    assert asked == [None]
    build_network(card.network, card.options, in_channels=1, num_classes=2)
    assert asked == [None, "imagenet"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mean": (0.5, 0.5)}, "2 means and 1 standard deviations for 1 channels"),
        ({"std": (0.0,)}, "must be above 0"),
        ({"std": (float("nan"),)}, "finite"),
        ({"value_range": (5, 5)}, "must be the larger"),
        ({"value_range": (0, float("inf"))}, "finite"),
        ({"in_channels": 0}, "greater than or equal to 1"),
        ({"window": 0}, "greater than or equal to 1"),
        ({"dtype": "int8"}, "uint8"),
        ({"surprise": 1}, "not permitted"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(
    make_card: MakeCard, fields: dict, words: str
) -> None:
    with pytest.raises(pydantic.ValidationError, match=words):
        make_card(**fields)


def test_a_card_survives_json(make_card: MakeCard) -> None:
    card = make_card(facts={"run": "Läufer", "metrics": {"mean_iou": 0.1 + 0.2}, "ids": [1, None]})
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
