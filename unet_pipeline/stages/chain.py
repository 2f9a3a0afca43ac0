"""chain: prepare, train, evaluate and predict in one go, each step a run below one.

A step whose inputs have not changed since it was done is not done again: its run of before stands
in the table. `steps.py` knows what it was made from: from the first change on everything is made
anew, and a chain that was killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from unet_pipeline import __version__, tracking
from unet_pipeline.chain_config import ChainConfig
from unet_pipeline.config import EvaluateConfig, PredictConfig, TrainConfig, dump_config
from unet_pipeline.console import as_text
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.errors import OutputInUseError, RejectedInputsError, UserError
from unet_pipeline.files import require_writable, write_atomic
from unet_pipeline.inference import collect_inputs
from unet_pipeline.inference.folder import FAILURES_NAME
from unet_pipeline.stages.dataset_step import name_of_dataset, prepare_step
from unet_pipeline.stages.evaluate import evaluate
from unet_pipeline.stages.linked import Chain, How, Step, begun, noted, open_chain, step_of
from unet_pipeline.stages.predict import predict_files
from unet_pipeline.stages.processes import refuse_several
from unet_pipeline.stages.steps import (
    StepNote,
    content_digest,
    digest_of,
    flat,
    notes_of,
    outputs_of,
    plain,
)
from unet_pipeline.stages.train import resume, train
from unet_pipeline.stages.trained import InterruptedRunError, TrainedRun
from unet_pipeline.training import run_folder as runs
from unet_pipeline.training.checkpoints import STATE_NAMES

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions"
_WITHOUT_EFFECT = {
    "prepare": ("data", "check", "fix", "export", "update"),
    "evaluate": ("model", "data", "output", "tracking"),
    "predict": ("model", "output", "skip_existing", "track"),
}
"""What the chain says itself to each of its steps."""


@dataclass(frozen=True)
class ChainedRun:
    """What `run_chain` has made: the folder of the whole, a row a step, where to look at it."""

    folder: Path
    steps: tuple[Step, ...]
    tracking_url: str | None

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        results = {step.name: dict(step.result) for step in self.steps}
        return {
            "folder": str(self.folder),
            "dataset": results["prepare"]["dataset"],
            "model": results["train"]["model"],
            "report": results["evaluate"]["report"],
            "predictions": results.get("predict", {}).get("predictions"),
            "tracking_url": self.tracking_url,
            "steps": [
                {
                    "step": step.name,
                    "how": step.how,
                    "seconds": round(step.seconds, 3),
                    "folder": str(step.folder),
                    "figures": results[step.name].get("figures", {}),
                }
                for step in self.steps
            ],
        }

    def table(self) -> str:
        """The steps as a table of text."""
        table = Table(title=Text(str(self.folder)))
        for name in ("step", "", "s", "result", "run"):
            table.add_column(name, justify="right" if name == "s" else "left", no_wrap=name == "s")
        for step in self.steps:
            table.add_row(*map(Text, (*_cells(step), str(step.folder))))
        return as_text(table)

    def raise_for_rejected(self) -> None:
        """Raise the `RejectedInputsError` of the first step that has left inputs out."""
        for step in self.steps:
            step.raise_for_rejected()


def run_chain(config: ChainConfig, *, fresh: bool = False) -> ChainedRun:
    """Prepare the source, train, evaluate and, where images are given, predict.

    fresh: every step is done again. The first step that fails ends it, with its own error; inputs
    that a step leaves out do not (see `ChainedRun.raise_for_rejected`).
    """
    refuse_several("unet run")
    _refuse_what_the_chain_says(config)
    runs_dir = Path(config.output.runs_dir)
    require_writable(runs_dir)
    if config.predict.inputs:  # before hours of training
        collect_inputs(config.predict.inputs, output=runs_dir)
    dataset = name_of_dataset(config)
    experiment = tracking.experiment_name(config.output.experiment, default=dataset)
    with open_chain(config.output, experiment, _params(config), fresh=fresh) as chain:
        write_atomic(chain.folder / runs.CONFIG_NAME, dump_config(config))
        chain.track.log_artifact(chain.folder / runs.CONFIG_NAME)
        with _described(chain):
            prepared = prepare_step(chain, config).result
            manifest, content = Manifest.load(Path(prepared["dataset"])), prepared["content"]
            if config.data.fold is not None:
                manifest = manifest.fold(config.data.fold)
            trained = _train(chain, config, manifest, content)
            _evaluate(chain, config, manifest, content, trained)
            if config.predict.inputs:
                _predict(chain, config, trained)
    chain.track.say_where("chain")
    return ChainedRun(chain.folder, tuple(chain.steps), chain.track.url)


# ---- train --------------------------------------------------------------------------------------


def _train(chain: Chain, config: ChainConfig, manifest: Manifest, content: str) -> Step:
    """The training. content: a digest of the files of the dataset."""
    asked = _train_config(chain, config, manifest)
    settings = digest_of(
        plain(asked, "output", "data")
        | {"fold": asked.data.fold, "workers": None, "weights": _weights_digest(asked)}
    )
    folds = [s.fold for s in manifest.samples]
    data = {"facts": plain(manifest.facts), "folds": folds, "content": content}
    digest = digest_of({"settings": settings, "data": data, "version": __version__})
    former = chain.former("train", digest)
    if former is not None:
        return chain.reuse(*former)
    note = begun("train", digest=digest, settings=settings)
    started = time.monotonic()
    unfinished = _unfinished_training(chain, digest)
    with contextlib.ExitStack() as stack:

        def begin(folder: Path) -> None:
            stack.enter_context(noted(note, folder))

        if unfinished is not None:
            logger.info("train: continuing %s, which was stopped", unfinished)
            chain.track.set_tags({"unet.resumed.train": unfinished.name})
            run = _resume(unfinished, note)
        else:
            run = train(asked, manifest=manifest, parent=chain.track, on_begin=begin)
    note = _note_training(run, note)
    how: How = "made" if unfinished is None else "resumed"
    step = step_of(note, run.folder, how=how, seconds=time.monotonic() - started)
    if run.stop_code is not None:
        raise InterruptedRunError(f"stopped after {run.folder} was finished", run.stop_code)
    return chain.add(step)


def _train_config(chain: Chain, config: ChainConfig, manifest: Manifest) -> TrainConfig:
    """The training's settings: those of the chain, on the dataset that it has prepared."""
    tree = config.model_dump(exclude_unset=True, exclude={"prepare", "evaluate", "predict"})
    tree["data"] = {"path": str(manifest.root), "fold": config.data.fold}
    tree["output"] = tree.get("output", {}) | {"experiment": chain.track.experiment}
    return TrainConfig.model_validate(tree)


