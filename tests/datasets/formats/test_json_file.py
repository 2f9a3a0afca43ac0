from __future__ import annotations

import os
from pathlib import Path

import pytest

from unet_pipeline.datasets.formats.json_file import both_ends, read_json
from unet_pipeline.errors import DatasetError


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize("text", ['{"a": 1,\n "b": ', "[" * 100_000, "9" * 5000, "\xff\xfe\xfa"])
def test_what_is_no_json_gives_one_line_with_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"x\.json: is no valid JSON") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_long_file_is_seen_at_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"0123456789")
    assert both_ends(path, 5) == (b"0123456789", True)
    assert both_ends(path, 4) == (b"0123\n6789", False)


def test_nothing_is_seen_of_a_pipe_or_a_lost_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert both_ends(tmp_path / "pipe", 4) == (b"", True)
    assert both_ends(tmp_path / "lost", 4) == (b"", True)
