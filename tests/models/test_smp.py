from __future__ import annotations

import copy
import functools
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import segmentation_models_pytorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unet_pipeline.errors import UserError
from unet_pipeline.models import UNet, build_network, complete_options, hub, smp
from unet_pipeline.models.smp import (
    SmpNetwork,
    build_smp,
    encoder_parameters,
    freeze_encoder,
)

ARCHITECTURES = sorted(segmentation_models_pytorch.MODEL_ARCHITECTURES_MAPPING)


@functools.cache
def network(architecture: str) -> SmpNetwork:
    encoder = "tu-vit_tiny_patch16_224" if architecture == "dpt" else "tu-mobilenetv3_small_050"
    torch.manual_seed(0)
    return build_smp(f"smp:{architecture}/{encoder}", in_channels=2, num_classes=3).eval()


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def test_all_twelve_architectures_of_the_library_are_known() -> None:
    assert len(ARCHITECTURES) == 12


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [(1, 1), (37, 53)])
def test_every_architecture_gives_logits_of_the_size_of_the_image(
    architecture: str, size: tuple[int, int]
) -> None:
    with torch.no_grad():
        logits = network(architecture)(image(2, 2, *size))
    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()


lengths = st.sampled_from([1, 2, 3, 31, 32, 33, 61, 67, 97])


@settings(deadline=None, max_examples=8)
@given(
    architecture=st.sampled_from(["unet", "fpn", "pan", "segformer"]),
    height=lengths,
    width=lengths,
)
def test_logits_have_the_size_of_any_image(architecture: str, height: int, width: int) -> None:
    with torch.no_grad():
        assert network(architecture)(image(1, 2, height, width)).shape == (1, 3, height, width)


@pytest.mark.parametrize("architecture", ["unet", "pan", "dpt"])
def test_an_image_that_fits_goes_through_as_it_is(architecture: str) -> None:
    x = image(1, 2, 160, 128)
    with torch.no_grad():
        assert torch.equal(network(architecture)(x), network(architecture).model(x))


@pytest.mark.parametrize(
    "encoder", ["resnet18", "timm-efficientnet-b0", "mit_b0", "tu-swin_tiny_patch4_window7_224"]
)
def test_encoders_of_every_family_work(encoder: str) -> None:
    built = build_network(f"smp:fpn/{encoder}", {}, in_channels=3, num_classes=2).eval()
    with torch.no_grad():
        assert built(image(1, 3, 41, 29)).shape == (1, 2, 41, 29)


def test_a_new_network_is_in_training_mode_and_can_be_trained() -> None:
    built = build_smp("smp:unet/resnet18", in_channels=1, num_classes=2)
    assert all(module.training for module in built.modules())
    built(image(2, 1, 50, 70)).square().mean().backward()
    assert all(p.grad is not None for p in built.parameters())


def test_the_seed_decides_the_fresh_weights() -> None:
    first, second, third = (
        (torch.manual_seed(seed), build_smp("smp:unet/resnet18", in_channels=1, num_classes=2))[1]
        for seed in (1, 1, 2)
    )
    key = "model.segmentation_head.0.weight"
    assert torch.equal(first.state_dict()[key], second.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], third.state_dict()[key])


# ---- options


def test_options_are_those_of_the_class_and_weights_are_none_by_default() -> None:
    options = complete_options("smp:deeplabv3plus/resnet18", {"decoder_atrous_rates": [6, 12, 18]})
    assert options["encoder_weights"] is None
    assert options["decoder_atrous_rates"] == [6, 12, 18]
    assert options["decoder_channels"] == 256
    assert not {"encoder_name", "in_channels", "classes", "activation", "kwargs"} & set(options)
    assert json.loads(json.dumps(options)) == options
    assert complete_options("smp:deeplabv3plus/resnet18", options) == options


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_completed_options_of_every_architecture_build_it(architecture: str) -> None:
    encoder = "tu-vit_tiny_patch16_224" if architecture == "dpt" else "resnet18"
    name = f"smp:{architecture}/{encoder}"
    options = complete_options(name, {})
    assert json.loads(json.dumps(options)) == options
    if architecture in ("unet", "dpt"):  # the others are built often enough above
        build_network(name, options, in_channels=1, num_classes=2)


