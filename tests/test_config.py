import pytest
from omegaconf import OmegaConf

from mri_fm.config import PRESETS, Config, config_from_yaml, load_config, to_yaml
from mri_fm.errors import UserError
from mri_fm.objectives import OBJECTIVES

GIVEN = ["run.dir=x", "data.corpus=y"]


def refusal(objective: str, words: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        load_config(objective, words)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_a_preset_and_its_own_config(objective):
    config = load_config(objective, GIVEN)
    assert type(config) is Config
    assert type(config.objective) is OBJECTIVES[objective].Config
    assert config.objective.name == objective
    assert config.run.dir == "x"
    assert config.data.corpus == "y"


@pytest.mark.parametrize("group", ["model", "data"])
def test_every_preset_loads_and_is_known_by_its_name(group):
    for path in sorted((PRESETS / group).glob("*.yaml")):
        config = load_config("mae", [*GIVEN, f"{group}={path.stem}"])
        if group == "model":
            assert config.model.name == path.stem


def test_paper_input_size():
    assert load_config("mae", [*GIVEN, "data=paper"]).data.size == [64, 160, 160]


def test_words_win_over_presets_and_the_objective_preset_over_the_base():
    assert load_config("mae", GIVEN).optim.lr == 5e-4
    assert load_config("jepa", GIVEN).optim.lr == 2e-4
    config = load_config("mae", [*GIVEN, "model=vit_small", "optim.lr=3e-4", "model.depth=2", "data.size=[16,16,24]"])
    assert (config.optim.lr, config.model.width, config.model.depth, config.data.size) == (3e-4, 384, 2, [16, 16, 24])


def test_order_of_words_does_not_matter_to_presets():
    assert load_config("mae", ["model.depth=2", "model=vit_small", *GIVEN]).model.depth == 2


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("train.stpes=3", "train.steps"),
        ("sed=1", "seed"),
        ("objective.mask_ration=0.5", "objective.mask_ratio"),
        ("model.heds=2", "model.heads"),
        ("traim.clip=1", "train.clip"),
    ],
)
def test_an_unknown_key_names_the_nearest(word, nearest):
    message = refusal("jepa_vcr", [*GIVEN, word])
    assert f"'{word.split('=')[0]}'" in message
    assert f"did you mean '{nearest}'" in message


def test_a_key_of_another_objective_is_unknown():
    assert "spectral_weight" in refusal("mae", [*GIVEN, "objective.spectral_weight=1"])


@pytest.mark.parametrize(
    "word",
    [
        "train.steps=many",
        "train.steps=1.5",
        "optim.lr=fast",
        "data.size=[a,16,16]",
        "data.augment.orientation=7.5",
        "model.patch=8",
        "train=5",
    ],
)
def test_an_ill_typed_value_is_refused_with_its_word(word):
    assert word in refusal("mae", [*GIVEN, word])


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("data.device=tpu", "auto, cpu, gpu"),
        ("train.precision=fp16", "auto, bf16, fp32"),
        ("wandb.mode=on", "online, offline, disabled"),
        ("data.size=[30,64,64]", "depth 30 does not divide"),
        ("data.size=[32,64]", "must have 3 numbers"),
        ("model.patch=[0,8,8]", "does not divide"),
        ("optim.betas=[0.9]", "must have 2 numbers"),
        ("model.heads=5", "does not divide by its 5 heads"),
        ("train.steps=0", "must be at least 1"),
        ("val.batches=0", "must be at least 1"),
        ("observe.samples=1", "must be at least 2"),
        ("data.workers=-1", "data.workers=-1 must be 0 or more"),
        ("data.skip_budget=-1", "must be 0 or more"),
        ("data.timeout_s=0", "above 0"),
        ("data.cache_gb=0", "above 0"),
        ("data.reader=tape", "not one of shards"),
        ("data.evaluation.plane=native", "data.evaluation.plane=native is not one of spacing, shape"),
        ("data.evaluation.crop=all", "not one of centre, whole"),
        ("data.timeout_s=.inf", "above 0"),
        ("objective.mask_ratio=1.0", "objective.mask_ratio=1.0"),
        ("objective.mask_ratio=-0.1", "objective.mask_ratio=-0.1"),
        ("--steps", "not of the form key=value"),
        ("train.steps=[1", "not valid YAML"),
        ("seed=${nothing}", "'nothing' not found"),
        ("model=vit_bse", "did you mean 'vit_base'"),
    ],
)
def test_a_value_outside_its_choices_is_refused(word, part):
    assert part in refusal("mae", [*GIVEN, word])


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("objective.mode=phase", "log_magnitude, magnitude, complex"),
        ("objective.ramp_end=0.001", "are fractions of the run"),
    ],
)
def test_spectral_options_are_checked(word, part):
    assert part in refusal("mae_spectral", [*GIVEN, word])


def test_a_sequential_reader_refuses_what_needs_samples_by_number():
    words = ["data.reader=sequential", "data.workers=2", "data.temperature=2"]
    assert "data.reader=sequential cannot serve data.workers, data.temperature" in refusal("mae", [*GIVEN, *words])


def test_momentum_is_checked():
    assert "objective.ema_start=1.5" in refusal("jepa", [*GIVEN, "objective.ema_start=1.5"])


def test_an_unknown_objective_names_the_nearest():
    assert "did you mean 'mae_spectral'" in refusal("mae_spectrl", GIVEN)


def test_missing_values_are_named_together():
    message = refusal("mae", [])
    assert "data.corpus=" in message
    assert "run.dir=" in message


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_resolved_config_reads_back_equal(objective, tmp_path):
    config = load_config(objective, [*GIVEN, "train.steps=7", "objective.mask_ratio=0.6"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert config_from_yaml(path) == config
    assert OmegaConf.load(path).objective.mask_ratio == 0.6


def test_a_missing_config_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"config\.yaml"):
        config_from_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize("text", ["", "a: [", "objective: 3"])
def test_a_damaged_run_configuration_is_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is not a configuration"):
        config_from_yaml(tmp_path / "config.yaml")
