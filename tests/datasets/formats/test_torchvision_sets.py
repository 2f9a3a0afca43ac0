from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import OxfordIIITPet, SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from unet_pipeline.datasets.formats import torchvision_sets, voc
from unet_pipeline.datasets.formats.torchvision_sets import find_torchvision, is_torchvision
from unet_pipeline.datasets.images import read_mask
from unet_pipeline.errors import UserError


def save(path: Path, values: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, dtype=np.uint8), (4, 6))).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_pet(root: Path) -> None:
    for name in ("Abyssinian_1", "Abyssinian_10", "beagle_2", "unlisted_3"):
        save(root / "images" / f"{name}.jpg", [9])
        save(root / "annotations" / "trimaps" / f"{name}.png", [1, 2, 3])
    (root / "annotations" / "trimaps" / "._beagle_2.png").write_bytes(b"\0\5\x16\7")
    write(
        root / "annotations" / "trainval.txt",
        "beagle_2 5 2 4\nAbyssinian_1 1 1 1\n",
    )
    write(root / "annotations" / "test.txt", "Abyssinian_10 1 1 1\n")


def make_voc(root: Path) -> None:
    palette = [level for index in range(256) for level in voc._voc_color(index)]
    for name in ("2007_000032", "2007_000033"):
        save(root / "JPEGImages" / f"{name}.jpg", [9])
        path = root / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(np.resize(np.array([0, 15, 255], dtype=np.uint8), (4, 6)))
        image.putpalette(palette)
        image.save(path)
    write(root / "ImageSets" / "Segmentation" / "train.txt", "2007_000032\n")
    write(root / "ImageSets" / "Segmentation" / "val.txt", "2007_000033\n")


