from __future__ import annotations

import inspect
import json

import pytest
import torch

import unet_pipeline.models as models
from unet_pipeline.errors import UserError
from unet_pipeline.models import NETWORKS, build_network, complete_options

# Small options for each entry, so that a new entry without them is noticed here
SMALL: dict[str, dict[str, int]] = {
    "unet": {"base_channels": 4},
    "lenet": {},
    "mlp": {"hidden_features": 16},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(1, 1), (1, 67), (37, 53), (64, 64)])
@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 2), (5, 11)])
def test_every_network_gives_logits_of_the_size_of_the_image(
    name: str, size: tuple[int, int], in_channels: int, num_classes: int
) -> None:
    network = build_network(
        name, SMALL[name], in_channels=in_channels, num_classes=num_classes
    ).eval()
    with torch.no_grad():
        assert network(torch.randn(2, in_channels, *size)).shape == (2, num_classes, *size)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_factory_takes_keywords_only_and_the_facts_of_the_data(name: str) -> None:
    parameters = inspect.signature(NETWORKS[name]).parameters
    assert {"in_channels", "num_classes"} <= set(parameters)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())


def test_completed_options_are_all_options_as_json() -> None:
    completed = complete_options("unet", {"base_channels": "32", "norm": "group"})
    assert completed == {
        "bilinear": False,
        "base_channels": 32,
        "depth": 4,
        "norm": "group",
        "dropout": 0.0,
        "stem": 1,
        "deep_supervision": False,
    }
    assert json.loads(json.dumps(completed)) == completed
    assert complete_options("mlp", {"patch_size": "9"}) == {"hidden_features": 256, "patch_size": 9}
    assert complete_options("lenet", {}) == {}


def test_options_reach_the_network() -> None:
    network = build_network("unet", {"base_channels": 3, "depth": 2}, in_channels=4, num_classes=5)
    assert network.state_dict()["inc.double_conv.0.weight"].shape == (3, 4, 3, 3)
    assert network.depth == 2
    options = {"hidden_features": 7, "patch_size": 3}
    network = build_network("mlp", options, in_channels=2, num_classes=5)
    assert network.state_dict()["classifier.hidden.weight"].shape == (7, 2 * 3 * 3)
    assert network.state_dict()["classifier.output.weight"].shape == (5, 7)


def test_those_that_take_points_are_the_patch_networks() -> None:
    for name in NETWORKS:
        network = build_network(name, SMALL[name], in_channels=1, num_classes=2)
        assert isinstance(network, models.PatchNetwork) == (name in models.PATCH_NETWORKS)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("unett", {}, "unknown model 'unett': did you mean 'unet'"),
        ("transformer", {}, "unknown model 'transformer': use one of lenet, mlp, smp:.*, unet"),
        ("lenett", {}, "unknown model 'lenett': did you mean 'lenet'"),
        ("lenet", {"patch_size": 28}, "no option 'patch_size'"),
        ("mlp", {"patchsize": 28}, "no option 'patchsize': did you mean 'patch_size'"),
        ("mlp", {"hidden_features": "wide"}, "hidden_features = 'wide'"),
        ("mlp", {"patch_size": 0}, "mlp: patch_size = 0"),
        ("unet", {"base_chanels": 3}, "no option 'base_chanels': did you mean 'base_channels'"),
        ("unet", {"in_channels": 3}, "in_channels comes from the data"),
        ("unet", {"depth": "deep"}, "depth = 'deep'"),
        ("unet", {"norm": "layer"}, "norm = 'layer'.*'batch'"),
        ("unet", {"depth": 0}, "depth = 0"),
    ],
)
def test_unknown_names_options_and_values_are_refused(name: str, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build_network(name, options, in_channels=3, num_classes=2)
    assert "\n" not in str(caught.value)


def test_the_package_exports_what_its_list_says() -> None:
    assert all(hasattr(models, name) for name in models.__all__)
    network = models.UNet(in_channels=3, num_classes=2, bilinear=False)
    assert isinstance(network, torch.nn.Module)


LAYOUTS: list[tuple[str, dict[str, object]]] = [
    *(("unet", {"base_channels": 8, "norm": norm}) for norm in ("batch", "group", "instance")),
    ("unet", {"base_channels": 8, "bilinear": True, "stem": 2}),
    ("unet", {"base_channels": 8, "stem": 4}),
    ("lenet", {}),
    ("mlp", {"hidden_features": 16}),
]


# In training, batch norm over the few values of the deepest map magnifies what float32 rounds away
@pytest.mark.parametrize(
    ("training", "dtype", "tolerance"), [(False, torch.float32, 1e-5), (True, torch.float64, 1e-10)]
)
@pytest.mark.parametrize(("name", "options"), LAYOUTS)
def test_channels_last_gives_the_same_logits(
    name: str, options: dict[str, object], training: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    network = build_network(name, options, in_channels=3, num_classes=2).to(dtype).train(training)
    x = torch.randn(2, 3, 61, 83, dtype=dtype)
    with torch.no_grad():
        wanted = network(x)
        moved = network.to(memory_format=torch.channels_last)
        for layout in (torch.contiguous_format, torch.channels_last):
            logits = moved(x.contiguous(memory_format=layout))
            assert (logits - wanted).abs().max() <= tolerance


def test_every_network_is_tried_in_channels_last() -> None:
    assert {name for name, _ in LAYOUTS} == set(NETWORKS)