def test_options_reach_the_model() -> None:
    built = build_network(
        "smp:unet/resnet18",
        {"encoder_depth": 3, "decoder_channels": [32, 16, 8]},
        in_channels=1,
        num_classes=2,
    )
    assert built.stride == 8
    assert built.model.segmentation_head[0].in_channels == 8


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("smp:unett/resnet18", {}, "unknown architecture .* did you mean 'unet'"),
        ("smp:", {}, "unknown architecture .* use one of deeplabv3, .*upernet"),
        ("smp:unet", {}, "names no encoder: write smp:unet/resnet34"),
        ("smp:dpt/", {}, "names no encoder: write smp:dpt/tu-vit_base_patch16_224"),
        ("smp:unet/resnet81", {}, "unknown encoder 'resnet81' .*did you mean 'resnet18'"),
        ("smp:unet/timm-mobilenetv3_small_minimal_100", {}, "'tu-tf_mobilenetv3_small_minimal_100"),
        ("smp:unet/zzzzzz", {}, "use resnet34, efficientnet-b0"),
        ("smp:unet/tu-hf-hub:some/model", {}, "unknown encoder"),
        ("smp:unet/tu-local-dir:/tmp", {}, "unknown encoder"),
        ("smp:unet/resnet18", {"decoder_chanels": 3}, "did you mean 'decoder_channels'"),
        ("smp:unet/resnet18", {"classes": 3}, "has no option 'classes'"),
        ("smp:unet/resnet18", {"encoder_depth": "deep"}, "encoder_depth = 'deep'"),
        ("smp:deeplabv3/resnet18", {"decoder_atrous_rates": ["a"]}, "decoder_atrous_rates"),
        ("smp:unet/resnet18", {"encoder_depth": 3}, "Model depth is 3"),
        ("smp:pspnet/resnet18", {"encoder_depth": 4}, "16x32 gives logits of 8x16"),
        ("smp:unetplusplus/mit_b0", {}, "choose another encoder"),
        ("smp:dpt/resnet18", {}, "tu-"),
        ("smp:unet/tu-coatnet_0_224", {}, "images of one size only"),
        ("smp:unet/tu-vit_tiny_patch16_224", {}, "fit dpt only"),
        ("smp:unet/resnet18", {"encoder_weights": "imagenett"}, "use imagenet or"),
        ("smp:unet/tu-coatnet_0_224", {"encoder_weights": "imagenet"}, "this encoder has none"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(name: str, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build_network(name, options, in_channels=3, num_classes=2)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_plain_unet_does_not_import_the_library() -> None:
    program = (
        "import sys; from unet_pipeline.models import build_network; "
        "build_network('unet', {'base_channels': 2}, in_channels=1, num_classes=2); "
        "sys.exit('segmentation_models_pytorch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# ---- pretrained weights


@pytest.fixture
def online_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A client of the hub that may ask it, with an empty cache and no proxy."""
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return monkeypatch


NAMES = ["smp:unet/resnet18", "smp:unet/tu-resnet18", "smp:dpt/tu-vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_a_hub_out_of_reach_are_refused_at_once(
    online_client: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    def no_network(*_: object) -> socket.socket:
        raise OSError("Name or service not known")

    online_client.setattr(socket, "create_connection", no_network)
    started = time.perf_counter()
    with pytest.raises(UserError) as caught:
        build_network(name, {"encoder_weights": "imagenet"}, in_channels=3, num_classes=2)
    assert time.perf_counter() - started < 2
    said = str(caught.value)
    assert "\n" not in said
    for words in ("hub", "cannot be reached", "--weights", "HF_HUB_OFFLINE=1", str(tmp_path)):
        assert words in said


def test_a_name_look_up_that_hangs_is_not_waited_for(online_client: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object) -> socket.socket:
        released.wait(30)
        raise OSError("Temporary failure in name resolution")

    online_client.setattr(socket, "create_connection", hang)
    online_client.setattr(hub, "PATIENCE_SECONDS", 0.1)
    started = time.perf_counter()
    with pytest.raises(UserError, match="cannot be reached"):
        hub.require_hub("model x")
    assert time.perf_counter() - started < 2
    released.set()


@pytest.mark.parametrize("name", NAMES)
def test_offline_by_choice_the_cache_is_asked_and_its_lack_said(
    online_client: pytest.MonkeyPatch, name: str
) -> None:
    from huggingface_hub import constants

    online_client.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"did not come .*--weights") as caught:
        build_network(name, {"encoder_weights": "imagenet"}, in_channels=3, num_classes=2)
    assert "\n" not in str(caught.value)


def test_a_hub_that_answers_is_reached_also_through_a_proxy(
    online_client: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        online_client.setattr(constants, "ENDPOINT", f"http://{address}")
        hub.require_hub("model x")
        online_client.setattr(constants, "ENDPOINT", "https://hub.invalid")
        for proxy in (f"http://{address}", address):
            online_client.setenv("https_proxy", proxy)
            hub.require_hub("model x")


def test_cached_weights_need_no_hub_and_reach_the_encoder(
    online_client: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoder = segmentation_models_pytorch.encoders.get_encoder("resnet18")
    safetensors.torch.save_file(encoder.state_dict(), tmp_path / "model.safetensors")
    for place, name in (
        ("huggingface_hub", "try_to_load_from_cache"),
        ("segmentation_models_pytorch.encoders", "hf_hub_download"),
    ):
        online_client.setattr(
            f"{place}.{name}", lambda _, filename, revision: str(tmp_path / filename)
        )

    def no_hub(label: str) -> None:
        raise AssertionError(label)

    online_client.setattr(smp, "require_hub", no_hub)
    built = build_smp("smp:unet/resnet18", in_channels=3, num_classes=2, encoder_weights="imagenet")
    weights = built.model.encoder.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in encoder.state_dict().items())


def test_an_architecture_may_be_written_as_its_class_is() -> None:
    named = build_network("smp:FPN/resnet18", {}, in_channels=3, num_classes=2)
    assert type(named.model).__name__ == "FPN"
    assert complete_options("smp:UnetPlusPlus/resnet18", {}) == complete_options(
        "smp:unetplusplus/resnet18", {}
    )


# ---- encoders apart


def frozen(name: str = "smp:unet/resnet18") -> SmpNetwork:
    torch.manual_seed(0)
    built = build_smp(name, in_channels=1, num_classes=2)
    freeze_encoder(built)
    return built


def test_the_parameters_of_the_encoder_are_those_that_its_weights_are_for() -> None:
    built = build_smp("smp:unet/resnet18", in_channels=1, num_classes=2)
    given = encoder_parameters(built)
    assert given is not None
    wanted = {id(p) for n, p in built.named_parameters() if n.startswith("model.encoder.")}
    assert {id(p) for p in given} == wanted
    assert 0 < len(wanted) < len(list(built.parameters()))
    assert encoder_parameters(UNet(in_channels=1, num_classes=2, base_channels=2)) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_an_encoder_and_trains_the_rest_of_it(architecture: str) -> None:
    built = copy.deepcopy(network(architecture))
    freeze_encoder(built)
    assert not any(p.requires_grad for p in built.encoder.parameters())
    assert any(p.requires_grad for p in built.parameters())


@pytest.mark.parametrize("name", ["smp:unet/resnet18", "smp:fpn/timm-efficientnet-b0"])
def test_a_frozen_encoder_stays_as_it_is_while_the_rest_learns(name: str) -> None:
    built = frozen(name)
    before = {key: tensor.clone() for key, tensor in built.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in built.parameters() if p.requires_grad], 0.1)
    built.eval()
    nn.ModuleList([built]).train()  # as a training does, from further up
    for _ in range(2):
        built(image(2, 1, 64, 64)).square().mean().backward()
        optimizer.step()
    after = built.state_dict()
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert not any(key.startswith("model.encoder.") for key in changed)  # running statistics too
    assert any(key.startswith("model.decoder.") for key in changed)
    assert all(p.grad is None for p in built.encoder.parameters())


def test_a_frozen_encoder_gives_in_training_what_it_gives_in_prediction() -> None:
    built = frozen("smp:fpn/timm-efficientnet-b0")  # which drops whole paths while it trains
    x = image(2, 1, 64, 64)
    trained, predicted = built.train().encoder(x), built.eval().encoder(x)
    assert all(torch.equal(a, b) for a, b in zip(trained, predicted, strict=True))


def test_an_encoder_that_is_not_frozen_follows_the_mode_of_the_network() -> None:
    built = build_smp("smp:unet/resnet18", in_channels=1, num_classes=2)
    assert not any(module.training for module in built.eval().modules())
    assert all(module.training for module in built.train().modules())


def test_a_copy_of_a_frozen_network_is_frozen() -> None:
    copied = copy.deepcopy(frozen()).train()
    assert not any(module.training for module in copied.encoder.modules())
    assert copied.model.decoder.training


def test_a_network_without_an_encoder_cannot_freeze_one() -> None:
    with pytest.raises(UserError, match="UNet has no encoder to freeze") as caught:
        freeze_encoder(UNet(in_channels=1, num_classes=2, base_channels=2))
    assert "\n" not in str(caught.value)


# ---- memory layout


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_channels_last_gives_the_same_logits(architecture: str) -> None:
    x = image(2, 2, 64, 96)
    with torch.no_grad():
        wanted = network(architecture)(x)
        moved = copy.deepcopy(network(architecture)).to(memory_format=torch.channels_last)
        assert (moved(x) - wanted).abs().max() <= 1e-5 * max(1, wanted.abs().max())
        logits = moved(x.contiguous(memory_format=torch.channels_last))
        assert (logits - wanted).abs().max() <= 1e-5 * max(1, wanted.abs().max())
