"""A run as the stages see it: say what happened, go on at once."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.errors import ResourceError, TrackingError
from unet_pipeline.tracking import places, store
from unet_pipeline.tracking.courier import PATIENCE_SECONDS, Courier
from unet_pipeline.tracking.curves import Curves
from unet_pipeline.tracking.lookup import SHA256
from unet_pipeline.tracking.machine import MachineWatch
from unet_pipeline.tracking.model_sender import file_digest
from unet_pipeline.tracking.names import (
    clean_key,
    finite_metrics,
    flat_params,
    flat_tags,
    shorten,
)
from unet_pipeline.tracking.spool import IDENTITY, Identity, Spool, milliseconds
from unet_pipeline.tracking.stale import mark_stale
from unet_pipeline.tracking.status import Status
from unet_pipeline.tracking.table_sender import write_table

logger = logging.getLogger("unet_pipeline")


SAMPLES = "samples"
_MAX_DATASET_NAME, _MAX_DIGEST = 500, 36


class Run:
    """A run of the pipeline: everything goes to its folder at once, and to MLflow soon after.

    Made by `start`, `resume` and `attach`. No method raises for trouble of the store or the disk,
    except `raise_for_failure`, and none waits for the store, except `close`.
    required: whether such trouble is to end what is recorded; see `failure`.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        *,
        uri: str,
        owner: bool,
        send: bool = True,
        required: bool = False,
    ) -> None:
        self.folder = folder
        self._sends = send
        self._required = required and send
        self._failure: str | None = None
        self._spool = Spool(folder)
        self._courier = Courier(self._spool, identity, uri)
        self._owner = owner
        self._closed = False
        self._nonfinite: Counter[str] = Counter()
        self._curves = Curves()
        self._machine: MachineWatch | None = None

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return self._courier.identity.experiment

    @property
    def run_name(self) -> str:
        """The run's name."""
        return self._courier.identity.run_name

    @property
    def key(self) -> str:
        """Our own id of the run, which it has before any store knows it."""
        return self._courier.identity.key

    @property
    def run_id(self) -> str | None:
        """The id in MLflow; None as long as no store has been reached."""
        return self._courier.identity.run_id

    @property
    def uri(self) -> str:
        """The store."""
        return self._courier.uri

    @property
    def url(self) -> str | None:
        """The link of the run's page; for a local store it works while `ui_command` runs."""
        identity = self._courier.identity
        if identity.experiment_id is None or identity.run_id is None:
            return None
        return places.page(self._courier.uri, identity.experiment_id, identity.run_id)

    @property
    def leaderboard_url(self) -> str | None:
        """The link of the experiment's saved view, all runs side by side."""
        experiment_id = self._courier.identity.experiment_id
        return places.page(self._courier.uri, experiment_id) if experiment_id else None

    @property
    def ui_command(self) -> str | None:
        """The command that shows the run; None where `url` is enough, or nothing is sent."""
        return places.ui_command(self._courier.uri) if self._sends else None

    @property
    def failure(self) -> str | None:
        """Why a run that is required to be in MLflow is not; once there is a reason, it stays.

        It costs nothing, so that it can be asked after every step.
        """
        if self._required and self._failure is None:
            self._failure = self._courier.failure
        return self._failure

    def required_error(self, advice: str) -> TrackingError:
        """The error of a `failure`, which says what to do."""
        return required_error(self._courier.identity.tracking_uri, str(self.failure), advice)

    def raise_for_failure(self) -> None:
        """Raise `TrackingError` where there is a `failure`."""
        if self.failure is not None:
            raise self.required_error(f"send what is missing by `unet sync {self.folder}`")

    def say_where(self, what: str = "run") -> None:
        """Log the command that shows the runs, and the link of this one."""
        if self.ui_command:
            logger.info("compare:  %s", self.ui_command)
        if self.url:
            logger.info("this %s: %s", what, self.url)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings, nested or flat: `section.key` in MLflow, long values shortened."""
        self._spool.append("params", values=flat_params(params))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Words about the run; the last value of a tag counts."""
        self._spool.append("tags", values=flat_tags(tags))

    def log_note(self, markdown: str) -> None:
        """The description at the top of the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def log_metrics(
        self,
        metrics: Mapping[str, Any],
        *,
        step: int,
        dataset: tuple[str, str] | None = None,
        model: str | None = None,
    ) -> None:
        """Figures; the last value of a key counts. What is not finite is counted, not drawn.

        A value that a resumed run has said already is not said again.

        dataset: name and digest, as given to `log_dataset`, of the data that the points are about.
        model: the sha256 of the weights file; the points go to that model too, once it is logged.
        """
        finite, dropped = finite_metrics(metrics)
        self._nonfinite.update(dropped)
        values = self._curves.changed(finite, step=int(step))
        if values or dropped:
            record = {"t": milliseconds(), "step": int(step), "values": values}
            if dataset is not None:
                name, digest = dataset
                record["dataset"] = [shorten(name, _MAX_DATASET_NAME), digest[:_MAX_DIGEST]]
            self._spool.append("metrics", **record, nonfinite=dropped)
            if model is not None:  # again, behind the model, and with the same time the same points
                self._spool.append("model_metrics", **record, model=model)

    def log_epoch(
        self, metrics: Mapping[str, Any], *, epoch: int, share: float | None = None
    ) -> None:
        """A point of each curve, as far as its chart needs one; the step axis is the epoch.

        An epoch that has its point, as after a resume, keeps it.
        share: the part of the training that is done; None for an epoch that is to be seen in any
        case. See `Curves`.
        """
        finite, dropped = finite_metrics(metrics)
        self._nonfinite.update(dropped)
        values = self._curves.new(finite, step=int(epoch), share=share)
        if values or dropped:
            self._spool.append("metrics", step=int(epoch), values=values, nonfinite=dropped)

    def log_image(self, key: str, rgb: npt.NDArray[np.uint8], *, step: int) -> None:
        """A picture (H, W, 3), uint8, for the slider of `key`; again for a step, it is replaced.

        It is kept as samples/<key>/<step>.png in the run folder.
        """
        import PIL.Image

        assert rgb.dtype == np.uint8, "MLflow shows other types black, or stretched"
        assert rgb.ndim == 3, "H, W, C"
        assert rgb.shape[2] == 3, "RGB"
        name = clean_key(key, ascii_only=True)
        path = self.folder / SAMPLES / name / f"{step:06d}.png"
        buffer = io.BytesIO()
        PIL.Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)  # 4 times as fast as 6
        if self._spool.put(path, buffer.getvalue()):
            self._spool.append(
                "image",
                path=path.relative_to(self.folder).as_posix(),
                key=name,
                step=int(step),
                # a function of the step: sent again, the picture replaces itself
                time=self._courier.identity.started + int(step),
            )

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, or all files of a folder, as they are when they are sent.

        folder: where it goes in MLflow. What lies outside the run folder is copied into it first.
        """
        with self._spool.guarded(path.name):
            files = [path]
            if path.is_dir():
                files = sorted(file for file in path.rglob("*") if file.is_file())
            elif not path.is_file():
                logger.warning("tracking: there is no file %s to send", path)
                return
            for file in files:
                inner = file.parent.relative_to(path.parent).as_posix()
                place = "/".join(part for part in (folder, inner) if part and part != ".")
                place = clean_key(place) if place else ""
                if staged := self._spool.stage(file, place):
                    self._spool.append("artifact", path=staged, folder=place)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table that MLflow shows, and compares between runs that have one of the same name.

        Cells are text, numbers, or pictures (H, W, 3), uint8. The same name again replaces the
        table. It is kept as tables/<name>.json in the run folder, its pictures beside it.
        """
        name = clean_key(name, ascii_only=True).replace("/", "_")
        if path := write_table(self._spool, name, columns, rows):
            self._spool.append("table", path=path, name=f"{name}.json")

    def log_dataset(
        self,
        name: str,
        split: str,
        digest: str,
        profile: Mapping[str, Any],
        *,
        source: Path | str = "",
    ) -> None:
        """Data that the run uses: name, split, fingerprint, facts (JSON-able), and where it lies.

        MLflow keeps the first 36 characters of the digest.
        """
        self._spool.append(
            "dataset",
            name=shorten(name, _MAX_DATASET_NAME),
            split=split,
            digest=digest[:_MAX_DIGEST],
            profile=dict(profile),
            source=str(Path(source).resolve() if isinstance(source, Path) else source),
        )

    def watch_machine(self) -> None:
        """Add how busy the machine is, until `close`: `system/...`, by seconds of the run."""
        self._machine = MachineWatch(
            self.folder,
            lambda values, second: self.log_metrics(values, step=second),
            seconds=(milliseconds() - self._courier.identity.started) / 1000,
        )
        self._machine.start()

    def log_model(
        self,
        weights: Path,
        *,
        network: str,
        example: bytes,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        register: str | None = None,
        description: str = "",
    ) -> None:
        """The model file `weights` of the run folder, as `runs:/<run id>/model`; once a file.

        network: its name. example: a small image file that the model takes. register: the
        registered model that it becomes a version of. description: of that version.
        """
        sha256 = file_digest(weights)
        self._spool.append(
            "model",
            path=weights.relative_to(self.folder).as_posix(),
            sha256=sha256,
            network=network,
            example=base64.b64encode(example).decode(),
            params=flat_params(params),
            tags=flat_tags({**tags, store.RUN_KEY: self.key, SHA256: sha256}),
            register=register,
            description=description,
        )

    def close(self, status: Status, *, grace: float = PATIENCE_SECONDS) -> int:
        """End the run and send the rest; the number of records that could not be sent.

        Waits while the store makes progress, and at most `grace` seconds for one that does not.
        A run that was only attached keeps its status. Closing again does nothing. Where the run is
        required to be in MLflow, what could not be sent is a `failure`.
        """
        if self._closed:
            return 0
        self._closed = True
        if self._machine is not None:
            self._machine.stop()
        if self._nonfinite:
            self.set_tags({"unet.nonfinite": json.dumps(self._nonfinite, ensure_ascii=False)})
        if self._owner:
            self._spool.append("status", status=status)
        pending = self._courier.finish(grace) if self._sends else 0
        self._spool.close()
        if pending and self._required:
            self._failure = self.failure or f"{pending} records could not be sent"
        if pending:
            logger.warning(
                "tracking: %d records are not in MLflow yet; %s keeps them: `unet sync %s` sends "
                "them",
                pending,
                self.folder,
                self.folder,
            )
        return pending

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Write what the run is, and begin to send; `start` calls this."""
        identity = self._courier.identity
        with self._spool.guarded(IDENTITY):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._spool.save(identity)
        except (ResourceError, OSError) as error:
            logger.warning("tracking: %s", error)
        self._say_running()
        self.log_params(params)
        self.set_tags({**tags, store.RUN_KEY: identity.key, "unet.run_dir": self.folder.resolve()})
        self.dispatch()

    def go_on(self) -> None:
        """Recall what the run has said, and begin to send; `resume` calls this."""
        for record, _ in self._spool.read():
            if record.get("kind") == "metrics":
                self._nonfinite.update(record.get("nonfinite", ()))
                self._curves.recall(record.get("values", {}), record.get("step", 0))
        self._say_running()
        self.dispatch()

    def dispatch(self) -> None:
        """Begin to send, if that is wanted; `attach` calls this.

        Raises `TrackingError` where the run is required to be in MLflow and does not get there.
        """
        if not self._sends:
            return
        if self._owner:
            self._courier.then = self._mark_stale
        self._courier.start(wait=self._owner)  # what is added to a run can be sent when it closes
        if self._required:
            self._courier.wait_until_opened()
            if self.failure is not None:
                raise required_error(self._courier.identity.tracking_uri, self.failure)

    def _mark_stale(self) -> None:
        def send(folder: Path) -> None:
            spool = Spool(folder)
            identity = spool.load()
            if identity is not None and identity.send:
                uri = places.recorded_uri(identity.tracking_uri)
                self._courier.carry_beside(spool, identity, uri)

        mark_stale(self.folder, send, stopped=lambda: self._closed)

    def _say_running(self) -> None:
        self._spool.append("status", status="RUNNING", pid=os.getpid(), host=platform.node())


def required_error(
    uri: str, reason: str, advice: str = "mend it, or go on without it by --tracking on"
) -> TrackingError:
    """The error of a run that has to be in MLflow and does not get there."""
    return TrackingError(f"MLflow at {uri} fails ({reason}), and tracking is required: {advice}")
