"""The viewer of the page holds what the encoder did, along the anatomical axes, and a browser draws it.

Axes: C channels or contrasts, Z/Y/X voxels, M cells, S units, F features.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mri_fm.errors import UserError
from mri_fm.evaluate import viewer, viewer_page
from mri_fm.evaluate.__main__ import main
from mri_fm.evaluate.attention_maps import Cells
from mri_fm.evaluate.features import Features, gather
from mri_fm.evaluate.spec import TaskSpec
from mri_fm.evaluate.task import resolve_task
from mri_fm.evaluate.viewer import CellMap, Probed
from mri_fm.models.vit import VisionTransformer
from tests.browser import dump_dom

FEW = ["--folds", "3", "--refits", "1", "--permutations", "0", "--probes", "linear"]
GRID = (2, 4, 4)
CENTRE = {(z * 4 + y) * 4 + x for z in (0, 1) for y in (1, 2) for x in (1, 2)}  # where the lesion of the corpus is


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, jepa_run: Path, labelled_corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("viewer")
    words = ["--run", jepa_run, "--corpus", labelled_corpus, "--label", "atrophy", "--out", out, "--unit", "rendering"]
    main([*map(str, words), *FEW])
    return out / "report.html"


def data_of(page: Path) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)[1])  # type: ignore[index]


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))), dtype=np.float64)


def map_of(unit: dict[str, Any], **wanted: Any) -> np.ndarray:
    """A map as the page restores it."""
    place = next(i for i, one in enumerate(unit["maps"]) if wanted.items() <= one.items())
    cells, one = int(np.prod(unit["grid"])), unit["maps"][place]
    level_MM = pixels(unit["rows"])[place * cells : (place + 1) * cells]
    low_M1, high_M1 = (np.array(one[end])[:, None] for end in ("low", "high"))
    value_MM = low_M1 + level_MM / 255 * (high_M1 - low_M1)
    np.fill_diagonal(value_MM, one["own"])
    return value_MM


def test_units_are_the_best_and_the_worst_judged_with_the_scores_of_the_table(page: Path) -> None:
    units = data_of(page)["units"]
    assert [unit["right"] for unit in units] == [True, True, False, False]
    for unit in units:
        said = float(unit["said"].split()[1].strip("()"))
        assert 1 / (1 + np.exp(-unit["score"])) == pytest.approx(said, abs=0.006)  # the very probe that tested it
        assert unit["said"].split()[0] == unit["truth"] or not unit["right"]


def test_attention_sums_to_1_and_similarity_is_1_with_itself(page: Path) -> None:
    for unit in data_of(page)["units"]:
        assert tuple(unit["grid"]) == GRID
        attention = [map_of(unit, kind="attention", layer=1, head=head) for head in range(3)]
        for value_MM in (*attention, map_of(unit, kind="rollout")):
            np.testing.assert_allclose(value_MM.sum(axis=1), 1, atol=1e-3)
        np.testing.assert_allclose(attention[0], (attention[1] + attention[2]) / 2, atol=1e-3)
        similar_MM = map_of(unit, kind="similarity")
        np.testing.assert_allclose(similar_MM.diagonal(), 1, atol=1e-5)
        np.testing.assert_allclose(similar_MM, similar_MM.T, atol=0.01)


def test_a_row_keeps_its_levels_for_other_cells() -> None:
    value_MM = np.array([[0.9, 0.01, 0.02], [0.3, 0.3, 0.4], [-1.0, 0.0, 1.0]], dtype=np.float32)
    rows = viewer_page._Rows.of(value_MM)
    assert (rows.low, rows.high, rows.own) == ([0.01, 0.3, -1.0], [0.02, 0.4, 0.0], [0.9, 0.3, 1.0])
    assert rows.level_MM.tolist() == [[255, 0, 255], [0, 0, 255], [0, 255, 255]]
    alone = viewer_page._Rows.of(np.ones((1, 1), dtype=np.float32))
    assert (alone.low, alone.high, alone.own) == ([1.0], [1.0], [1.0])


def test_occlusion_finds_the_planted_lesion(page: Path) -> None:
    ill = [unit for unit in data_of(page)["units"] if unit["truth"] == unit["said"].split()[0] == "1"]
    assert ill
    for unit in ill:
        for one in unit["occlusions"][:2]:
            assert int(np.argmax(one["drop"])) in CENTRE


def test_the_picture_is_the_volume(page: Path) -> None:
    unit = data_of(page)["units"][0]
    assert unit["shape"] == [16, 32, 32]
    level_ZYX = pixels(unit["volume"]).reshape(unit["shape"])
    assert level_ZYX[:, 0, 0].max() == 0 < level_ZYX[8, 16, 4:8].min()  # outside the head, and inside
    assert unit["extent"] == [36.0, 36.0, 36.0]


@pytest.mark.parametrize("depth_axis", [0, 1, 2])
def test_cells_and_voxels_turn_alike(depth_axis: int) -> None:
    size, grid, nothing = (8, 12, 16), (2, 3, 4), torch.zeros(0)
    seen = viewer._Input(nothing, nothing, nothing, (4, 4, 4), grid, depth_axis)
    cell_ZYX = torch.arange(24).view(grid).repeat_interleave(4, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)
    turned_ZYX = cell_ZYX.movedim(0, depth_axis)
    assert tuple(turned_ZYX.shape) == seen.turned(size)
    assert turned_ZYX[::4, ::4, ::4].flatten().tolist() == seen.turned_cells(grid).tolist()


def test_other_features_of_one_volume_change_its_unit_by_its_share() -> None:
    """Subject a has two T1 and one T2; the second T1's features move the mean of the T1s by half."""
    columns = {"subject": list("aaab"), "contrast": ["T1", "T1", "T2", "T1"], "y": [1.0, 1.0, 1.0, 2.0], "session": ["1"] * 4}
    manifest = pa.table({"key": list("wxyz"), "dataset": ["D"] * 4, "split": ["train"] * 4, **columns})
    task = resolve_task("t", TaskSpec(label="y", kind="survival", event="y", unit="subject"), _with_events(manifest))
    value_VF = torch.tensor([[1.0], [3.0], [10.0], [5.0]])
    features = gather(value_VF, task.unit_V, task.slot_V, 2, 2)

    def score(unit: int, test: Features) -> np.ndarray:
        return np.asarray(test.value_SC)[:, :, 0] @ np.array([[1.0], [100.0]])

    ask = viewer._asker(1, Probed(task, features, "pooled", score))
    assert ask(torch.tensor([[3.0], [7.0]])).tolist() == [1002.0, 1004.0]


