"""Raw pixels to logits: the networks, the segmenter around each of them, and the model file."""

from __future__ import annotations

from unet_pipeline.models.model_file import MODEL_NAME, load_model, load_weights, save_model
from unet_pipeline.models.networks import NETWORKS, build_network, complete_options
from unet_pipeline.models.segmenter import ModelCard, Segmenter
from unet_pipeline.models.unet import DoubleConv, Down, OutConv, UNet, Up

__all__ = [
    "MODEL_NAME",
    "NETWORKS",
    "DoubleConv",
    "Down",
    "ModelCard",
    "OutConv",
    "Segmenter",
    "UNet",
    "Up",
    "build_network",
    "complete_options",
    "load_model",
    "load_weights",
    "save_model",
]
