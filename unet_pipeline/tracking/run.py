"""A run as the stages see it: say what happened, go on at once."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unet_pipeline.errors import ResourceError
from unet_pipeline.tracking import places, store
from unet_pipeline.tracking.courier import Courier
from unet_pipeline.tracking.machine import MachineWatch
from unet_pipeline.tracking.names import (
    clean_key,
    finite_metrics,
    flat_params,
    flat_tags,
    shorten,
)
from unet_pipeline.tracking.spool import IDENTITY, Identity, Spool, milliseconds
from unet_pipeline.tracking.table_sender import write_table

logger = logging.getLogger("unet_pipeline")

Status = Literal["FINISHED", "FAILED", "KILLED"]

SAMPLES = "samples"
_GRACE_SECONDS = 10.0
_MAX_DATASET_NAME, _MAX_DIGEST = 500, 36


class Run:
    """A run of the pipeline: everything goes to its folder at once, and to MLflow soon after.

    Made by `start`, `resume` and `attach`. No method raises for trouble of the store or the disk,
    and none waits for the store, except `close`.
    """

    def __init__(
        self, folder: Path, identity: Identity, *, uri: str, owner: bool, send: bool = True
    ) -> None:
        self.folder = folder
        self._sends = send
        self._spool = Spool(folder)
        self._courier = Courier(self._spool, identity, uri)
        self._owner = owner
        self._closed = False
        self._nonfinite: Counter[str] = Counter()
        self._said: dict[tuple[str, int], float] = {}
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
        """A point of each curve. What is not finite is counted, not drawn.

        dataset: name and digest, as given to `log_dataset`, of the data that the points are about.
        model: the sha256 of the weights file; the points go to that model too, if the run has
            logged it.
        """
        finite, dropped = finite_metrics(metrics)
        self._nonfinite.update(dropped)
        # A resumed run comes by the last epochs again: the same point is said once
        values = {k: v for k, v in finite.items() if self._said.get((k, step)) != v}
        if values or dropped:
            about: dict[str, Any] = {}
            if dataset is not None:
                name, digest = dataset
                about["dataset"] = [shorten(name, _MAX_DATASET_NAME), digest[:_MAX_DIGEST]]
            if model is not None:
                about["model"] = model
            self._spool.append("metrics", step=int(step), values=values, nonfinite=dropped, **about)

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

    def close(self, status: Status, *, grace: float = _GRACE_SECONDS) -> int:
        """End the run and send the rest; the number of records that could not be sent.

        Waits while the store makes progress, and at most `grace` seconds for one that does not.
        A run that was only attached keeps its status. Closing again does nothing.
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
                step, values = record.get("step", 0), record.get("values", {})
                self._said.update({(key, step): value for key, value in values.items()})
        self._say_running()
        self.dispatch()

    def dispatch(self) -> None:
        """Begin to send, if that is wanted; `attach` calls this."""
        if self._sends:
            self._courier.start()

    def _say_running(self) -> None:
        self._spool.append("status", status="RUNNING", pid=os.getpid(), host=platform.node())
