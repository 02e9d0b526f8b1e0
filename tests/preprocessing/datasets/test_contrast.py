"""Contrast by keywords: whole words where a word is meant, and the same whatever stands between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.datasets.contrast import contrast_of

SEPARATORS = st.sampled_from(["_", "-", " ", ".", "__"])
NEUTRAL = st.sampled_from(
    ["sag", "3D", "ax", "brain", "run", "01", "t10", "start", "agreed", "aerospace", "first", "I20", "MSV21"]
)


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("sub-01_T1w", "T1"), ("IXI159-Guys-0810-T1", "T1"), ("BraTS-GLI-02597-100-t1n", "T1"), ("x-t1c", "T1"),
        ("brain_t10", ""),
        ("BraTS-GLI-02597-100-t2w", "T2"), ("case-t2f", "T2"), ("OAS31092_d0203_T2w", "T2"), ("sag_3D_SPACE", "T2"),
        ("sub-01_T2starw", "T2STAR"), ("Axial T2* GRE", "T2STAR"), ("t2_star", "T2STAR"), ("t2_flair_sag", "FLAIR"),
        ("ADNI_MPRAGE_S123", "T1"), ("MP-RAGE", "T1"), ("IR-FSPGR", "T1"),
        ("storage", ""), ("heart_start", ""), ("agreed", ""), ("aerospace", ""),
        ("Accelerated_Sag_IR-FSPGR__MSV21_", "T1"), ("Axial_T2_Star", "T2STAR"), ("Axial_3D_ME_T2_GRE", "T2STAR"),
    ],
)  # fmt: skip
def test_contrast_keywords(name: str, contrast: str) -> None:
    assert contrast_of(name, {}) == contrast


@given(
    st.lists(NEUTRAL, max_size=4),
    st.sampled_from(["t1", "T1w", "mprage", "ir", "FSPGR"]),
    st.lists(NEUTRAL, max_size=4),
    SEPARATORS,
)
def test_a_keyword_counts_wherever_it_stands(before: list[str], word: str, after: list[str], separator: str) -> None:
    assert contrast_of(separator.join([*before, word, *after]), {}) == "T1"
    assert contrast_of(separator.join([*before, word, "flair", *after]), {}) == "FLAIR"


@given(st.lists(NEUTRAL, max_size=6), SEPARATORS)
def test_words_that_only_hold_a_keyword_do_not_count(words: list[str], separator: str) -> None:
    assert contrast_of(separator.join(words), {}) == ""
    assert contrast_of(separator.join(words), {"ProtocolName": "t2_tse"}) == "T2"


@given(st.text())
def test_any_text_has_one_contrast_or_none(text: str) -> None:
    assert contrast_of(text, {}) in ("", "T1", "T2", "FLAIR", "T2STAR")
