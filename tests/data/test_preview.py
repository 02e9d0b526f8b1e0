import re
from pathlib import Path

import pytest

from mri_fm.config import ArtefactConfig, AugmentConfig
from mri_fm.data.artefacts import draw_artefacts
from mri_fm.data.corpus import Corpus
from mri_fm.data.preview import describe_artefacts, main, switched_on_alone
from mri_fm.errors import UserError

KINDS = "orientation flip scale rotation gamma bias blur noise motion ghosting spike anisotropy".split()


def test_the_page_shows_every_kind_alone_and_all_together(
    ellipsoids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data.size=[8,16,16]", "data.augment.rotation=10", "data.views=2"]
    main(["--corpus", str(ellipsoids), "--out", str(tmp_path / "new"), "--samples", "1", *words])
    out, err = capsys.readouterr()
    page = Path(out.strip()).read_text()
    assert re.findall(r"<h3>([a-z]+)", page) == KINDS
    off = re.findall(r"<h3>([a-z]+) \(off in this configuration\)", page)
    assert off == ["motion", "ghosting", "spike", "anisotropy"]
    assert page.count('src="data:image/png;base64,') == page.count("<img") == len(KINDS) + 3 * 2
    assert page.count("view 1 of 2") == page.count("view 2 of 2") == 3
    assert "http" not in page
    assert "<script" not in page
    assert "preview: " in err  # the progress bar
    for words in (r"rotation [+-]\d\.\d°", r"gamma \d\.\d", "flipped left to right", r"ghosting along", r"blur \d\.\d+ mm"):
        assert re.search(words, page)


def test_a_volume_that_cannot_be_read_is_named_with_its_replacement(own_ellipsoids: Path, tmp_path: Path) -> None:
    bad, good = Corpus.open(own_ellipsoids).select("train")[:2]
    with Path(bad.shard).open("r+b") as file:
        file.seek(bad.offset + 50)
        file.write(b"\xff" * 9)
    words = ["data.size=[8,16,16]"]
    main(["--corpus", str(own_ellipsoids), "--out", str(tmp_path), "--samples", "2", *words])
    page = (tmp_path / "preview.html").read_text()
    assert "Cannot be read: 1 of these volumes" in page
    (cells,) = re.findall(r"<tr>(<td>.*?)</tr>", page)
    key, shard, reason, replacement = re.findall(r"<td>(.*?)</td>", cells)
    assert (key, shard, replacement) == (bad.key, bad.shard.name, good.key)
    assert "checksum differs" in reason
    rows = re.findall(r'alt="(\w+), \w+".*?<p>(.*?)</p>', page)
    assert {key for key, _ in rows} == {good.key}  # what is shown is what was served
    replaced = [f"in place of {bad.key} in {bad.shard.name} (" in described for _, described in rows]
    assert sum(replaced) == len(KINDS) + 3  # as often as the sampler drew it
    assert len(rows) == 2 * (len(KINDS) + 3)


def test_each_kind_alone_changes_nothing_else() -> None:
    given = AugmentConfig(scale=0.2, flip=0, artefacts=ArtefactConfig(ghosting=0.1, ghosting_strength=0.3))
    kinds = {name: (on, augment) for name, on, augment in switched_on_alone(given)}
    assert list(kinds) == KINDS
    assert [name for name, (on, _) in kinds.items() if not on] == ["flip", "rotation", "motion", "spike", "anisotropy"]
    for name, (_, augment) in kinds.items():
        parts = {
            key: getattr(augment, key) for key in ("orientation", "flip", "scale", "rotation", "gamma", "bias", "blur", "noise")
        }
        parts |= {key: getattr(augment.artefacts, key) for key in ("motion", "ghosting", "spike", "anisotropy")}
        assert [key for key, value in parts.items() if value] == [name]
    assert kinds["scale"][1].scale == 0.2
    assert kinds["ghosting"][1].artefacts.ghosting_strength == 0.3
    assert kinds["blur"][1].blur_probability == 1


def test_artefacts_are_put_into_words() -> None:
    always = ArtefactConfig(motion=1, ghosting=1, spike=1, anisotropy=1)
    words = list(describe_artefacts(draw_artefacts(always, seed=0, position=0)))
    assert [line.split()[0] for line in words] == ["motion", "ghosting", "spike", "resolution"]


def test_what_cannot_be_shown_is_a_user_error(ellipsoids: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--samples 0 must be at least 1"):
        main(["--corpus", str(ellipsoids), "--samples", "0"])
    with pytest.raises(UserError, match=r"did you mean 'data\.augment\.rotation'"):
        main(["--corpus", str(ellipsoids), "data.augment.rotate=3"])
    with pytest.raises(UserError, match="missing"):
        main(["--corpus", str(tmp_path)])
