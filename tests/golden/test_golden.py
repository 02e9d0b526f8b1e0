"""Numbers that no change may move without meaning it."""

import json

import pytest

from tests.golden.run import GOLDEN, compute


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    return compute(tmp_path_factory.mktemp("golden"))


def test_the_same_samples_come_in_the_same_order(golden, now):
    assert now["keys"] == golden["keys"]


def test_the_augmented_voxels_are_the_same(golden, now):
    if now["cpu"] != golden["cpu"]:
        pytest.skip(f"recorded with {golden['cpu']}; float rounding differs with {now['cpu']}")
    assert now["checksums"] == golden["checksums"]


def test_the_losses_are_the_same_to_1e_6(golden, now):
    tolerance = 1e-6 if now["cpu"] == golden["cpu"] else 1e-4
    assert set(now["losses"]) == set(golden["losses"])
    for name, losses in golden["losses"].items():
        assert now["losses"][name] == pytest.approx(losses, abs=tolerance), name
