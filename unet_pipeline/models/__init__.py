"""Raw pixels to logits: the networks, the segmenter around each of them, and the model file."""

from __future__ import annotations

from unet_pipeline.models.lenet import LeNet
from unet_pipeline.models.mlp import MLP
from unet_pipeline.models.model_file import MODEL_NAME, load_model, load_weights, save_model
from unet_pipeline.models.networks import (
    NETWORKS,
    PATCH_NETWORKS,
    RULES,
    build_network,
    complete_options,
)
from unet_pipeline.models.patches import PatchNetwork
from unet_pipeline.models.segmenter import ModelCard, Segmenter
from unet_pipeline.models.unet import DoubleConv, Down, OutConv, UNet, Up

__all__ = [
    "MLP",
    "MODEL_NAME",
    "NETWORKS",
    "PATCH_NETWORKS",
    "RULES",
    "DoubleConv",
    "Down",
    "LeNet",
    "ModelCard",
    "OutConv",
    "PatchNetwork",
    "Segmenter",
    "UNet",
    "Up",
    "build_network",
    "complete_options",
    "load_model",
    "load_weights",
    "save_model",
]