def _weights_digest(asked: TrainConfig) -> str | None:
    """Of the weights that the training starts from: a path may hold others tomorrow."""
    if asked.model.weights is None:
        return None
    path = Path(asked.model.weights)
    return content_digest(path / runs.BEST_NAME if path.is_dir() else path)


def _unfinished_training(chain: Chain, digest: str) -> Path | None:
    """The run of a training from the same that was stopped or killed, where it can go on."""
    for folder, note in [] if chain.fresh else notes_of(chain.runs_dir, "train"):
        if note.digest == digest:
            has_state = any((folder / name).is_file() for name in STATE_NAMES)
            return folder if note.state == "begun" and has_state else None
    return None


def _resume(folder: Path, note: StepNote) -> TrainedRun:
    try:
        return resume(folder, {})
    except (InterruptedRunError, OutputInUseError):
        raise
    except Exception:  # the next time it is trained anew
        note.save(folder, state="failed")
        raise


def _note_training(run: TrainedRun, note: StepNote) -> StepNote:
    """The finished note of a training, in its folder."""
    rejected = None
    try:
        run.raise_for_unreadable()
    except RejectedInputsError as error:
        rejected = str(error)
    model = run.folder / runs.BEST_NAME
    figures = {name.removeprefix("val/"): v for name, v in run.best.items() if "val/" in name}
    result = {
        "figure": f"val mean IoU {figures.get('mean_iou', math.nan):.4f}",
        "figures": {name: value for name, value in figures.items() if math.isfinite(value)},
        "model": str(model),
    }
    return note.save(
        run.folder,
        state="finished",
        outputs=outputs_of(run.folder, [model]),
        result=result,
        rejected=rejected,
    )


# ---- evaluate, predict --------------------------------------------------------------------------


def _evaluate(
    chain: Chain, config: ChainConfig, manifest: Manifest, content: str, trained: Step
) -> Step:
    asked = _evaluate_config(config, manifest, trained)
    settings = digest_of(plain(asked, "model", "data", "tracking"))
    made_from = {"settings": settings, "fingerprint": manifest.facts.fingerprint}
    made_from["content"] = content
    digest = digest_of(made_from | _model_of(trained))
    former = chain.former("evaluate", digest)
    if former is not None:
        return chain.reuse(*former)
    return chain.add(
        _evaluated(chain, asked, manifest, begun("evaluate", digest=digest, settings=settings))
    )


def _evaluated(chain: Chain, asked: EvaluateConfig, manifest: Manifest, note: StepNote) -> Step:
    """The scores, in the run of the training, and in a small one that has the report."""
    started = time.monotonic()
    params = {"model": asked.model, "split": asked.split, "data": manifest.facts.name}
    with chain.run_below(note, params) as track:
        evaluation = evaluate(asked, manifest=manifest)
        scores = evaluation.scores
        figures = {"mean_iou": scores.mean_iou, "mean_dice": scores.mean_dice}
        # under keys of its own: `test/...` stands in the run of the training, for the leaderboard
        track.log_metrics({f"evaluate/{name}": v for name, v in figures.items()}, step=0)
        track.log_artifact(evaluation.folder, "evaluation")
        note = note.save(
            track.folder,
            state="finished",
            outputs=outputs_of(track.folder, [evaluation.folder]),
            result={
                "figure": f"{asked.split} mean IoU {scores.mean_iou:.4f}",
                "figures": {name: v for name, v in figures.items() if math.isfinite(v)},
                "report": str(evaluation.folder),
            },
        )
    return step_of(note, track.folder, how="made", seconds=time.monotonic() - started)