def _with_events(manifest: pa.Table) -> pa.Table:
    return manifest.set_column(manifest.column_names.index("y"), "y", pa.array([1.0, 1.0, 1.0, 1.0]))


def test_what_does_not_fit_is_left_out_heads_of_earlier_layers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    network = VisionTransformer((8, 8, 8), (4, 4, 4), 12, 3, 2).eval()
    seen = viewer._Input(torch.randn(1, 8, 8, 8), torch.ones(1), torch.ones(3), (4, 4, 4), (2, 2, 2), 0)

    def kept(maps: int) -> list[tuple[str, int, int]]:
        monkeypatch.setattr(viewer, "MOST_MAP_BYTES", maps * 64)
        found: tuple[CellMap, ...] = viewer._cell_maps(seen, Cells.of_grid((2, 2, 2), (4, 4, 4)), network)
        return [(one.kind, one.layer, one.head) for one in found]

    first = [("similarity", 0, 0), ("rollout", 0, 0), ("attention", 3, 0)]
    assert kept(1) == first
    assert kept(7) == [*first, *(("attention", layer, head) for layer, head in ((3, 1), (3, 2), (2, 0), (1, 0)))]
    assert len(kept(99)) == 2 + 3 * 3


def test_more_units_than_a_page_should_hold_are_refused() -> None:
    with pytest.raises(UserError, match="--view 7: at most 6"):
        main("--run r --corpus c --label l --out o --view 7".split())


@pytest.fixture
def shown(page: Path, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """What the first viewer reads after a script has used it, `v` being the viewer."""

    def run(script: str) -> dict[str, Any]:
        report = "document.documentElement.dataset.seen = JSON.stringify({text: v.root.innerText, state: v.state})"
        code = f"<script>viewers[0].ready.then(async () => {{ const v = viewers[0]; {script}; {report} }})</script>"
        copy = tmp_path / "page.html"
        copy.write_text(page.read_text().replace("</body>", f"{code}</body>"))
        dom = dump_dom(copy, tmp_path / "profile", "--virtual-time-budget=5000", until="data-seen=")
        head = dom[: dom.index(">", dom.index("<html"))]
        assert "data-error" not in head
        return json.loads(re.search(r'data-seen="([^"]*)"', head)[1].replace("&quot;", '"'))  # type: ignore[index]

    return run


def test_a_browser_shows_attention_similarity_and_occlusion(shown: Callable[[str], dict[str, Any]], page: Path) -> None:
    unit = data_of(page)["units"][1]
    seen = shown(
        """v.buttons[1].click(); await new Promise((done) => setTimeout(done, 300));
        v.canvases[0].slider.value = 0; v.canvases[0].slider.oninput();
        const box = v.canvases[0].canvas.getBoundingClientRect();
        v.canvases[0].canvas.dispatchEvent(new PointerEvent("pointermove",
            { buttons: 1, clientX: box.left + 1, clientY: box.bottom - 1 }));
        v.head.list.value = "2"; v.head.list.onchange();"""
    )
    assert seen["state"] | {"unit": 1, "cell": [0, 0, 0], "layer": 1, "head": 2} == seen["state"]
    own = 100 * map_of(unit, kind="attention", layer=1, head=2)[0, 0]
    found = re.search(r"Token z 1/2, y 1/4, x 1/4: ([\d.]+) % on itself", seen["text"])
    assert found
    assert float(found[1]) == pytest.approx(own, rel=0.01)
    assert "layer 1, head 2" in seen["text"]
    seen = shown('v.layer.list.value = "0"; v.layer.list.onchange()')
    assert "attention through all layers" in seen["text"]
    seen = shown("v.shows.similarity.click(); v.opacity.slider.value = 20; v.opacity.slider.oninput()")
    assert "cosine with the chosen token" in seen["text"]
    assert seen["state"]["opacity"] == pytest.approx(0.2)
    seen = shown("v.shows.occlusion.click(); v.size.slider.value = 1; v.size.slider.oninput(); v.set({cell: [1, 2, 1]})")
    drop = data_of(page)["units"][0]["occlusions"][1]["drop"][(1 * 4 + 2) * 4 + 1]
    found = re.search(
        r"([\d.-]+) with this covered, ([\d.-]+) of the whole volume \(log odds of the class said\)", seen["text"]
    )
    assert found
    assert float(found[2]) - float(found[1]) == pytest.approx(drop, abs=0.02)
