"""What --model names -> a model file here, and the run that made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unet_pipeline import tracking
from unet_pipeline.config import RUNS_DIR
from unet_pipeline.training import run_folder as runs


@dataclass(frozen=True)
class ModelSource:
    """A model file or run folder, and where what is found out about it belongs.

    run_dir: the folder of the run that made it, where that is here. run: that run in MLflow, where
    the model was named there.
    """

    path: Path
    run_dir: Path | None
    run: tracking.KnownRun | None = None

    @property
    def weights(self) -> Path:
        """The model file itself."""
        return self.path / runs.BEST_NAME if self.path.is_dir() else self.path

    @property
    def home(self) -> Path:
        """The folder for what is found out about the model; it need not be there yet."""
        if self.run_dir is not None:
            return self.run_dir
        if self.run is not None:
            return Path(RUNS_DIR) / f"{runs.slug(self.run.name)}-{self.run.run_id[:8]}"
        return Path(RUNS_DIR) / runs.slug(self.path.stem)

    @property
    def has_run(self) -> bool:
        """Whether there is a run to add figures to."""
        return self.run_dir is not None or self.run is not None

    def attach(self, *, required: bool = False) -> tracking.Run:
        """The run that made the model, to add figures to; its status and duration stay."""
        if self.run_dir is not None:
            return tracking.attach(self.run_dir, required=required)
        assert self.run is not None, "has_run says whether there is one"
        return tracking.adopt(self.home, self.run, required=required)


def find_model(model: str) -> ModelSource:
    """The model called `model`: a path, or a name in MLflow, from where it is fetched."""
    if not tracking.is_reference(model):
        return ModelSource(Path(model), runs.find_run_folder(Path(model)))
    fetched = tracking.fetch_model(model)
    folder = fetched.run.folder(Path(RUNS_DIR)) if fetched.run else None
    if folder is not None:
        folder = runs.find_run_folder(folder)  # what was cleared away is elsewhere too
    return ModelSource(fetched.path, folder, fetched.run)