def _evaluate_config(config: ChainConfig, manifest: Manifest, trained: Step) -> EvaluateConfig:
    """What `evaluate` is asked: the test split, or val where there is no test split."""
    tree = _below(config, config.evaluate)
    if "split" not in tree and not manifest.facts.num_samples["test"]:
        tree["split"] = "val"
    tree |= {
        "model": str(trained.folder),
        "data": {"path": str(manifest.root), "fold": config.data.fold},
        "tracking": config.output.tracking,
    }
    return EvaluateConfig.model_validate(tree)


def _predict(chain: Chain, config: ChainConfig, trained: Step) -> Step:
    tree = _below(config, config.predict) | {"model": str(trained.folder)}
    asked = PredictConfig.model_validate(tree)
    settings = digest_of(plain(asked, "model", "output", "inputs"))
    images = {
        str(image.relative): content_digest(image.path)
        for image in collect_inputs(asked.inputs, output=chain.runs_dir)
    }
    digest = digest_of({"settings": settings, "images": images} | _model_of(trained))
    former = chain.former("predict", digest)
    if former is not None:
        return chain.reuse(*former)
    return chain.add(_predicted(chain, asked, begun("predict", digest=digest, settings=settings)))


def _predicted(chain: Chain, asked: PredictConfig, note: StepNote) -> Step:
    """The masks, in the folder of a run of their own."""
    started = time.monotonic()
    params = {"model": asked.model, "inputs": ", ".join(asked.inputs), "tta": asked.tta}
    with chain.run_below(note, params) as track:
        output = track.folder / PREDICTIONS
        predicted = predict_files(asked.model_copy(update={"output": str(output)}))
        rejected = None
        try:
            predicted.raise_for_rejected()
        except RejectedInputsError as error:
            rejected = str(error)
            track.log_artifact(output / FAILURES_NAME)
        written, failed = predicted.result.written, len(predicted.result.failures)
        figures = {"written": written, "failed": failed}
        track.log_metrics({f"predict/{name}": v for name, v in figures.items()}, step=0)
        note = note.save(
            track.folder,
            state="finished",
            outputs=outputs_of(track.folder, [output]),
            result={
                "figure": f"{written} masks" + (f", {failed} rejected" if failed else ""),
                "figures": figures,
                "predictions": str(output),
            },
            rejected=rejected,
        )
    return step_of(note, track.folder, how="made", seconds=time.monotonic() - started)


def _below(config: ChainConfig, section: EvaluateConfig | PredictConfig) -> dict[str, Any]:
    """What a section says; of windows and device, what the chain says where it says nothing."""
    shared = {"inference": config.inference, "runtime": config.runtime}
    tree = {name: part.model_dump(exclude_unset=True) for name, part in shared.items()}
    return tree | section.model_dump(exclude_unset=True)


def _model_of(trained: Step) -> dict[str, Any]:
    """What tells the model apart from all others."""
    return {"model": content_digest(trained.folder / runs.BEST_NAME), "version": __version__}


# ---- the whole ----------------------------------------------------------------------------------


def _refuse_what_the_chain_says(config: ChainConfig) -> None:
    for section, names in _WITHOUT_EFFECT.items():
        given = getattr(config, section).model_fields_set
        for name in names:
            if name in given:
                raise UserError(f"{section}.{name} has no effect on `unet run`: leave it out")
    if config.output.register_as:  # a training that is not done again would register nothing
        raise UserError(
            "output.register_as: `unet run` registers nothing: leave it out, `unet promote` the run"
        )


def _params(config: ChainConfig) -> dict[str, Any]:
    """What was asked for, as MLflow's params: no defaults, and the source as it was typed."""
    asked = config.model_dump(mode="json", exclude_unset=True, exclude={"recipe", "output", "data"})
    params = {"source": config.data.path or "", "recipe": config.recipe}
    return params | dict(flat(asked)) | {"predict": ", ".join(config.predict.inputs)}


@contextlib.contextmanager
def _described(chain: Chain) -> Iterator[None]:
    """The table as the note of the run, as far as the steps have come.

    Not as metrics: the leaderboard would show each result twice.
    """
    try:
        yield
    finally:
        rows = "".join(f"| {' | '.join(_cells(s))} | {s.folder.name} |\n" for s in chain.steps)
        chain.track.log_note(f"| step | | s | result | run |\n|---|---|---:|---|---|\n{rows}")


def _cells(step: Step) -> tuple[str, str, str, str]:
    return step.name, step.how, f"{step.seconds:,.1f}", step.figure
