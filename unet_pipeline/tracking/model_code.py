"""Copied into the folder of a model, and run by MLflow to load it: no pickle, no code of its own.

It needs unet_pipeline installed; the weights lie beside it, in artifacts/.
"""

from mlflow.models import set_model

from unet_pipeline.tracking.serving import ServedModel

set_model(ServedModel())