def make_sbd(root: Path) -> None:
    for name in ("2008_000002", "2008_000003"):
        save(root / "img" / f"{name}.jpg", [9])
        (root / "cls").mkdir(exist_ok=True)
        values = np.resize(np.array([0, 20, 7], dtype=np.uint8), (4, 6))
        savemat(root / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": values}})
    write(root / "train.txt", "2008_000003\n")
    write(root / "val.txt", "2008_000002\n")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is refused: the only way out is a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    through(monkeypatch, f"http://127.0.0.1:{port}")


def through(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers what it found first


class Archives(BaseHTTPRequestHandler):
    """Serves `files`, each with as many bytes as it claims or fewer; stays silent on the rest."""

    files: ClassVar[dict[str, bytes]] = {}
    claimed: ClassVar[int | None] = None
    silent: ClassVar[threading.Event | None] = None
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.silent is not None:
            self.silent.wait(20)
            return
        if self.path not in self.files:
            self.send_error(404)
            return
        content = self.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(self.claimed or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    through(monkeypatch, "")
    for name, value in (("files", {}), ("claimed", None), ("silent", None), ("asked", [])):
        monkeypatch.setattr(Archives, name, value)
    with ThreadingHTTPServer(("127.0.0.1", 0), Archives) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        if Archives.silent is not None:
            Archives.silent.set()
        http.shutdown()
        thread.join()


def pack(folder: Path, mode: str, prefix: str = "", only: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        archive.add(folder / only, f"{prefix}{only}" or ".")
    return file.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def offer_pet(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pet(tmp_path / "made")
    resources = []
    for part in ("images", "annotations"):
        content = pack(tmp_path / "made", "w:gz", only=part)
        Archives.files[f"/{part}.tar.gz"] = content
        resources.append((f"{server}/{part}.tar.gz", md5(content)))
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", tuple(resources))


# ---- what lies there already --------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_the_pets_are_read_from_their_trimaps(tmp_path: Path) -> None:
    root = tmp_path / "oxford-iiit-pet"
    make_pet(root)
    found = find_torchvision("torchvision:OxfordIIITPet", download_to=tmp_path)
    assert [(p.sample_id, p.split) for p in found.pairs] == [
        *(("Abyssinian_1", "train"), ("Abyssinian_10", "test"), ("beagle_2", "train"))
    ]
    assert found.pairs[2].image == root / "images" / "beagle_2.jpg"
    assert found.pairs[2].mask == root / "annotations" / "trimaps" / "beagle_2.png"
    assert found.class_list is not None
    assert (found.class_list.names, found.class_list.values) == (("background", "pet"), (2, 1))
    assert found.ignore_values == (3,)
    assert found.sentence == ("torchvision:OxfordIIITPet: 3 pairs; splits by list: train 2, test 1")
    assert found.findings == ()


@pytest.mark.usefixtures("no_network")
def test_listed_files_that_are_absent_are_findings(tmp_path: Path) -> None:
    root = tmp_path / "oxford-iiit-pet"
    make_pet(root)
    (root / "images" / "beagle_2.jpg").unlink()
    (root / "annotations" / "trimaps" / "Abyssinian_1.png").unlink()
    found = find_torchvision("torchvision:OxfordIIITPet", download_to=tmp_path)
    assert [(f.code, f.severity, f.count, f.examples) for f in found.findings] == [
        ("missing-images", "error", 1, ("beagle_2",)),
        ("missing-masks", "error", 1, ("Abyssinian_1",)),
    ]
    assert [p.sample_id for p in found.pairs] == ["Abyssinian_10"]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("VOCSegmentation", "VOCdevkit/VOC2012"),
        ("VOCSegmentation@2012", "VOCdevkit/VOC2012"),
        ("VOCSegmentation@2007", "VOCdevkit/VOC2007"),
        ("VOCSegmentation@2011", "TrainVal/VOCdevkit/VOC2011"),
    ],
)
def test_voc_is_read_by_its_own_format(tmp_path: Path, name: str, place: str) -> None:
    make_voc(tmp_path / place)
    found = find_torchvision(f"torchvision:{name}", download_to=tmp_path)
    assert [(p.sample_id, p.split) for p in found.pairs] == [
        *(("2007_000032", "train"), ("2007_000033", "val"))
    ]
    assert found.class_list is not None
    assert found.class_list.names == voc.CLASSES
    assert found.ignore_values == (255,)
    assert found.sentence.startswith(f"torchvision:{name}: 2 pairs listed in ImageSets/")


@pytest.mark.usefixtures("no_network")
def test_the_masks_of_sbd_are_matlab_files(tmp_path: Path) -> None:
    make_sbd(tmp_path / "sbd")
    found = find_torchvision("torchvision:SBDataset", download_to=tmp_path)
    assert [(p.sample_id, p.split) for p in found.pairs] == [
        *(("2008_000002", "val"), ("2008_000003", "train"))
    ]
    mask = found.pairs[0].mask
    assert isinstance(mask, Path)
    assert read_mask(mask)[0].tolist() == [0, 20, 7, 0, 20, 7]
    assert found.class_list is not None
    assert found.class_list.names[20] == "tvmonitor"
    assert found.class_list.values == tuple(range(21))


def test_the_folders_are_those_that_torchvision_unpacks() -> None:
    for year, (place, _) in torchvision_sets._VOC_YEARS.items():
        assert DATASET_YEAR_DICT[year]["base_dir"] == place
    assert {year for year in DATASET_YEAR_DICT if year.isdigit()} == {*torchvision_sets._VOC_YEARS}


# ---- names --------------------------------------------------------------------------------------


def test_only_the_prefix_makes_a_name() -> None:
    assert is_torchvision("torchvision:OxfordIIITPet")
    assert not is_torchvision("data/torchvision:x")
    assert not is_torchvision("torchvision")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "OxfordIIIPet",
            "unknown torchvision dataset 'OxfordIIIPet': did you mean 'OxfordIIITPet'?",
        ),
        ("", "use one of OxfordIIITPet, SBDataset, VOCSegmentation"),
        ("VOCSegmentation@2020", "unknown year of VOCSegmentation '2020'"),
        ("SBDataset@2012", "only VOCSegmentation has years; leave it out"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        find_torchvision(f"torchvision:{source}", download_to=tmp_path / "new")
    assert message in str(caught.value)
    assert not (tmp_path / "new").exists()


# ---- fetching -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("OxfordIIITPet", ("0.8 GB", "www.robots.ox.ac.uk", "new/oxford-iiit-pet holds images")),
        ("VOCSegmentation", ("2 GB", "thor.robots.ox.ac.uk", "VOCdevkit/VOC2012 holds JPEGImages")),
        ("SBDataset", ("1.4 GB", "berkeley.edu", "new/sbd holds img, cls, train.txt, val.txt")),
    ],
)
def test_without_a_network_one_line_says_what_to_do(
    tmp_path: Path, source: str, said: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        find_torchvision(f"torchvision:{source}", download_to=tmp_path / "new")
    message = str(caught.value)
    assert "there is no network, or no answer" in message
    assert "Connection refused" in message
    assert all(part in message for part in said)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert not (tmp_path / "new").exists()
    assert socket.getdefaulttimeout() is None


def test_what_is_fetched_is_read_and_not_fetched_again(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_pet(server, tmp_path, monkeypatch)
    to = tmp_path / "new"
    found = find_torchvision("torchvision:OxfordIIITPet", download_to=to)
    assert len(found.pairs) == 3
    assert {p.name for p in to.rglob("*") if p.is_dir()} == {
        *("oxford-iiit-pet", "images", "annotations", "trimaps")
    }
    assert not list(to.rglob("*.tar.gz"))
    asked = list(Archives.asked)
    assert "/images.tar.gz" in asked
    assert find_torchvision("torchvision:OxfordIIITPet", download_to=to) == found
    assert Archives.asked == asked


def test_voc_and_sbd_are_put_where_they_are_read(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_voc(tmp_path / "voc")
    make_sbd(tmp_path / "sbd")
    (tmp_path / "sbd" / "inst").mkdir()
    Archives.files["/voc.tar"] = pack(tmp_path / "voc", "w", "VOCdevkit/VOC2007")
    Archives.files["/sbd.tgz"] = pack(tmp_path / "sbd", "w:gz", "benchmark_RELEASE/dataset")
    entry = DATASET_YEAR_DICT["2007"]
    monkeypatch.setitem(entry, "url", f"{server}/voc.tar")
    monkeypatch.setitem(entry, "md5", md5(Archives.files["/voc.tar"]))
    monkeypatch.setattr(SBDataset, "url", f"{server}/sbd.tgz")
    monkeypatch.setattr(SBDataset, "md5", md5(Archives.files["/sbd.tgz"]))
    to = tmp_path / "new"
    for source in ("VOCSegmentation@2007", "SBDataset"):
        assert len(find_torchvision(f"torchvision:{source}", download_to=to).pairs) == 2
    assert sorted(path.name for path in to.iterdir()) == ["VOCdevkit", "sbd"]


def test_a_damaged_archive_leaves_nothing_behind(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_pet(server, tmp_path, monkeypatch)
    whole = dict(Archives.files)
    Archives.files["/annotations.tar.gz"] = b"no archive at all"
    with pytest.raises(UserError, match="what arrives is damaged") as caught:
        find_torchvision("torchvision:OxfordIIITPet", download_to=tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
    Archives.files.update(whole)
    assert len(find_torchvision("torchvision:OxfordIIITPet", download_to=tmp_path / "new").pairs)


def test_a_transfer_that_breaks_off_leaves_nothing_behind(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_pet(server, tmp_path, monkeypatch)
    whole = Archives.files["/images.tar.gz"]
    Archives.files["/images.tar.gz"] = whole[:-50]
    monkeypatch.setattr(Archives, "claimed", len(whole))
    with pytest.raises(UserError, match="cannot be fetched"):
        find_torchvision("torchvision:OxfordIIITPet", download_to=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_archive_that_lies_about_itself_is_refused(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Archives.files["/voc.tar"] = b"with the right checksum"
    monkeypatch.setitem(DATASET_YEAR_DICT["2007"], "url", f"{server}/voc.tar")
    monkeypatch.setitem(DATASET_YEAR_DICT["2007"], "md5", md5(Archives.files["/voc.tar"]))
    with pytest.raises(UserError, match="what arrives is damaged"):
        find_torchvision("torchvision:VOCSegmentation@2007", download_to=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_server_without_the_file_is_named(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", ((f"{server}/gone.tar.gz", "0"),))
    with pytest.raises(UserError, match="the server says 404 Not Found"):
        find_torchvision("torchvision:OxfordIIITPet", download_to=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_that_never_answers_does_not_hang_us(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Archives, "silent", threading.Event())
    monkeypatch.setattr(torchvision_sets, "_TIMEOUT", 0.2)
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", ((f"{server}/images.tar.gz", "0"),))
    start = time.perf_counter()
    with pytest.raises(UserError, match="there is no network, or no answer"):
        find_torchvision("torchvision:OxfordIIITPet", download_to=tmp_path)
    assert time.perf_counter() - start < 5


def test_an_incomplete_copy_is_not_taken_for_whole(tmp_path: Path) -> None:
    root = tmp_path / "oxford-iiit-pet"
    make_pet(root)
    (root / "annotations" / "test.txt").unlink()
    with pytest.raises(UserError, match=r"lacks annotations/test\.txt: complete it, or remove it"):
        find_torchvision("torchvision:OxfordIIITPet", download_to=tmp_path)
    assert (root / "images").is_dir()
