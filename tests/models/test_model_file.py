from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.models import (
    ModelCard,
    Segmenter,
    UNet,
    build_network,
    load_model,
    load_weights,
    save_model,
)
from unet_pipeline.models.model_file import MODEL_NAME

MakeCard = Callable[..., ModelCard]
RAW = torch.randint(
    0, 256, (2, 1, 19, 23), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


@pytest.fixture
def saved(tiny_segmenter: Segmenter, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, tiny_segmenter)
    return path


def refusal(path: Path, words: str, kind: type[UserError] = UserError) -> None:
    """`load_model` and `load_weights` both refuse `path` in one line that names it."""
    for load in (load_model, lambda p: load_weights(nn.Linear(1, 1), p)):
        with pytest.raises(kind, match=words) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


# ---- round trips


def test_a_model_comes_back_with_its_card_and_predicts_the_same(
    tiny_segmenter: Segmenter, saved: Path
) -> None:
    loaded = load_model(saved)
    assert loaded.card == tiny_segmenter.card
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(RAW), tiny_segmenter(RAW))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"base_channels": 8, "depth": 2, "norm": "group", "dropout": 0.2}),
        ("unet", {"base_channels": 3, "depth": 1, "norm": "none", "bilinear": True}),
        ("smp:fpn/tu-mobilenetv3_small_050", {"encoder_weights": "imagenet"}),
    ],
)
def test_every_kind_of_network_comes_back(
    make_card: MakeCard, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    card = make_card(network=name, options=options, num_classes=4)
    segmenter = Segmenter.from_card(card).eval()
    save_model(tmp_path / "m.safetensors", segmenter)
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.card == card
    with torch.no_grad():
        assert torch.equal(loaded(RAW), segmenter(RAW))


def test_facts_are_added_to_those_of_the_card(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter = Segmenter(
        tiny_segmenter.network, tiny_segmenter.card.model_copy(update={"facts": {"run": "a"}})
    )
    path = tmp_path / "m.safetensors"
    save_model(path, segmenter, facts={"metrics": {"mean_iou": 0.75, "iou/void": float("nan")}})
    facts = load_model(path).card.facts
    assert facts == {"run": "a", "metrics": {"mean_iou": 0.75, "iou/void": None}}
    assert segmenter.card.facts == {"run": "a"}


def test_the_file_is_plain_safetensors_with_the_names_of_the_network(
    tiny_segmenter: Segmenter, saved: Path
) -> None:
    tensors = safetensors.torch.load_file(saved)
    assert set(tensors) == set(tiny_segmenter.network.state_dict())
    with safetensors.safe_open(saved, framework="pt") as file:
        (text,) = file.metadata().values()
    assert json.loads(text)["card"]["network"] == "unet"


def test_equal_models_make_equal_files(tiny_segmenter: Segmenter, saved: Path) -> None:
    again = saved.with_name("again.safetensors")
    save_model(again, load_model(saved))
    assert again.read_bytes() == saved.read_bytes()


def test_a_run_folder_means_its_best_model(saved: Path) -> None:
    saved.rename(saved.with_name(MODEL_NAME))
    assert load_model(saved.parent).card == load_model(saved.with_name(MODEL_NAME)).card


def test_a_path_that_is_not_utf8_works(saved: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff[b].safetensors"))
    try:
        shutil.copy(saved, odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert isinstance(load_model(odd), Segmenter)


def test_the_name_of_a_file_does_not_matter(
    saved: Path, tiny_unet: UNet, save_pth: Callable[..., Path]
) -> None:
    assert isinstance(load_model(saved.rename(saved.with_suffix(".pth"))), Segmenter)
    pth = save_pth(tiny_unet)
    assert isinstance(load_model(pth.rename(pth.with_suffix(".safetensors"))), Segmenter)


def test_loading_draws_no_random_numbers_of_the_caller(saved: Path) -> None:
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    load_model(saved)
    assert torch.equal(torch.rand(3), wanted)


def test_a_loaded_model_can_be_trained_further(saved: Path) -> None:
    segmenter = load_model(saved).train()
    segmenter(RAW).square().sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in segmenter.parameters())


# ---- writing


def test_a_failed_write_leaves_the_old_model_and_nothing_else(
    tiny_segmenter: Segmenter, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(ResourceError, match="no space left"):
        save_model(saved, tiny_segmenter, facts={"new": True})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_folder_is_named(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone does not exist"):
        save_model(tmp_path / "gone" / "m.safetensors", tiny_segmenter)


# ---- bad files


@settings(deadline=None, max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(place=0.0, bit=3)
@example(place=0.005, bit=0)  # in the name of the metadata
@example(place=0.9999, bit=0)
def test_one_flipped_bit_anywhere_is_detected(
    tmp_path_factory: pytest.TempPathFactory, tiny_segmenter: Segmenter, place: float, bit: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "m.safetensors"
    save_model(path, tiny_segmenter)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_in_the_weights_is_called_by_its_name(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-5] ^= 0x10
    saved.write_bytes(data)
    refusal(saved, "checksum differs")


def test_a_changed_card_is_detected(saved: Path) -> None:
    data = saved.read_bytes()
    changed = data.replace(b'\\"mean\\": [0.25]', b'\\"mean\\": [0.75]')
    assert changed != data
    saved.write_bytes(changed)
    refusal(saved, "checksum differs")


@settings(deadline=None, max_examples=40)
@given(kept=st.floats(0, 1, exclude_max=True))
@example(kept=0.0)
@example(kept=0.001)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_cut_off_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, tiny_segmenter: Segmenter, suffix: str, kept: float
) -> None:
    path = (tmp_path_factory.mktemp("cut") / "m").with_suffix(suffix)
    if suffix == ".pth":
        torch.save(tiny_segmenter.network.state_dict(), path)
    else:
        save_model(path, tiny_segmenter)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UserError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_checkpoint_never_changes_a_prediction(
    tmp_path_factory: pytest.TempPathFactory, tiny_segmenter: Segmenter, place: float, bit: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "m.pth"
    torch.save(tiny_segmenter.network.state_dict(), path)
    wanted = load_model(path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        loaded = load_model(path)
    except UserError:
        return
    with torch.no_grad():  # fields that nobody reads, such as the date of an entry
        assert torch.equal(loaded(RAW), wanted(RAW))


def test_an_entry_of_a_checkpoint_marked_as_a_folder_is_refused(
    tmp_path: Path, tiny_unet: UNet
) -> None:
    path = tmp_path / "m.pth"
    torch.save(tiny_unet.state_dict(), path)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02", data.rindex(b"data/0"))  # that of another tensor
    data[entry + 38] |= 0x10  # its external attributes: torch would read stray memory for it
    path.write_bytes(data)
    refusal(path, "is not what it was")


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "none.safetensors", "no model at")
    refusal(tmp_path, f"holds no {MODEL_NAME}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello", "is no model file"),
        (b"<!DOCTYPE html><html></html>", "is no model file"),
        (b"\x10\0\0\0\0\0\0\0{", "cannot be read"),
        (b"\x02\0\0\0\0\0\0\0{}", "(holds no model card|do not fit)"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{", "cannot be read"),
        (b"PK\x03\x04 and no more", "cannot be read"),
    ],
)
def test_files_that_are_no_models_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    refusal(path, words)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.pth")
    refusal(tmp_path / "m.pth", "no regular file")


def test_a_file_that_may_not_be_read_is_a_matter_of_permission(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    refusal(saved, "Permission denied", ResourceError)


def test_safetensors_of_others_are_weights_and_no_model(tmp_path: Path, tiny_unet: UNet) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file(tiny_unet.state_dict(), path, {"format": "pt"})
    with pytest.raises(UserError, match=r"holds no model card: .*--weights") as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert not load_weights(small_unet(), path).encoder_only


def rewrite_card(path: Path, change: Callable[[dict[str, Any]], None], *, sign: bool) -> None:
    """Change the card in the file at `path`; sign: with the checksum that belongs to it."""
    from unet_pipeline.models.model_file import _digest

    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        ((key, text),) = file.metadata().items()
    stored = json.loads(text)
    change(stored["card"])
    if sign:
        stored["sha256"] = _digest(tensors, stored["card"])
    safetensors.torch.save_file(tensors, path, {key: json.dumps(stored)})


@pytest.mark.parametrize("sign", [False, True])  # a newer format may sign in another way
def test_a_newer_format_asks_for_an_upgrade(saved: Path, sign: bool) -> None:
    rewrite_card(saved, lambda card: card.update(format_version=2, news={}), sign=sign)
    refusal(saved, "format 2, .* upgrade unet-pipeline")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": "new"}, "its card is damaged"),
        ({"std": [0.0]}, "must be above 0"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_card_that_is_not_valid_is_refused(saved: Path, change: dict, words: str) -> None:
    rewrite_card(saved, lambda card: card.update(change), sign=True)
    refusal(saved, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "os.system"}, "unknown model 'os.system'"),
        ({"network": "smp:unet/tu-hf-hub:a/b"}, "unknown encoder"),
        ({"options": {"base_channels": 2, "layers": 3}}, "no option 'layers'"),
        ({"options": {"base_channels": 4, "depth": 1}}, "does not fit its unet"),
    ],
)
def test_a_card_of_a_network_that_is_not_there_is_refused(
    saved: Path, change: dict, words: str
) -> None:
    rewrite_card(saved, lambda card: card.update(change), sign=True)
    with pytest.raises(UserError, match=words) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)


class Evil:
    """Unpickled, it makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
@pytest.mark.parametrize("form", ["zip", "legacy", "in a dict", *range(6)])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, tiny_unet: UNet, form: str | int, name: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / name
    evil: Any = Evil(marker)
    if form == "in a dict":
        torch.save({**tiny_unet.state_dict(), "mask_values": evil}, path)
    elif isinstance(form, int):
        path.write_bytes(pickle.dumps(evil, protocol=form))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=form == "zip")
    if form in (0, 1):  # older than the formats of torch: not even opened as a pickle
        refusal(path, "is no model file")
    elif form in ("zip", "in a dict", "legacy"):
        refusal(path, "refused: it is a pickle with more than weights in it .*mkdir")
    else:
        refusal(path, "(refused|cannot be read)")
    assert not marker.exists()
    with path.open("rb") as file:  # the trap works
        if isinstance(form, int):
            pickle.load(file)
            assert marker.exists()


def test_a_whole_model_is_refused_with_the_way_to_save_it(tmp_path: Path, tiny_unet: UNet) -> None:
    torch.save(tiny_unet, tmp_path / "whole.pth")
    refusal(tmp_path / "whole.pth", r"UNet.*torch\.save\(model\.state_dict\(\), FILE\)")


@pytest.mark.parametrize("content", [[1, 2], {}, torch.zeros(3), {"model": {"a": 1}}, {1: 2}])
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pth")
    refusal(tmp_path / "m.pth", "state dict")


# ---- load_weights


def small_unet(**options: Any) -> nn.Module:
    options = {"base_channels": 2, "depth": 1, **options}
    in_channels, num_classes = options.pop("in_channels", 1), options.pop("num_classes", 2)
    torch.manual_seed(99)
    return build_network("unet", options, in_channels=in_channels, num_classes=num_classes)


def test_weights_of_a_model_file_fill_a_network(tiny_segmenter: Segmenter, saved: Path) -> None:
    network = small_unet()
    assert str(load_weights(network, saved)) == "all weights (40 tensors)"
    for name, tensor in tiny_segmenter.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_weights_of_a_checkpoint_with_one_logit_fill_a_network_of_two(
    reference_unet: Callable[..., nn.Module], save_pth: Callable[..., Path]
) -> None:
    path = save_pth(reference_unet(in_channels=3, num_classes=1, bilinear=True, base=2))
    network = UNet(in_channels=3, num_classes=2, bilinear=True, base_channels=2)
    load_weights(network, path)
    wanted = load_model(path).network.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in network.state_dict().items())


def test_another_head_is_refused_with_both_shapes_and_the_network_untouched(saved: Path) -> None:
    network = small_unet(num_classes=5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(network, saved)
    assert str(caught.value) == (
        f"the weights {saved} of unet do not fit the model: "
        "outc.conv.weight is (2, 2, 1, 1) in the file and (5, 2, 1, 1) in the model; "
        "outc.conv.bias is (2,) in the file and (5,) in the model "
        "(another number of classes or channels, or other options?)"
    )
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_another_number_of_channels_is_refused_with_both_shapes(saved: Path) -> None:
    with pytest.raises(UserError, match=r"is \(2, 1, 3, 3\) in the file and \(2, 3, 3, 3\) in"):
        load_weights(small_unet(in_channels=3), saved)


def test_of_many_differences_the_first_five_are_named(saved: Path) -> None:
    with pytest.raises(UserError, match=r"and 2\d more") as caught:
        load_weights(small_unet(base_channels=4), saved)
    assert str(caught.value).count("in the file") == 5


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    with pytest.raises(UserError, match=r"of unet do not fit .*missing: weight, bias; unknown: "):
        load_weights(nn.Linear(1, 1), saved)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("part", ["model", "model.encoder"])
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_weights_saved_by_the_library_itself_fill_the_adapter(
    tmp_path: Path, encoder: str, part: str, suffix: str
) -> None:
    name = f"smp:linknet/{encoder}"
    source, target = (build_network(name, {}, in_channels=3, num_classes=2) for _ in range(2))
    state = source.get_submodule(part).state_dict()
    if part == "model.encoder":  # as hubs have them: without the prefix, with the classifier
        state = {k.removeprefix("model."): v for k, v in state.items()}
        state |= {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    path = tmp_path / f"hub{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    said = load_weights(target, path)
    assert said.encoder_only == (part != "model")
    filled, wanted = target.state_dict(), source.state_dict()
    for key in filled:
        if key.startswith(part) and filled[key].is_floating_point():
            assert torch.equal(filled[key], wanted[key]), key
