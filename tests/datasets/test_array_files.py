from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from unet_pipeline.datasets import array_files
from unet_pipeline.datasets.images import decode_mask, probe, read_image, read_mask
from unet_pipeline.errors import DatasetError

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, (12, 17), dtype=np.uint8)


# ---- NPZ ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["image", "IMG", "anything"])
def test_the_one_array_of_an_npz_file_is_read(
    tmp_path: Path, save: Callable[..., None], name: str
) -> None:
    save(tmp_path / "x.npz", **{name: RGB.astype(np.uint16) * 9})
    np.testing.assert_array_equal(read_image(tmp_path / "x.npz"), RGB.astype(np.uint16) * 9)
    assert tuple(probe(tmp_path / "x.npz")) == (17, 12, 3)
    save(tmp_path / "m.npz", LABELS)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.npz"), LABELS)


def test_one_file_may_hold_the_image_and_its_mask(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=RGB, label=LABELS, case=np.array(7))
    np.testing.assert_array_equal(read_image(tmp_path / "x.npz"), RGB)
    np.testing.assert_array_equal(read_mask(tmp_path / "x.npz"), LABELS)


def test_arrays_that_leave_the_choice_open_are_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", first=LABELS, second=LABELS)
    with pytest.raises(DatasetError, match=r"x.npz: holds 2 arrays \(first, second\); which is"):
        read_mask(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", mask=LABELS, seg=LABELS)
    with pytest.raises(DatasetError, match=r"\(mask, seg\); which is the mask is open.*several"):
        read_mask(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("notes.txt", "no arrays")
    with pytest.raises(DatasetError, match=r"x.npz: is a ZIP file without NumPy arrays"):
        read_image(tmp_path / "x.npz")


def test_a_claim_beyond_all_memory_is_refused_before_anything_is_decompressed(
    tmp_path: Path,
) -> None:
    file = io.BytesIO()
    head = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(file, head)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", file.getvalue() + bytes(2**20))
    for read in (read_image, read_mask, probe):
        with pytest.raises(DatasetError, match=r"x.npz: claims 8000000000000 bytes"):
            read(tmp_path / "x.npz")


def test_objects_in_an_npz_file_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.array([[{}]], dtype=object))
    with pytest.raises(DatasetError, match=r"x.npz: holds Python objects"):
        read_image(tmp_path / "x.npz")


def test_a_damaged_npz_file_is_one_line(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", RGB)
    whole = (tmp_path / "x.npz").read_bytes()
    middle = len(whole) // 2
    for data in (whole[:middle], whole[:-30], whole[:middle] + b"\0\0\0\0" + whole[middle + 4 :]):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(DatasetError, match=r"x.npz: "):
            read_image(tmp_path / "x.npz")


# ---- MATLAB -------------------------------------------------------------------------------------


def mat(path: Path, *, compressed: bool = True, **variables: object) -> Path:
    savemat(path / "x.mat", variables, do_compression=compressed)
    return path / "x.mat"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "variables",
    [
        {"anything": LABELS},
        {"anything": LABELS.astype(np.float64)},
        {"mask": LABELS, "Boundaries": LABELS > 2},
        {"groundTruth": {"Segmentation": LABELS, "Boundaries": LABELS > 2}},
        {"GTcls": {"Segmentation": LABELS, "CategoriesPresent": np.arange(3), "Name": "x"}},
        {"data": {"deep": {"Label": LABELS, "weight": LABELS * 0.5}}},
    ],
    ids=["alone", "double", "named", "crackforest", "sbd", "deep"],
)
def test_the_mask_is_found_in_a_matlab_file(
    tmp_path: Path, compressed: bool, variables: dict[str, object]
) -> None:
    path = mat(tmp_path, compressed=compressed, **variables)
    np.testing.assert_array_equal(read_mask(path), LABELS)
    assert tuple(probe(mat(tmp_path, picture=RGB))) == (17, 12, 3)


def test_images_and_void_in_matlab_files(tmp_path: Path) -> None:
    path = mat(tmp_path, image=RGB, mask=LABELS.astype(np.int16) - 1)
    np.testing.assert_array_equal(read_image(path), RGB)
    mask = decode_mask(path.read_bytes(), source="m")
    assert mask.void
    np.testing.assert_array_equal(mask.values, (LABELS.astype(int) - 1) % 256)


def test_several_candidates_are_listed(tmp_path: Path) -> None:
    cells = np.empty(2, dtype=object)
    cells[:] = [{"Segmentation": LABELS}, {"Segmentation": LABELS}]
    path = mat(tmp_path, groundTruth=cells)  # five annotators in BSDS500
    with pytest.raises(DatasetError) as caught:
        read_mask(path)
    assert "groundTruth{1}.Segmentation, groundTruth{2}.Segmentation" in str(caught.value)
    with pytest.raises(DatasetError, match=r"2 arrays \(a, b\).*none has a usual name"):
        read_mask(mat(tmp_path, a=LABELS, b=LABELS))
    with pytest.raises(DatasetError, match="holds no array of numbers"):
        read_mask(mat(tmp_path, names="text", number=3))


def test_matlab_files_of_version_7_3_are_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(600, b"\0"))
    with pytest.raises(DatasetError, match=r"x.mat: is a MATLAB file of version 7.3; .*-v7"):
        read_mask(tmp_path / "x.mat")


def test_a_matlab_file_that_claims_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mat(tmp_path, mask=np.zeros((500, 500), np.uint8))
    assert path.stat().st_size < 2000
    monkeypatch.setattr(array_files, "MAX_BYTES", 100_000)
    with pytest.raises(DatasetError, match=r"x.mat: claims 2500\d\d bytes"):
        read_mask(path)


def test_a_damaged_matlab_file_is_one_line(tmp_path: Path) -> None:
    whole = mat(tmp_path, mask=LABELS).read_bytes()
    for length in (len(whole) - 9, 150, 60):
        (tmp_path / "x.mat").write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=r"x.mat: "):
            read_mask(tmp_path / "x.mat")
