"""The losses for masks by name: what `--loss` knows."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from unet_pipeline.training.losses.hard_pixels import border_ce, focal, ohem, topk
from unet_pipeline.training.losses.pixelwise import (
    bce,
    ce,
    kl_div,
    l1,
    mse,
    multi_margin,
    multilabel_margin,
    poisson_nll,
    smooth_l1,
    soft_margin,
)
from unet_pipeline.training.losses.regions import (
    dice,
    focal_tversky,
    jaccard,
    lovasz,
    mcc,
    tversky,
)

LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": ce,
    "dice": dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
    "lovasz": lovasz,
    "mcc": mcc,
    "focal": focal,
    "topk": topk,
    "ohem": ohem,
    "border_ce": border_ce,
    "bce": bce,
    "soft_margin": soft_margin,
    "l1": l1,
    "mse": mse,
    "smooth_l1": smooth_l1,
    "kl_div": kl_div,
    "poisson_nll": poisson_nll,
    "multi_margin": multi_margin,
    "multilabel_margin": multilabel_margin,
}
"""Name -> loss; `ignore_index` comes from the run, other keyword-only parameters are options."""

NEED_MAPS = frozenset({"border_ce"})
"""Losses for which it matters where a pixel lies; the others see a batch as a bag of pixels."""
