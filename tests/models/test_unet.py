from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from unet_pipeline.errors import UserError
from unet_pipeline.models import DoubleConv, UNet
from unet_pipeline.models.layers import pad_to
from unet_pipeline.models.unet import STEMS, UpsampledOut

TOLERANCE = 1e-5  # float32

Reference = Callable[..., nn.Module]


def pair(reference_unet: Reference, *, bilinear: bool, base: int) -> tuple[nn.Module, UNet]:
    """The independent U-Net and ours, with the same weights."""
    reference = reference_unet(in_channels=3, num_classes=2, bilinear=bilinear, base=base)
    ours = UNet(in_channels=3, num_classes=2, bilinear=bilinear, base_channels=base)
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("bilinear", [False, True])
def test_logits_equal_those_of_an_independent_unet_at_full_width(
    reference_unet: Reference, bilinear: bool
) -> None:
    reference, ours = pair(reference_unet, bilinear=bilinear, base=64)
    x = image(1, 3, 37, 53)
    with torch.no_grad():
        assert (ours.eval()(x) - reference.eval()(x)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("training", [False, True], ids=["eval", "batch"])
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (61, 47), (64, 80), (99, 16)])
def test_logits_equal_those_of_an_independent_unet(
    reference_unet: Reference, bilinear: bool, training: bool, size: tuple[int, int]
) -> None:
    reference, ours = pair(reference_unet, bilinear=bilinear, base=4)
    x = image(2, 3, *size)
    with torch.no_grad():
        expected, logits = reference.train(training)(x), ours.train(training)(x)
    assert expected.std() > 0.01  # the two agree about something
    assert (logits - expected).abs().max() <= TOLERANCE
    for name, tensor in reference.state_dict().items():  # running statistics among them
        assert torch.allclose(ours.state_dict()[name], tensor, atol=TOLERANCE), name


def test_gradients_equal_those_of_an_independent_unet(reference_unet: Reference) -> None:
    reference, ours = pair(reference_unet, bilinear=False, base=4)
    x = image(2, 3, 35, 41)
    for network in (reference, ours):
        network.train()(x).square().mean().backward()
    wanted = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name].grad, atol=TOLERANCE), name


def test_default_state_dict_has_the_names_of_the_well_known_unet_in_their_order() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    layers = ["0.weight", *(f"1.{n}" for n in norm), "3.weight", *(f"4.{n}" for n in norm)]
    expected = [f"inc.double_conv.{layer}" for layer in layers]
    for level in (1, 2, 3, 4):
        expected += [f"down{level}.maxpool_conv.1.double_conv.{layer}" for layer in layers]
    for level in (1, 2, 3, 4):
        expected += [f"up{level}.up.weight", f"up{level}.up.bias"]
        expected += [f"up{level}.conv.double_conv.{layer}" for layer in layers]
    expected += ["outc.conv.weight", "outc.conv.bias"]
    with torch.device("meta"):
        assert list(UNet(in_channels=3, num_classes=2).state_dict()) == expected
        bilinear = list(UNet(in_channels=3, num_classes=2, bilinear=True).state_dict())
    assert bilinear == [name for name in expected if ".up." not in name]


@pytest.mark.parametrize(("bilinear", "count"), [(False, 31_037_698), (True, 17_263_042)])
def test_default_unet_has_the_published_number_of_parameters(bilinear: bool, count: int) -> None:
    with torch.device("meta"):
        network = UNet(in_channels=3, num_classes=2, bilinear=bilinear)
    assert sum(p.numel() for p in network.parameters()) == count


@functools.cache
def small(bilinear: bool, depth: int, norm: str, stem: int = 1) -> UNet:
    return UNet(
        in_channels=2,
        num_classes=3,
        bilinear=bilinear,
        base_channels=8,
        depth=depth,
        norm=norm,
        stem=stem,
    ).eval()


lengths = st.sampled_from([1, 2, 3, 5, 7, 13, 16, 17, 31, 32, 37, 61])


