"""The gallery: who is pictured, in what order, and the filters in a real browser."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from preprocessing.build import build
from preprocessing.gallery import choose_for_gallery, choose_refused, middle_slices
from preprocessing.report import draw_report
from tests.browser import dump_dom
from tests.corpora import resampled


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "raw").mkdir()
    image = resampled((6, 6, 6))
    array = np.asarray(image.dataobj)
    for name, content in {
        "a_T1": array,
        "b_T2": array[::-1],
        "secret_mask": (array > 50).astype(np.uint8),
        "secret_run": np.stack([array, array + 1], -1),
        "secret_slab": array[:6],
    }.items():
        nibabel.save(nibabel.Nifti1Image(content, image.affine), folder / f"raw/{name}.nii.gz")
    (folder / "raw/secret.bin").write_bytes(b"x")
    build(folder / "raw", folder / "corpus", report=draw_report)
    return folder / "corpus/report.html"


def test_refused_volumes_are_pictured_by_their_row_and_reason(page: Path) -> None:
    text = page.read_text()
    figures = re.findall(r'<figure data-what="(\w+)".*?data-code="(\w*)"', text)
    assert sorted(figures) == [("accepted", "")] * 2 + [("refused", c) for c in ("field_of_view", "label", "not_3d")]
    assert "2 of 2 accepted volumes, 3 of 4 refused inputs" in text
    assert "ledger row 5" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        ("", 5),
        ('document.querySelector("[name=what]").value = "refused"', 3),
        ('document.querySelector("[name=contrast]").value = "T2"', 1),
        ('document.querySelector("[name=code]").value = "label"', 1),
        ('document.querySelector(".filters input").value = "Ledger Row"', 3),
    ],
)
def test_filters_hide_figures_in_a_browser_without_a_network(page: Path, tmp_path: Path, action: str, shown: int) -> None:
    act = f'<script>{action}; document.querySelector(".filters").dispatchEvent(new Event("input"))</script></body>'
    (tmp_path / "page.html").write_text(page.read_text().replace("</body>", act))
    dom = dump_dom(tmp_path / "page.html", tmp_path / "profile", "--host-resolver-rules=MAP * ~NOTFOUND")
    assert f"<output>{shown} shown</output>" in dom
    figures = re.findall(r"<figure[^>]*>", dom)
    assert len(figures) == 5
    assert sum("hidden" not in figure for figure in figures) == shown


def row(key: str, z: float | None = None) -> dict:
    return {"key": key, "kind": "individual", "base": key, "contrast": "T1", "outlier_z": z, "outlier_in": "snr" if z else ""}


def test_outliers_come_first_and_never_take_more_than_half() -> None:
    rows = [row("a"), row("b", 5.0), row("c", 9.0), row("d"), row("e", 4.0), row("f")]
    assert [r["key"] for r in choose_for_gallery(rows, 4)] == ["c", "b", "a", "d"]
    assert [r["key"] for r in choose_for_gallery(rows, 9)][:3] == ["c", "b", "e"]


def test_every_code_is_pictured_but_none_that_may_show_a_name() -> None:
    codes = {"a": "label", "b": "label", "c": "label", "d": "spacing", "e": "not_mr", "f": "", "g": "not_readable"}
    assert choose_refused(codes, 3) == ["a", "d", "b"]
    assert choose_refused(codes, 99) == ["a", "d", "b", "c"]


def test_a_damaged_header_makes_no_giant_picture() -> None:
    picture = middle_slices(np.random.default_rng(0).random((5, 5, 5)), (1e6, 1.0, 1e-9))
    assert max(picture.shape) < 700
    assert middle_slices(np.full((5, 5, 5), np.nan), (2.0, 2.0, 2.0)).max() == 0
