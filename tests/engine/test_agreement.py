"""Ranks that were started differently, on two real ranks."""

import shutil
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  imported before the fork, once for all ranks
import pytest

from mri_fm.config import Config, load_config
from mri_fm.engine import agreement
from mri_fm.engine.environment import Environment, read_environment, start_process_group
from mri_fm.engine.loop import run_training
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, read_ds_config
from mri_fm.errors import UserError
from tests.distributed import run_ranks
from tests.engine.test_training import rewrite_manifest


def config_of(corpus: Path, run_dir: Path, *words: str) -> Config:
    return load_config("mae", [f"data.corpus={corpus}", f"run.dir={run_dir}", "wandb.mode=disabled", *words])


def be_refused(rank: int, corpus: Path, run_dir: Path) -> list[str]:
    """What this rank is told where rank 1 alone has another configuration, sharding, code or corpus."""
    environment = read_environment()
    start_process_group(environment)
    sharding = read_ds_config(DEFAULT_DS_CONFIG)
    told = [refusal(config_of(corpus, run_dir, f"optim.lr={0.1 + rank}"), sharding, environment)]
    stage = {"zero_optimization": {"stage": 1 + rank}}
    told.append(refusal(config_of(corpus, run_dir), stage, environment))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "code_version", lambda: f"version {rank}")
        told.append(refusal(config_of(corpus, run_dir), sharding, environment))
    if rank == 1:  # the node's own copy, at the same path in earnest
        patched = Path(shutil.copytree(corpus, run_dir / "copy"))
        rewrite_manifest(patched)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "to_yaml", lambda _: "")  # the path is all that differs in it
        told.append(
            refusal(config_of(run_dir / "copy" if rank else corpus, run_dir, "data.verify=size"), sharding, environment)
        )
    return told


def refusal(config: Config, sharding: dict[str, Any], environment: Environment) -> str:
    with pytest.raises(UserError) as caught:
        run_training(config, sharding, environment)
    return str(caught.value)


def test_ranks_that_see_different_things_stop_before_the_first_step(corpus, tmp_path):
    first, second = run_ranks(be_refused, 2, corpus, tmp_path / "run")
    assert first == second
    begin = "rank 1 and rank 0 do not have the same"
    assert first[0] == f"{begin} configuration: 'lr: 1.1' instead of 'lr: 0.1'; start all with the same command"
    assert first[1].startswith(f"{begin} --ds_config: '\"stage\": 2' instead of '\"stage\": 1'")
    assert first[2].startswith(f"{begin} code: 'version 1' instead of 'version 0'")
    assert first[3].startswith(f"{begin} corpus: ")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_code_is_known_by_its_content(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    monkeypatch.setattr(agreement.mri_fm, "__file__", str(package / "__init__.py"))
    before = agreement.code_version()
    assert agreement.code_version() == before
    (package / "__init__.py").write_text("a = 2\n")
    assert agreement.code_version() != before
