"""Quality measures on volumes whose quality is known, and outliers among many."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from mri_fm.volume.canonical import canonicalise, crop
from mri_fm.volume.read import Volume
from preprocessing.quality import OUTLIER_Z, measure, outliers


def head(noise: float, *, ghost: float = 0.0, cut: int = 0, scale: float = 1.0) -> Volume:
    """A ball of two tissues (600 and 400) in air, Rician noise; `ghost` of it half a field of view further along y."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((64, 96, 64))
    radius = np.sqrt((z - 32) ** 2 + (y - 48) ** 2 + (x - 32) ** 2)
    tissue = np.where(radius < 18, 600.0, np.where(radius < 24, 400.0, 0.0))
    tissue = tissue + ghost * np.roll(tissue, 48, axis=1)
    array = np.hypot(tissue + rng.normal(0, noise, tissue.shape), rng.normal(0, noise, tissue.shape))
    array = array[cut:] if cut >= 0 else array[:cut]
    return Volume(array.transpose(2, 1, 0) * scale, np.diag([3.0, 3, 3, 1]), "float64")


def of(volume: Volume) -> dict:
    canonical = canonicalise(volume)
    return measure(canonical, crop(canonical))


@pytest.mark.parametrize("noise", [10.0, 20.0, 40.0])
def test_snr_and_cnr_are_those_that_were_put_in(noise: float) -> None:
    found = of(head(noise))
    air = noise * 1.2533  # mean of a Rayleigh distribution; the median lies a little below
    assert found["snr"] == pytest.approx((400 - air) / noise, rel=0.15)  # the shell has the median voxel
    assert found["cnr"] == pytest.approx(200 / noise, rel=0.2)
    assert found["foreground_ml"] == pytest.approx(4 / 3 * np.pi * 24**3 * 0.027, rel=0.05)
    assert found["ghosting"] == pytest.approx(0, abs=0.02)
    assert found["cut_at"] == ""


def test_measures_know_no_unit() -> None:
    one, other = of(head(20.0)), of(head(20.0, scale=3.7e-4))
    for name in ("snr", "cnr", "ghosting", "foreground_ml"):
        assert one[name] == pytest.approx(other[name], rel=0.01, abs=1e-3)


def test_ghosts_and_cuts_are_seen() -> None:
    assert of(head(10.0, ghost=0.2))["ghosting"] > 0.1
    assert of(head(10.0, cut=-20))["cut_at"] == "superior"
    assert of(head(10.0, cut=20))["cut_at"] == ""  # the neck's end
    sideways = head(10.0, cut=-20)
    affine = np.array([[0, 0, 3.0, 0], [0, 3.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    assert of(Volume(sideways.array, affine, "float64"))["cut_at"] == "right"


def test_the_box_is_the_foregrounds_in_the_archive(corpus: Path) -> None:

    for row in pq.read_table(corpus / "manifest.parquet").to_pylist():
        whole = zarr.open_array(corpus / "volumes.zarr" / row["key"] / "0", mode="r").shape
        size = [stop - start for start, stop in zip(row["box_start"], row["box_stop"], strict=True)]
        assert all(0 <= a < b <= n for a, b, n in zip(row["box_start"], row["box_stop"], whole, strict=True))
        assert all(n <= m <= n + 12 for n, m in zip(size, row["shape"], strict=True))
        assert row["foreground_percentiles"] == sorted(row["foreground_percentiles"])
        assert row["p01"] <= row["foreground_percentiles"][0] <= row["foreground_percentiles"][-1] <= row["p99"]


def test_a_set_background_and_smooth_voxels_are_no_failure() -> None:
    ball = np.sqrt(((np.indices((40, 40, 40)) - 20) ** 2).sum(axis=0))
    smooth = np.where(ball < 14, 1000.0 - 10 * ball, 0.0)
    found = of(Volume(smooth, np.diag([4.0, 4, 4, 1]), "float64"))
    assert found["snr"] is None or np.isfinite(found["snr"])
    assert found["ghosting"] == pytest.approx(0, abs=1e-6)


def row(key: str, snr: float | None, dataset: str = "a") -> dict:
    others = {"cnr": 5.0, "foreground_ml": 1500.0, "foreground_fraction": 0.4, "ghosting": None}
    return {"key": key, "dataset": dataset, "contrast": "T1", "snr": snr, **others}


def test_outliers_are_those_of_their_own_group() -> None:
    rng = np.random.default_rng(0)
    rows = [row(f"k{i}", float(np.exp(rng.normal(3, 0.1)))) for i in range(30)]
    rows += [row("noisy", 5.0), row("unmeasured", None)]
    rows += [row(f"b{i}", float(np.exp(rng.normal(1.6, 0.1))), "b") for i in range(30)]  # 5 is normal there
    rows += [row("lonely", 1.0, "c")]
    found = outliers(rows)
    assert [key for key, about in found.items() if about["outlier_in"]] == ["noisy"]
    assert found["noisy"]["outlier_in"] == "snr"
    assert found["noisy"]["outlier_z"] > OUTLIER_Z
    assert found["lonely"]["outlier_z"] is found["unmeasured"]["outlier_z"] is None