@settings(deadline=None, max_examples=40)
@given(
    height=lengths,
    width=lengths,
    bilinear=st.booleans(),
    depth=st.integers(1, 4),
    norm=st.sampled_from(["batch", "group", "instance", "none"]),
    stem=st.sampled_from(STEMS),
)
def test_logits_have_the_size_of_any_image(
    height: int, width: int, bilinear: bool, depth: int, norm: str, stem: int
) -> None:
    with torch.no_grad():
        logits = small(bilinear, depth, norm, stem)(image(1, 2, height, width))
    assert logits.shape == (1, 3, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
@pytest.mark.parametrize("bilinear", [False, True])
def test_one_pixel_gives_the_logits_of_one_pixel(norm: str, bilinear: bool) -> None:
    with torch.no_grad():
        assert small(bilinear, 4, norm)(image(2, 2, 1, 1)).shape == (2, 3, 1, 1)


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
@pytest.mark.parametrize("bilinear", [False, True])
def test_every_parameter_gets_a_gradient(norm: str, bilinear: bool) -> None:
    torch.manual_seed(0)
    network = UNet(
        in_channels=1, num_classes=2, bilinear=bilinear, base_channels=8, depth=2, norm=norm
    )
    network(image(2, 1, 19, 23)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_convolutions_keep_their_names_and_have_a_bias_only_without_a_norm(norm: str) -> None:
    block = DoubleConv(8, 8, norm=norm)
    names = {name for name, _ in block.named_parameters()}
    assert {"double_conv.0.weight", "double_conv.3.weight"} <= names
    assert ("double_conv.0.bias" in names) == (norm == "none")
    assert ("double_conv.1.weight" in names) == (norm != "none")


def test_depth_and_base_channels_set_the_levels_and_their_widths() -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=6, depth=3)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["inc.double_conv.0.weight"] == (6, 1, 3, 3)
    assert shapes["down3.maxpool_conv.1.double_conv.3.weight"] == (48, 48, 3, 3)
    assert shapes["up1.up.weight"] == (48, 24, 2, 2)
    assert shapes["up3.conv.double_conv.0.weight"] == (6, 12, 3, 3)
    assert not any(name.startswith(("down4", "up4")) for name in shapes)


def test_dropout_acts_at_the_end_of_the_two_deepest_levels_and_only_in_training() -> None:
    torch.manual_seed(0)
    network = UNet(in_channels=1, num_classes=2, base_channels=4, dropout=0.5)
    places = [name for name, module in network.named_modules() if isinstance(module, nn.Dropout)]
    assert places == [f"down{level}.maxpool_conv.1.double_conv.6" for level in (3, 4)]
    x = image(2, 1, 32, 32)
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


def test_no_dropout_means_no_dropout_layers() -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=4)
    assert not any(isinstance(module, nn.Dropout) for module in network.modules())


def test_dropout_changes_no_names(tiny_unet: UNet) -> None:
    dropped = UNet(in_channels=1, num_classes=2, base_channels=2, depth=1, dropout=0.1)
    assert list(dropped.state_dict()) == list(tiny_unet.state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 1}, "background is a class too"),
        ({"in_channels": 0}, "in_channels = 0"),
        ({"base_channels": 0}, "base_channels = 0"),
        ({"base_channels": 12, "norm": "group"}, "multiple of 8"),
        ({"depth": 0}, "depth = 0"),
        ({"depth": 9}, "1 to 8"),
        ({"norm": "bach"}, "did you mean 'batch'"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"dropout": -0.1}, "dropout = -0.1"),
        ({"dropout": float("nan")}, "dropout = nan"),
        ({"stem": 3}, "stem = 3: use 1"),
        ({"stem": 8}, "stem = 8: use 1"),
        ({"stem": 0}, "stem = 0: use 1"),
        ({"depth": 1, "deep_supervision": True}, "no coarser level"),
    ],
)
def test_options_that_make_no_network_are_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        UNet(**{"in_channels": 3, "num_classes": 2, **options})
    assert "\n" not in str(caught.value)


def test_the_networks_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        UNet(3, 2)  # type: ignore[misc]


@pytest.mark.parametrize("depth", [1, 5])
@pytest.mark.parametrize("bilinear", [False, True])
def test_levels_are_visited_once_each_however_deep(depth: int, bilinear: bool) -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=2, depth=depth, bilinear=bilinear)
    seen: list[str] = []
    for name, module in network.named_children():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    network.eval()(image(1, 1, 40, 40))
    downs = [f"down{k}" for k in range(1, depth + 1)]
    ups = [f"up{k}" for k in range(1, depth + 1)]
    assert seen == ["inc", *downs, *ups, "outc"]


# ---- the stem that folds pixels into channels


