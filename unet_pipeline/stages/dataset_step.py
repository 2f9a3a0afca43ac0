"""The first step of a chain: the source prepared, its dataset of before, or a dataset as it is."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from unet_pipeline.chain_config import ChainConfig
from unet_pipeline.config import DataSettings, PrepareConfig
from unet_pipeline.datasets.formats.torchvision_sets import is_torchvision
from unet_pipeline.datasets.manifest import FACTS_FILE, SAMPLES_FILE, Manifest
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.stages.linked import Chain, Step, begun, step_of
from unet_pipeline.stages.prepare import dataset_name, output_of, prepare
from unet_pipeline.stages.steps import (
    StepNote,
    content_digest,
    digest_of,
    flat,
    listing_digest,
    notes_of,
    plain,
)
from unet_pipeline.stages.writing import REPORT_FILE

logger = logging.getLogger(__name__)


def name_of_dataset(config: ChainConfig) -> str:
    """What the dataset is called, after which the experiment is."""
    asked = _asked(config)
    source = None if asked.data.path is None else Path(asked.data.path)
    if source is not None and Manifest.is_in(source):
        return Manifest.load(source).facts.name
    return dataset_name(asked, source, output_of(asked))


def prepare_step(chain: Chain, config: ChainConfig) -> Step:
    """The dataset of the source: made or brought up to date, reused, or prepared already.

    Raises what `prepare` raises, and `UserError` where another dataset is in the way.
    """
    asked = _asked(config)
    source = asked.data.path
    if source is not None and Manifest.is_in(Path(source)):
        return chain.add(_given(Path(source), config))
    tree = plain(asked, "output", "update")
    tree["data"]["path"] = _absolute(source)
    settings = digest_of(tree)
    of_files = source is not None and not is_torchvision(source) and Path(source).exists()
    listing = listing_digest([Path(source).resolve()]) if of_files and source else ""
    digest = digest_of({"settings": settings, "source": listing, "output": asked.output})
    former = _former_dataset(chain, asked, digest)
    if former is not None:
        return chain.reuse(*former)
    output, update = _place(chain, asked, settings)
    tree = asked.model_dump(exclude_unset=True) | {"output": str(output), "update": update}
    note = begun("prepare", digest=digest, settings=settings, dataset=str(output.resolve()))
    return chain.add(_prepared(chain, PrepareConfig.model_validate(tree), note))


def _prepared(chain: Chain, asked: PrepareConfig, note: StepNote) -> Step:
    """The dataset, with its facts in a small run."""
    started = time.monotonic()
    output = Path(str(asked.output))
    with chain.run_below(note, {"source": asked.data.path or "sample data"}) as track:
        manifest = prepare(asked).manifest
        facts = manifest.facts
        # at once: where the rest fails, this tells the dataset from any other that lies there later
        result = note.result | {
            "figure": _counts(manifest),
            "figures": facts.num_samples,
            "files": _files_digest(manifest),
            "samples": content_digest(output / SAMPLES_FILE),
            "facts": content_digest(output / FACTS_FILE),
            "content": _content_of(manifest),
        }
        note = note.save(track.folder, result=result)
        profile = facts.model_dump(mode="json", exclude={"classes", "fingerprint", "folds"})
        for split in (name for name, number in facts.num_samples.items() if number):
            name = f"{facts.name}-{split}"
            track.log_dataset(name, split, facts.fingerprint, profile, source=output)
        track.log_metrics({f"samples/{name}": n for name, n in facts.num_samples.items()}, step=0)
        for file in (FACTS_FILE, SAMPLES_FILE, REPORT_FILE):
            track.log_artifact(output / file)
        note = note.save(track.folder, state="finished")
    return step_of(note, track.folder, how="made", seconds=time.monotonic() - started)


def _asked(config: ChainConfig) -> PrepareConfig:
    """What `prepare` is asked: the section of that name, and what is said about the data."""
    tree = config.prepare.model_dump(exclude_unset=True)
    tree["data"] = config.data.model_dump(exclude_unset=True, exclude={"fold"})
    return PrepareConfig.model_validate(tree)


def _given(source: Path, config: ChainConfig) -> Step:
    """The step of a dataset that is prepared already. Raises `UserError` for settings of it."""
    asked = plain(_asked(config))
    for name, value in flat(asked):
        if name != "data.path" and value != dict(flat(plain(PrepareConfig())))[name]:
            raise UserError(
                f"{name} has no effect on {source}, which is prepared: leave it out, or give the "
                "source that it was prepared from"
            )
    manifest = Manifest.load(source)
    logger.info("prepare: %s is prepared already", source)
    result = {
        "dataset": str(source.resolve()),
        "figures": manifest.facts.num_samples,
        "content": _content_of(manifest),
    }
    return Step("prepare", "given", 0.0, source, _counts(manifest), result)


def _former_dataset(
    chain: Chain, asked: PrepareConfig, digest: str
) -> tuple[Path, StepNote] | None:
    """The step that has made this dataset, where source and settings are the same and it is whole.

    One that was killed after the dataset was whole, and noted as it is, counts too. Where
    samples.csv was edited since, its rows are what is wanted.
    """
    for folder, note in [] if chain.fresh else notes_of(chain.runs_dir, "prepare"):
        dataset = Path(note.result.get("dataset", ""))
        whole = note.state == "finished" or (note.state == "begun" and "files" in note.result)
        if note.digest != digest or not whole or not Manifest.is_in(dataset):
            continue
        try:
            manifest = Manifest.load(dataset)
        except DatasetError as error:
            logger.info("prepare: %s", error)
            return None
        if note.result.get("facts", "") not in ("", content_digest(dataset / FACTS_FILE)):
            logger.info("prepare: %s was prepared otherwise since: once more", dataset)
            return None
        same_rows = note.result.get("samples") == content_digest(dataset / SAMPLES_FILE)
        if same_rows and note.result.get("files") != _files_digest(manifest):
            logger.info("prepare: files of %s were changed since: once more", dataset)
            return None
        if note.state == "begun":
            note = note.save(folder, state="finished")
        if not same_rows or "content" not in note.result:  # other files, or a note of before
            result = note.result | {"content": _content_of(manifest)}
            note = note.model_copy(update={"result": result})
        return folder, note
    return None


def _place(chain: Chain, asked: PrepareConfig, settings: str) -> tuple[Path, bool]:
    """Where the dataset goes, and whether the one that is there is brought up to date.

    One that was made with other settings stays as it is, for the runs that were trained on it:
    another folder is taken, or asked for where --dataset names one.
    """
    first = output_of(asked)
    made_with = {note.result.get("dataset"): note.settings
                 for _, note in reversed(notes_of(chain.runs_dir, "prepare"))}  # fmt: skip
    open_data = plain(DataSettings(path=asked.data.path))
    unasked = plain(asked) | {"output": None} == plain(PrepareConfig()) | {"data": open_data}
    number = 1
    while True:
        output = first if number == 1 else first.with_name(f"{first.name}-{number}")
        if not Manifest.is_in(output):
            return output, False
        known = made_with.get(str(output.resolve()))
        if _may_update(asked) and (known == settings if known else unasked):
            return output, True
        if asked.output is not None:
            raise UserError(
                f"{output} holds a dataset that was prepared otherwise, which stays for the runs "
                f"on it: choose another --dataset, or train on it as it is: unet run {output}"
            )
        number += 1


def _may_update(asked: PrepareConfig) -> bool:
    path = asked.data.path
    return path is not None and not (asked.tile or asked.splits_from or is_torchvision(path))


def _files_digest(manifest: Manifest) -> str:
    # resolved: a table that is read again names the files behind links to folders
    files = {file.resolve() for s in manifest.samples for file in (s.image, s.mask) if file}
    return listing_digest(sorted(files))


def _content_of(manifest: Manifest) -> str:
    """Sha256 of the bytes of all files, wherever they lie.

    What the table says of them is of the day on which the dataset was prepared: masks may have been
    corrected since.
    """
    return digest_of(
        {
            s.sample_id: [content_digest(file) for file in (s.image, s.mask) if file]
            for s in manifest.samples
        }
    )


def _counts(manifest: Manifest) -> str:
    return ", ".join(f"{n} {split}" for split, n in manifest.facts.num_samples.items() if n)


def _absolute(source: str | None) -> str | None:
    local = source is not None and not is_torchvision(source)
    return str(Path(str(source)).resolve()) if local else source
