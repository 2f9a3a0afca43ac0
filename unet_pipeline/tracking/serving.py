"""The model as MLflow loads and serves it: `mlflow.pyfunc.load_model(...)`, `mlflow models serve`.

MLflow checks a request against the model's signature before the model sees it, and there is no
schema that lets arrays of any size, base64 and tables through. Those of type hints do: they leave
the checking to the model (`signature`), which is what is wanted: the model's card knows better.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

import unet_pipeline
from unet_pipeline.errors import DivergedError, ResourceError, UserError

WEIGHTS = "weights"
"""The name of the model file among the artifacts."""

MODEL_CONFIG = {"device": "auto", "amp": "auto", "paths": "auto"}
"""What may be set at loading, `load_model(uri, model_config={"device": "cpu"})`.

paths: whether text may name a file, which is then read: always, never, or auto, which is never in
a scoring server: who may send it requests may not read its disk.
"""


class ServedModel(PythonModel):
    """A model file of `unet train` behind MLflow's interface; see `unet_pipeline.Predictor`."""

    def load_context(self, context: Any) -> None:
        """Load the model file of the folder; MLflow calls this once."""
        config = MODEL_CONFIG | (context.model_config or {})
        if config["paths"] not in ("auto", "always", "never"):
            raise MlflowException.invalid_parameter_value(
                f"model_config: paths is {config['paths']!r}; use auto, always or never"
            )
        self._paths = config["paths"]
        self._predictor = unet_pipeline.Predictor(
            context.artifacts[WEIGHTS], device=config["device"], amp=config["amp"]
        )

    # A hint that MLflow infers no schema from: without any, it warns in every process
    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> Any:
        """Masks of images, as `unet_pipeline.Predictor.predict` gives them."""
        serving = in_server()
        paths = self._paths == "always" or (self._paths == "auto" and not serving)
        try:
            return self._predictor.predict(model_input, paths=paths, text=serving, **(params or {}))
        except UserError as error:
            if isinstance(error, ResourceError | DivergedError):  # not the fault of the request
                raise _Refusal(str(error)) from error
            raise _Refusal.invalid_parameter_value(str(error)) from error


class _Refusal(MlflowException):
    """An answer that stays short: the scoring server would put the whole request before it."""

    @property
    def message(self) -> str:
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        self._message = getattr(self, "_message", None) or text


def in_server() -> bool:
    """Whether this process answers requests of others, in MLflow's scoring server or MLServer."""
    said = os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "").lower()
    return said in ("true", "1") or "mlserver" in sys.modules


def signature() -> ModelSignature:
    """Any input and output, left to the model; and the params of a request with their defaults."""
    anything = Schema([ColSpec(AnyType())])  # type: ignore[no-untyped-call]
    params = ParamSchema(
        [
            ParamSpec("output", "string", "auto"),
            ParamSpec("tta", "boolean", False),
            ParamSpec("threshold", "double", None),
        ]
    )
    found = ModelSignature(inputs=anything, outputs=anything, params=params)
    found._is_signature_from_type_hint = True  # as `predict(self, model_input: list[Any])` gives it
    return found
