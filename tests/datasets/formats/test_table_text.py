from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from unet_pipeline.datasets.formats.contract import list_tree
from unet_pipeline.datasets.formats.table import FORMAT
from unet_pipeline.errors import DatasetError

TEXT = "image;mask;group\r\nimg/Größe.png;gt/é.png;Zoé\r\nimg/b.png;gt/b.png;p2\r\n"


def files(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4)).save(path, format="PNG")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-16-be"])
@pytest.mark.parametrize("num_rows", [0, 5000])  # a table longer than what is looked at
def test_a_table_is_read_in_the_encodings_of_spreadsheets(
    tmp_path: Path, encoding: str, num_rows: int
) -> None:
    files(tmp_path, "img/Größe.png", "img/b.png", "gt/é.png", "gt/b.png")
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    more = "".join(f"img/é{n}.png;gt/é{n}.png;g\r\n" for n in range(num_rows))
    (tmp_path / "pairs.csv").write_bytes((mark + TEXT + more).encode(encoding))
    tree = list_tree(tmp_path)
    assert FORMAT.recognise(tree) is not None
    found = FORMAT.read(tree, None, None)
    assert [(p.sample_id, p.group) for p in found.pairs] == [("img/b", "p2"), ("img/Größe", "Zoé")]
    said = "pairs.csv is no UTF-8: it was read as Windows-1252 (Western European)"
    assert found.left_out == ((said,) if encoding == "cp1252" else ())


def test_names_of_an_old_archive_are_found_and_become_ids_that_can_be_written(
    tmp_path: Path,
) -> None:
    files(tmp_path, b"img/Gr\xf6\xdfe.png", "gt/a.png")
    (tmp_path / "pairs.csv").write_bytes("image,mask\nimg/Größe.png,gt/a.png\n".encode("cp1252"))
    found = FORMAT.read(list_tree(tmp_path), None, None)
    assert found.findings == ()
    assert [pair.sample_id for pair in found.pairs] == ["img/Größe"]


@pytest.mark.parametrize(
    ("content", "encodings"),
    [
        (b"image,mask\n\x81,\x8d\n", "utf-8 or cp1252"),
        ("image,mask\na,b\n".encode("utf-16-le"), "utf-8 or cp1252"),  # without its mark
        (b"\xff\xfei\x00m", "utf-16"),
        (b"\xef\xbb\xbfimage,mask\n\xff", "utf-8-sig"),
    ],
)
def test_other_bytes_are_refused_with_file_and_encoding(
    tmp_path: Path, content: bytes, encodings: str
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    assert FORMAT.recognise(list_tree(tmp_path)) is None
    with pytest.raises(DatasetError, match=rf"pairs\.csv: is no text in {encodings}: save it as"):
        FORMAT.read(list_tree(path), None, None)


def test_a_last_letter_of_windows_is_not_lost(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b.png")
    (tmp_path / "pairs.csv").write_bytes("image,mask,group\na.png,b.png,Zoé".encode("cp1252"))
    assert FORMAT.read(list_tree(tmp_path), None, None).pairs[0].group == "Zoé"
