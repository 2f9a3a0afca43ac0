"""Every architecture of segmentation-models-pytorch with every encoder, behind one adapter.

A name is `smp:<architecture>/<encoder>`, such as `smp:unet/resnet34`; encoders of timm are written
`tu-<name>`. The options of an architecture are those of its class in the library. The library is
imported on first use: it takes seconds, and the plain U-Net does without it.
"""

from __future__ import annotations

import collections.abc
import difflib
import functools
import inspect
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import nn

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.errors import UserError
from unet_pipeline.models.hub import require_hub, without_the_hub
from unet_pipeline.models.layers import pad_to

PREFIX = "smp:"

# Parameters of the library's classes that are no options: facts of the data, parts of the name,
# and what would break the contract of a network (logits, and nothing else).
_NOT_OPTIONS = frozenset(
    {"self", "encoder_name", "encoder_weights", "in_channels", "classes", "activation"}
    | {"aux_params", "kwargs"}
)

# What the library, timm and torch raise for options or encoders that do not go together.
_REFUSALS = (AssertionError, ImportError, LookupError, RuntimeError, TypeError, ValueError)


class SmpNetwork(nn.Module):
    """A model of the library as a network: (N, C, H, W) -> logits (N, K, H, W), any H, W >= 1.

    stride: what the height and width of its input must be multiples of; images are padded to it
    by repeating their border. min_size: the smallest height and width that it takes.
    pretrained: whether the encoder's weights were fetched. frozen: see `freeze_encoder`.
    """

    def __init__(
        self, model: nn.Module, *, stride: int, min_size: int, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.stride = stride
        self.min_size = min_size
        self.pretrained = pretrained
        self.frozen = False

    def fresh_parts(self) -> nn.Module:
        """What an initializer may fill: all of it, or all but a pretrained encoder."""
        if not self.pretrained:
            return self.model
        parts = {name: part for name, part in self.model.named_children() if name != "encoder"}
        return nn.ModuleDict(parts)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode for all of it; for a frozen encoder always the latter."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    @property
    def encoder(self) -> nn.Module:
        """The part that pretrained weights are for."""
        encoder: nn.Module = self.model.encoder  # type: ignore[assignment]
        return encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        logits: torch.Tensor = self.model(pad_to(x, stride=self.stride, min_size=self.min_size))
        return logits[..., :height, :width]


def build_smp(
    spec: str,
    *,
    in_channels: int,
    num_classes: int,
    encoder_weights: str | None = None,
    **options: Any,
) -> SmpNetwork:
    """The network called `spec`, such as "smp:unet/resnet34", in training mode.

    encoder_weights: pretrained weights of the encoder by the library's name for them, such as
    "imagenet"; they come from a hub. None starts from fresh weights.
    options: those of the architecture, as `complete_smp_options` lists them.
    Raises `UserError` for unknown names and options, for options that do not go together, for an
    encoder that takes images of one size only, and within seconds for a hub out of reach.
    """
    options = complete_smp_options(spec, {"encoder_weights": encoder_weights, **options})
    architecture, encoder = _parse(spec)
    weights = options.pop("encoder_weights")
    if weights is not None:
        _check_weights(spec, encoder, weights)
        if not _is_cached(encoder, weights):
            require_hub(f"model {spec}")
    model = _build(spec, in_channels, num_classes, weights, options)
    # The decoder of DPT halves the grid of patches once more; PAN pools the deepest map 3 times.
    stride = int(model.encoder.output_stride) * (2 if architecture == "dpt" else 1)
    min_size = stride * (8 if architecture == "pan" else 1)
    network = SmpNetwork(model, stride=stride, min_size=min_size, pretrained=weights is not None)
    _check_sizes(spec, network, in_channels)
    return network


def encoder_parameters(network: nn.Module) -> list[nn.Parameter] | None:
    """The parameters of the encoder of a network of `build_smp`; None for any other network."""
    return list(network.encoder.parameters()) if isinstance(network, SmpNetwork) else None


def freeze_encoder(network: nn.Module) -> None:
    """Keep the encoder of `network` as it is from here on, while the rest can be trained.

    Its parameters get no gradient, and it stays in evaluation mode through `network.train()`: its
    norms neither use nor track the statistics of batches, and it drops nothing. Weights may still
    be loaded. Freezing is no part of a state dict.
    Raises `UserError` for a network without an encoder, which are all but those of `build_smp`.
    """
    if not isinstance(network, SmpNetwork):
        raise UserError(
            f"{type(network).__name__} has no encoder to freeze: the networks called smp:... have "
            "one; choose such a --model, or do not freeze"
        )
    network.frozen = True
    network.encoder.requires_grad_(False)
    network.train(network.training)


def smp_catalogue() -> dict[str, Callable[..., Any]]:
    """`smp:<architecture>/<encoder>` -> a function with the options and the words of each."""
    return {f"{PREFIX}{name}/<encoder>": _options_of(name) for name in _architectures()}


def complete_smp_options(spec: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the network called `spec`: those of `options`, checked; the rest by default.

    Raises `UserError` for an unknown architecture, encoder or option, and for a wrong type.
    """
    architecture, encoder = _parse(spec)
    _check_encoder(spec, encoder)
    return complete(_options_of(architecture), options, label=f"model {spec}")


def _parse(spec: str) -> tuple[str, str]:
    architecture, slash, encoder = spec.removeprefix(PREFIX).partition("/")
    architecture = architecture.lower()  # the library's classes are called Unet, FPN, ...
    lookup(_architectures(), architecture, kind=f"architecture in {spec!r}:")
    if not slash or not encoder:
        raise UserError(
            f"model {spec!r} names no encoder: write {PREFIX}{architecture}/"
            + ("tu-vit_base_patch16_224" if architecture == "dpt" else "resnet34")
        )
    return architecture, encoder


def _check_encoder(spec: str, encoder: str) -> None:
    import segmentation_models_pytorch
    import timm

    names = segmentation_models_pytorch.encoders.get_encoder_names()
    # is_model knows the names of its own list only: no path, no address of a hub gets through
    if encoder in names or (encoder.startswith("tu-") and timm.is_model(encoder[3:])):
        return
    names = [*names, *(f"tu-{name}" for name in timm.list_models())]
    close = difflib.get_close_matches(encoder, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "use resnet34, efficientnet-b0, mit_b0, ..."
    raise UserError(
        f"unknown encoder {encoder!r} in {spec!r}: {hint} (tu-<name> for the encoders of timm)"
    )


@functools.cache
def _architectures() -> dict[str, Callable[..., Any]]:
    """Name -> class, as the library lists them."""
    import segmentation_models_pytorch

    return dict(segmentation_models_pytorch.MODEL_ARCHITECTURES_MAPPING)


@functools.cache
def _options_of(architecture: str) -> Callable[..., None]:
    """A function whose keyword-only parameters are the options of `architecture`.

    That is the form in which the catalogue reads options; the library's are positional.
    """
    initialize = _architectures()[architecture].__init__
    hints = typing.get_type_hints(initialize)
    parameters = [_option("encoder_weights", str | None, None)]
    for name, parameter in inspect.signature(initialize).parameters.items():
        if name not in _NOT_OPTIONS:
            parameters.append(_option(name, hints.get(name, Any), parameter.default))

    def options(**_: Any) -> None: ...

    words = inspect.getdoc(_architectures()[architecture]) or ""
    options.__doc__ = " ".join(words.partition("\n\n")[0].split()).partition(". ")[0]
    options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return options


def _option(name: str, hint: Any, default: Any) -> inspect.Parameter:
    if typing.get_origin(hint) is collections.abc.Iterable:
        # an Iterable is checked only when it is read, and read only once
        hint = collections.abc.Sequence[typing.get_args(hint)]  # type: ignore[misc]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _build(
    spec: str, in_channels: int, num_classes: int, weights: str | None, options: dict[str, Any]
) -> Any:
    """The model of the library; what it raises becomes one line."""
    architecture, encoder = _parse(spec)
    if encoder.startswith("tu-") and _has_fixed_size(encoder):
        options = {**options, "dynamic_img_size": True}  # interpolates positions, if it can
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of names such as timm-...
            return _architectures()[architecture](
                encoder_name=encoder,
                encoder_weights=True if weights and encoder.startswith("tu-") else weights,
                in_channels=in_channels,
                classes=num_classes,
                **options,
            )
    except OSError as error:  # what the hub's client raises, whatever its transport
        raise UserError(
            f"model {spec}: the encoder's weights did not come ({_first_line(error)}); "
            f"{without_the_hub()}"
        ) from error
    except _REFUSALS as error:
        raise _refused(spec, error) from error


def _check_weights(spec: str, encoder: str, weights: str) -> None:
    """Refuse weights that the encoder does not have, before anything is asked of a network."""
    import segmentation_models_pytorch
    import timm

    if encoder.startswith("tu-"):
        known = ["imagenet"] if timm.models.is_model_pretrained(encoder[3:]) else []
    else:
        settings = segmentation_models_pytorch.encoders.encoders[encoder]
        known = sorted(settings["pretrained_settings"])
    if weights not in known:
        raise UserError(
            f"model {spec}: unknown encoder_weights {weights!r}: "
            + (f"use {' or '.join(known)}, or none" if known else "this encoder has none")
        )


def _has_fixed_size(encoder: str) -> bool:
    """Whether timm says that this encoder takes images of one size only, unless told otherwise."""
    import timm

    pretrained = timm.models.get_pretrained_cfg(encoder[3:])
    return bool(pretrained and pretrained.fixed_input_size)


def _is_cached(encoder: str, weights: str) -> bool:
    """Whether the weights lie in the local cache in the revision that the library pins."""
    import huggingface_hub
    import segmentation_models_pytorch

    if encoder.startswith("tu-"):
        return False  # no pinned revision: timm asks the hub for a newer one first
    settings = segmentation_models_pytorch.encoders.encoders[encoder]["pretrained_settings"]
    source = settings[weights]
    return all(
        isinstance(
            huggingface_hub.try_to_load_from_cache(
                source["repo_id"], name, revision=source["revision"]
            ),
            str,
        )
        for name in ("config.json", "model.safetensors")
    )


def _check_sizes(spec: str, network: SmpNetwork, in_channels: int) -> None:
    """One small oblong image through `network`: what cannot work is said before data is read."""
    height, width = network.min_size, network.min_size + network.stride
    like = next(network.parameters())
    x = torch.zeros(1, in_channels, height, width, device=like.device, dtype=like.dtype)
    network.eval()
    try:
        with torch.no_grad():
            logits = network.model(x)
    except _REFUSALS as error:
        raise _refused(spec, error) from error
    finally:
        network.train()
    if logits.shape[-2:] != x.shape[-2:]:
        raise UserError(
            f"model {spec}: with these options an image of {height}x{width} gives logits of "
            f"{logits.shape[-2]}x{logits.shape[-1]}; change encoder_depth and upsampling together"
        )


def _refused(spec: str, error: BaseException) -> UserError:
    reason, hint = _first_line(error), "choose another encoder or other options"
    if "dynamic_img_size" in reason:
        reason = "this encoder takes images of one size only"
    elif "/tu-" in spec:
        hint += " (many transformers of timm fit dpt only, or take images of one size)"
    return UserError(f"model {spec}: {reason}; {hint}")


def _first_line(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
