"""A model and images -> masks: arrays, labelled samples to score, and folders of files."""

from unet_pipeline.inference.arrays import predict
from unet_pipeline.inference.folder import FolderSummary, predict_folder
from unet_pipeline.inference.inputs import (
    Input,
    Job,
    collect_inputs,
    decode_pixels,
    fit_image,
    plan_outputs,
    read_pixels,
)
from unet_pipeline.inference.outputs import OUTPUTS
from unet_pipeline.inference.requests import Predictor, example_image
from unet_pipeline.inference.scoring import ImageScores, score
from unet_pipeline.inference.sliding_window import (
    BATCH_SIZE,
    OVERLAP,
    predict_image,
    predict_logits,
)
from unet_pipeline.inference.threads import Failure

__all__ = [
    "BATCH_SIZE",
    "OUTPUTS",
    "OVERLAP",
    "Failure",
    "FolderSummary",
    "ImageScores",
    "Input",
    "Job",
    "Predictor",
    "collect_inputs",
    "decode_pixels",
    "example_image",
    "fit_image",
    "plan_outputs",
    "predict",
    "predict_folder",
    "predict_image",
    "predict_logits",
    "read_pixels",
    "score",
]
