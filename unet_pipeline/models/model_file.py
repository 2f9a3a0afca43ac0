"""Models as files: one `.safetensors` with the weights, and the card as its metadata.

The file holds tensors and JSON, so that reading it can run no code. A checksum over both is
verified at every load: a damaged byte would otherwise change predictions without a word.
Checkpoints of the well-known PyTorch U-Net are read too.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydantic
import safetensors
import safetensors.torch
import torch
from pydantic import JsonValue
from torch import nn

from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.files import write_atomic
from unet_pipeline.models.pytorch_unet import (
    card_of,
    expected_tensors,
    two_logits,
)
from unet_pipeline.models.segmenter import FORMAT_VERSION, ModelCard, Segmenter

MODEL_NAME = "best.safetensors"
"""The model of a run folder."""

# One entry, because safetensors writes several in random order: equal models make equal files.
_METADATA_KEY = "unet-pipeline"

_SHOWN = 5

# How the parts of a network may be saved: the whole; the model inside the adapter of
# segmentation-models-pytorch; its encoder alone; the timm model inside that encoder.
_WHOLE = ("", "model.")
_ENCODERS = ("model.encoder.", "model.encoder.model.")


@dataclass(frozen=True)
class _Contents:
    """What a file holds. card: in our files only; from_torch: as `torch.save` writes them."""

    state: dict[str, torch.Tensor]
    card: ModelCard | None = None
    from_torch: bool = False
    mask_values: Any = None


def save_model(
    path: str | Path, segmenter: Segmenter, *, facts: Mapping[str, JsonValue] | None = None
) -> None:
    """Write `segmenter` to `path`, whole or not at all; equal models make equal bytes.

    facts: added to those of its card in the file (metrics, the name of the run, ...).
    Raises `UserError` where the folder is missing, `ResourceError` where writing is refused.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist; make it")
    fields = segmenter.card.model_dump()
    fields["facts"] = {**segmenter.card.facts, **(facts or {})}
    # by way of text, where figures that are not finite (a metric of no class) are null
    card = json.loads(ModelCard.model_validate(fields).model_dump_json())
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in segmenter.network.state_dict().items()
    }
    metadata = json.dumps({"sha256": _digest(tensors, card), "card": card})
    # As bytes, because its own writing to a file hides a full disk behind an error of its own.
    write_atomic(path, safetensors.torch.save(tensors, {_METADATA_KEY: metadata}))


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> Segmenter:
    """The model at `path`, ready to predict (evaluation mode), on `device`.

    path: a model file of ours, a run folder (its best model), or a checkpoint of the well-known
    PyTorch U-Net (a state dict, with or without `mask_values`; one with a single logit becomes
    one with two that predicts the same). Random numbers of the caller are left alone.
    Raises `UserError` for a file that is missing, damaged, foreign, newer than this package, or
    a pickle with more than weights in it, of which nothing is run.
    """
    path = _model_path(path)
    contents = _read(path)
    card, state = contents.card, contents.state
    if card is None and not contents.from_torch:
        raise UserError(
            f"{path} holds no model card: it was not written by unet-pipeline, or is damaged; as "
            "weights alone such a file can start a training, with --weights"
        )
    if card is None:
        card = card_of(state, contents.mask_values, source=str(path))
        _refuse_differences(state, expected_tensors(card), f"{path} is no PyTorch U-Net:")
    try:
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and replaced at once
            segmenter = Segmenter.from_card(card)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    network = segmenter.network
    _refuse_differences(state, network.state_dict(), f"{path} does not fit its {card.network}:")
    network.load_state_dict(state, strict=False)  # only counters of batches may be missing
    return segmenter.eval().to(device)


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_weights` has filled."""

    encoder_only: bool
    num_tensors: int

    def __str__(self) -> str:
        part = "encoder only" if self.encoder_only else "all weights"
        return f"{part} ({self.num_tensors} tensors)"


def load_weights(network: nn.Module, path: str | Path) -> LoadedWeights:
    """Fill `network` with the weights at `path` and say what was filled.

    path: whatever `load_model` reads; besides, a state dict (.pth, .pt, .safetensors) of a model
    of segmentation-models-pytorch or of its encoder alone, as downloaded from a hub.
    Raises `UserError`, with `network` untouched, where a file is bad or tensors differ in name or
    shape, as they do after training on another number of classes or channels.
    """
    path = _model_path(path)
    contents = _read(path)
    state = contents.state
    expected = network.state_dict()

    def overlap(prefix: str) -> int:
        return sum(f"{prefix}{name}" in expected for name in state)

    prefix = max(*_WHOLE, *_ENCODERS, key=overlap)  # the first of equals
    part = {name: t for name, t in expected.items() if name.startswith(prefix)}
    given = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    if prefix in _ENCODERS:  # the classifier that it was trained with is of no use here
        given = {name: tensor for name, tensor in given.items() if name in part}
    kind = f" of {contents.card.network}" if contents.card else ""
    _refuse_differences(given, part, f"the weights {path}{kind} do not fit the model:")
    network.load_state_dict(given, strict=False)
    return LoadedWeights(prefix in _ENCODERS, len(given))


def _model_path(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        if not (path / MODEL_NAME).is_file():
            raise UserError(
                f"{path} holds no {MODEL_NAME}: name a run folder of `unet train` or a model file"
            )
        return path / MODEL_NAME
    if not path.exists():
        raise UserError(f"no model at {path}: name a run folder of `unet train` or a model file")
    if not path.is_file():  # a pipe would keep us waiting for ever
        raise UserError(f"{path} is no regular file: name a run folder or a model file")
    return path


def _read(path: Path) -> _Contents:
    """The tensors of a file, recognised by its content, since names lie."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
            file.seek(0)
            if head[8:] == b"{":
                # The whole of it: safetensors itself opens no path that is not UTF-8.
                return _read_safetensors(path, file.read())
            if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
                return _read_torch(path, file)
    except OSError as error:
        raise ResourceError(
            f"cannot read {path}: {error.strerror}; check its permissions"
        ) from error
    if not head:
        raise UserError(f"{path} is empty: copy or download it again")
    raise UserError(
        f"{path} is no model file: expected a .safetensors file of `unet train`, or a state dict "
        "of the PyTorch U-Net (.pth)"
    )


def _read_safetensors(path: Path, data: bytes) -> _Contents:
    try:
        state = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error
    if _METADATA_KEY not in metadata:
        return _Contents(state)
    try:
        stored = json.loads(metadata[_METADATA_KEY])
        version, digest = stored["card"]["format_version"], stored["sha256"]
        newer = version > FORMAT_VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, "its card is damaged") from error
    if newer:
        raise UserError(
            f"{path} has format {version}, and this version of unet-pipeline reads up to "
            f"{FORMAT_VERSION}: upgrade unet-pipeline"
        )
    if digest != _digest(state, stored["card"]):
        raise _unreadable(path, "its checksum differs from its content")
    try:
        return _Contents(state, ModelCard.model_validate(stored["card"]))
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"{path}: its card is not valid: {place}: {problem['msg']}") from error


def _read_torch(path: Path, file: BinaryIO) -> _Contents:
    """The tensors of a file of `torch.save`, read by the unpickler that knows weights only."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                broken = archive.testzip()  # torch does not look at the checksums
                # torch takes what is marked as a folder for a tensor and reads stray memory
                folders = [e.filename for e in archive.infolist() if e.external_attr & 0x10]
            if broken or folders:
                raise ValueError(f"its entry {broken or folders[0]} is not what it was")
        file.seek(0)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise _not_only_weights(path, error) from error
    except Exception as error:  # because a damaged byte makes the unpickler raise anything
        raise _unreadable(path, error) from error
    if not isinstance(loaded, dict) or not loaded:
        raise UserError(f"{path} holds no state dict: save the model with {_ADVICE}")
    state = {name: value for name, value in loaded.items() if name != "mask_values"}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"{path} is no state dict: {str(name)[:80]!r} is no tensor; save the model with "
                f"{_ADVICE}"
            )
    return _Contents(two_logits(state), from_torch=True, mask_values=loaded.get("mask_values"))


_ADVICE = "torch.save(model.state_dict(), FILE)"


def _not_only_weights(path: Path, error: Exception) -> UserError:
    found = re.search(r"(?:GLOBAL|function|class) `?'?([\w.]+\.\w+)", str(error))
    what = f" ({found[1]})" if found else ""
    return UserError(
        f"{path} is refused: it is a pickle with more than weights in it{what}, and none of it was "
        f"run; from a source that you trust, save the weights with {_ADVICE}"
    )


