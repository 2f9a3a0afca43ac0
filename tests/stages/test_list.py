"""list: every catalogue as a table and as JSON."""

from __future__ import annotations

import inspect
import json

import pytest

from unet_pipeline import cli
from unet_pipeline.stages.list import KINDS, list_catalogue
from unet_pipeline.training import CRITERIA, LOSSES


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_has_a_line_and_its_options(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["list", kind]) == 0
    table = capsys.readouterr().out
    assert cli.run(["list", kind, "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    catalogue, given = KINDS[kind]()
    assert list(listing["entries"]) == list(catalogue)
    for name, entry in listing["entries"].items():
        assert name.split("/")[0] in table
        assert len(entry["summary"]) > 10, name
        parameters = inspect.signature(catalogue[name]).parameters.values()
        options = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        assert set(entry["options"]) == options - set(given)


def test_the_defaults_are_those_of_the_signatures() -> None:
    entries = list_catalogue("losses").entries
    assert entries["focal"].options == {"gamma": 2.0, "class_weights": None}
    assert "ignore_index" not in entries["ce"].options
    assert list_catalogue("models").entries["unet"].options["base_channels"] == 64


def test_losses_that_are_not_for_masks_are_listed_with_the_reason() -> None:
    refused = list_catalogue("losses").refused
    assert set(refused) == {name for name, c in CRITERIA.items() if c.dense is None}
    assert set(refused) & set(LOSSES) == set()
    assert "embeddings" in refused["triplet_margin"]


def test_architectures_of_the_library_are_listed() -> None:
    entries = list_catalogue("models").entries
    assert "smp:fpn/<encoder>" in entries
    assert entries["smp:fpn/<encoder>"].options["encoder_weights"] is None
    assert {"mlp", "lenet"} <= set(entries)


def test_an_unknown_catalogue_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "loses"]) == 2
    assert "did you mean 'losses'" in capsys.readouterr().err