@pytest.mark.parametrize("stem", [2, 4])
@pytest.mark.parametrize("size", [(32, 48), (37, 53), (1, 1), (64, 9)])
def test_a_stem_is_a_plain_unet_of_folded_pixels_whose_logits_are_interpolated(
    stem: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network = UNet(in_channels=2, num_classes=3, base_channels=4, depth=2, stem=stem).eval()
    plain = UNet(in_channels=2 * stem**2, num_classes=3, base_channels=4, depth=2).eval()
    state = network.state_dict()
    plain.load_state_dict({name.replace("coarse", "conv"): t for name, t in state.items()})
    height, width = size
    x = image(2, 2, height, width)
    padded = pad_to(x, stride=stem, min_size=stem * 4)
    rows, columns = padded.shape[-2] // stem, padded.shape[-1] // stem
    # (n, channel, row, i, column, j) -> channels counted by channel, i, j
    squares = padded.reshape(2, 2, rows, stem, columns, stem).permute(0, 1, 3, 5, 2, 4)
    with torch.no_grad():
        coarse = plain(squares.reshape(2, -1, rows, columns))
        size = (rows * stem, columns * stem)
        wanted = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
        assert torch.equal(network(x), wanted[..., :height, :width])


@pytest.mark.parametrize("factor", [2, 4])
def test_logits_are_interpolated_between_the_middles_of_the_squares(factor: int) -> None:
    head = UpsampledOut(1, 1, factor)
    nn.init.ones_(head.coarse.weight)
    assert head.coarse.bias is not None
    nn.init.zeros_(head.coarse.bias)
    ramp = torch.arange(6.0).expand(1, 1, 4, 6)
    with torch.no_grad():
        logits = head(ramp)
    assert logits.shape == (1, 1, 4 * factor, 6 * factor)
    middles = (torch.arange(6.0 * factor) + 0.5) / factor - 0.5
    assert torch.allclose(logits[0, 0, 0], middles.clamp(0, 5), atol=1e-6)


@pytest.mark.parametrize("stem", [2, 4])
def test_a_stem_changes_the_names_of_the_last_layer_only(stem: int) -> None:
    with torch.device("meta"):
        plain = UNet(in_channels=3, num_classes=2)
        folding = UNet(in_channels=3, num_classes=2, stem=stem)
    expected = [name.replace("outc.conv", "outc.coarse") for name in plain.state_dict()]
    assert list(folding.state_dict()) == expected


def test_an_image_of_one_pixel_and_a_batch_of_one_train_behind_a_stem() -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=8, norm="group", stem=4)
    network(image(1, 1, 1, 1)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# ---- deep supervision


def deep(**options: Any) -> UNet:
    torch.manual_seed(0)
    given = {"in_channels": 1, "num_classes": 3, "base_channels": 8, "depth": 3}
    return UNet(**{**given, **options})


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("stem", STEMS)
def test_in_training_the_coarser_levels_predict_too(bilinear: bool, stem: int) -> None:
    outputs = deep(bilinear=bilinear, stem=stem, deep_supervision=True)(image(2, 1, 64, 96))
    assert isinstance(outputs, tuple)
    sizes = [(64, 96), *((64 // (stem * 2**level), 96 // (stem * 2**level)) for level in (1, 2))]
    assert [tuple(o.shape) for o in outputs] == [(2, 3, *size) for size in sizes]


def test_deep_supervision_leaves_evaluation_and_the_full_logits_as_they_are() -> None:
    with_heads, without = deep(deep_supervision=True), deep()
    x = image(2, 1, 24, 40)
    outputs, wanted = with_heads(x), without(x)
    assert isinstance(outputs, tuple)
    assert torch.equal(outputs[0], wanted)
    with torch.no_grad():
        assert torch.equal(with_heads.eval()(x), without.eval()(x))


def test_heads_are_called_aux_and_come_last_in_the_state_dict() -> None:
    with torch.device("meta"):
        plain = list(UNet(in_channels=3, num_classes=2).state_dict())
        names = list(UNet(in_channels=3, num_classes=2, deep_supervision=True).state_dict())
    heads = [f"aux{level}.conv.{part}" for level in (1, 2, 3) for part in ("weight", "bias")]
    assert names == plain + heads


def test_the_state_of_a_deeply_supervised_network_fits_its_like() -> None:
    first, second = (
        deep(deep_supervision=True),
        UNet(in_channels=1, num_classes=3, base_channels=8, depth=3, deep_supervision=True),
    )
    second.load_state_dict(first.state_dict())
    x = image(2, 1, 24, 24)
    for one, other in zip(first(x), second(x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("stem", [1, 2])
def test_every_level_trains_its_head_and_all_that_is_below(stem: int) -> None:
    network = deep(deep_supervision=True, stem=stem)
    outputs = network(image(2, 1, 24, 40))
    sum(o.square().sum() for o in outputs).backward()
    assert all(p.grad is not None for p in network.parameters())  # none unused: DDP needs that
    network.zero_grad(set_to_none=True)
    network(image(2, 1, 24, 40))[2].square().sum().backward()
    trained = {
        name.partition(".")[0] for name, p in network.named_parameters() if p.grad is not None
    }
    assert trained == {"inc", "down1", "down2", "down3", "up1", "aux2"}