def _unreadable(path: Path, reason: object) -> UserError:
    text = str(reason).strip() or type(reason).__name__
    return UserError(
        f"{path} cannot be read: {text.splitlines()[0]}; it is damaged, cut off or of another "
        "kind: copy or download it again"
    )


def _digest(tensors: Mapping[str, torch.Tensor], card: Any) -> str:
    """sha256 over the card and over the name, type, shape and bytes of each tensor."""
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _refuse_differences(
    given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], what: str
) -> None:
    """Raise `UserError` where names or shapes differ, naming the first five."""
    both = [name for name in expected if name in given]
    shapes = [name for name in both if given[name].shape != expected[name].shape]
    parts = []
    if shapes:
        shown = [
            f"{name} is {tuple(given[name].shape)} in the file and "
            f"{tuple(expected[name].shape)} in the model"
            for name in shapes[:_SHOWN]
        ]
        parts.append("; ".join(shown) + _more(shapes))
    for names, other, words in ((expected, given, "missing"), (given, expected, "unknown")):
        # counters of batches change no result, and older files lack them
        strange = [n for n in names if n not in other and not n.endswith("num_batches_tracked")]
        if strange:
            parts.append(f"{words}: " + ", ".join(strange[:_SHOWN]) + _more(strange))
    if parts:
        advice = "another number of classes or channels, or other options"
        raise UserError(f"{what} {'; '.join(parts)} ({advice}?)")


def _more(names: list[str]) -> str:
    return f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
