from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_fm.config import DataConfig, config_from_yaml, load_config, to_yaml
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.mixture import LONGEST_PERIOD, quotas, resolve_mixture
from mri_fm.errors import UserError

counts = st.lists(st.integers(1, 10**7), min_size=1, max_size=20)


@pytest.fixture
def samples(ellipsoids: Path) -> list[Sample]:
    """Data set a has 4 T1, b 2 T1 and 6 T2."""
    one = Corpus.open(ellipsoids, "size").samples[0]
    kinds = [("a", "T1")] * 4 + [("b", "T1")] * 2 + [("b", "T2")] * 6
    return [replace(one, key=f"k{n}", dataset=dataset, contrast=contrast) for n, (dataset, contrast) in enumerate(kinds)]


def shares(samples: list[Sample], **options) -> dict[str, Fraction]:
    pools = resolve_mixture(samples, DataConfig(corpus="C", **options)).pools
    return {pool.name: Fraction(pool.quota, sum(p.quota for p in pools)) for pool in pools}


def test_weights_are_shares_and_what_is_not_named_is_left_out(samples: list[Sample]) -> None:
    assert shares(samples, mixture={"a": 0.9, "b": 0.1}) == {"a": Fraction(9, 10), "b": Fraction(1, 10)}
    assert shares(samples, mixture={"a": 3, "b": 1}) == {"a": Fraction(3, 4), "b": Fraction(1, 4)}
    by_both = {"mixture_by": ["dataset", "contrast"]}
    assert shares(samples, mixture={"a/T1": 1, "b/T2": 2}, **by_both) == {"a/T1": Fraction(1, 3), "b/T2": Fraction(2, 3)}
    mixture = resolve_mixture(samples, DataConfig(corpus="C", mixture={"a/T1": 1, "b/T2": 2}, **by_both))
    assert mixture.left_out == {"b/T1": 2}
    assert [pool.members.tolist() for pool in mixture.pools] == [[0, 1, 2, 3], [6, 7, 8, 9, 10, 11]]
    assert mixture.describe() == (
        "mixture: a/T1 33.3% (4 units, once in 12 positions), b/T2 66.7% (6 units, once in 9 positions); "
        "left out: b/T1 (2 units)"
    )


def test_the_temperature_flattens_numbers_and_weights(samples: list[Sample]) -> None:
    assert shares(samples, temperature=float("inf")) == {"a": Fraction(1, 2), "b": Fraction(1, 2)}
    assert shares(samples, temperature=2.0, mixture={"a": 1, "b": 16}) == {"a": Fraction(1, 5), "b": Fraction(4, 5)}
    flat = shares(samples, temperature=3.0, mixture_by=["contrast"])
    assert float(flat["T1"]) == pytest.approx(0.5)
    warm = shares(samples, temperature=3.0)
    assert float(warm["b"] / warm["a"]) == pytest.approx(2 ** (1 / 3), rel=1e-4)


@given(counts, st.one_of(st.just(1.0), st.floats(1e-5, 100)))
def test_quotas_are_the_shares_within_a_part_of_the_longest_period(numbers: list[int], temperature: float) -> None:
    found = quotas(numbers, temperature)
    period = sum(found)
    assert min(found) >= 1
    assert period <= LONGEST_PERIOD
    exact = (np.array(numbers) / max(numbers)) ** (1 / temperature)
    assert np.abs(np.array(found) / period - exact / exact.sum()).max() <= (1 + len(found)) / LONGEST_PERIOD


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_weights_that_fit_a_period_are_exact(numbers: list[int]) -> None:
    found = quotas([number / 10 for number in numbers])
    assert [Fraction(q, sum(found)) for q in found] == [Fraction(n, sum(numbers)) for n in numbers]


def test_an_unknown_name_names_the_nearest(samples: list[Sample]) -> None:
    named = [replace(sample, dataset="oasis" if sample.dataset == "a" else "adni") for sample in samples]
    with pytest.raises(
        UserError, match=r"data.mixture names oasys, but by dataset .* of C are adni, oasis, did you mean 'oasis'"
    ):
        resolve_mixture(named, DataConfig(corpus="C", mixture={"oasys": 1.0, "adni": 1.0}))
    with pytest.raises(UserError, match=r"by contrast .* are T1, T2, did you mean 'T2'"):
        resolve_mixture(named, DataConfig(corpus="C", mixture={"T22": 1.0}, mixture_by=["contrast"]))


WORDS = ["data.corpus=C", "run.dir=R"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.mixture={a: 0}"], r"data\.mixture\.a=0\.0 must be above 0"),
        (["data.mixture.a=-1"], r"data\.mixture\.a=-1\.0 must be above 0"),
        (["data.mixture.a=.nan"], r"data\.mixture\.a=nan must be above 0"),
        (["data.mixture.a=.inf"], r"data\.mixture\.a=inf must be above 0"),
        (["data.mixture.a=much"], "much"),
        (["data.mixtur.a=1"], "did you mean 'data.mixture'"),
        (["data.mixture_by=[site]"], r"data\.mixture_by=\['site'\] is not one of"),
        (["data.temperature=0"], r"data\.temperature=0\.0 must be above 0"),
        (["data.temperature=.nan"], r"data\.temperature=nan must be above 0"),
    ],
)
def test_mixtures_without_sense_are_user_errors(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config("mae", [*WORDS, *words])
    assert "\n" not in str(error.value)


def test_a_mixture_survives_config_yaml(tmp_path: Path) -> None:
    config = load_config("mae", [*WORDS, "data.mixture.oasis=0.3", "data.mixture={adni: 2}", "data.temperature=.inf"])
    assert config.data.mixture == {"oasis": 0.3, "adni": 2.0}
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert config_from_yaml(tmp_path / "config.yaml") == config
