"""Real processes draw; none of their failures reaches the caller."""

import logging
import time

import numpy as np

from mri_fm.observe.draw import WAITING, Drawer

TRUTH = np.random.default_rng(0).normal(size=(8, 12, 10)).astype(np.float32)
ARRAYS = {"truth": TRUTH, "mosaic": TRUTH, "hidden": TRUTH > 0}


def test_a_picture_is_drawn_in_another_process_and_reported(tmp_path):
    drawer = Drawer(tmp_path / "pictures")
    drawer.draw(7, ARRAYS)
    drawer.close()
    (file,) = drawer.drawn()
    assert file == tmp_path / "pictures" / "reconstruction-00000007.png"
    assert file.read_bytes().startswith(b"\x89PNG")
    assert drawer.drawn() == []


def test_a_failing_picture_is_named_and_the_next_one_drawn(tmp_path, caplog):
    drawer = Drawer(tmp_path)
    drawer.draw(1, {"truth": TRUTH, "mosaic": TRUTH[:4], "hidden": TRUTH > 0})
    drawer.draw(2, ARRAYS)
    drawer.close()
    assert [file.name for file in drawer.drawn()] == ["reconstruction-00000002.png"]
    assert [record.getMessage()[:27] for record in caplog.records] == ["no picture of step 1: Index"]


def test_the_caller_never_waits_for_a_picture(tmp_path, caplog, monkeypatch):
    """A process that does not end stands in the place of the drawing one."""
    monkeypatch.setattr(Drawer, "_words", lambda self, step: ["sleep", "600"])
    drawer = Drawer(tmp_path)
    drawer.draw(0, ARRAYS)
    while drawer._process is None:  # the first one is being drawn
        time.sleep(0.01)
    with caplog.at_level(logging.WARNING):
        for step in range(1, WAITING + 3):
            drawer.draw(step, ARRAYS)
    assert [record.args[0] for record in caplog.records] == [WAITING + 1, WAITING + 2]
    drawer.close(patience=0.2)
    assert drawer._process.wait(300) != 0
    assert drawer.drawn() == []


def test_nothing_is_started_where_nothing_is_drawn(tmp_path):
    drawer = Drawer(tmp_path / "pictures")
    drawer.close()
    assert not (tmp_path / "pictures").exists()
