"""How often each part of a real training step makes the host wait for the GPU.

    python -m tests.gpu.step_syncs --objective jepa_vcr data.corpus=CORPUS run.dir=unused [--ds_config FILE] [key=value …]

prints one JSON object: waits per step in the loader, forward, backward, the optimizer step (DeepSpeed's), the guard against
what is not finite and the EMA, as `torch.cuda.set_sync_debug_mode("warn")` counts them. Where there is no GPU there is nothing
to wait for, and all are 0.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from mri_fm.config import Config, load_config
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import Environment, read_environment, start_process_group
from mri_fm.engine.feeding import build_loader
from mri_fm.engine.loop import open_corpus, settle_token_budget
from mri_fm.engine.nonfinite import NonfiniteGuard
from mri_fm.engine.setup import DEFAULT_DS_CONFIG, build_engine, read_ds_config
from train import parse

PARTS = ("loader", "forward", "backward", "step", "guard", "ema")
WARM, STEPS = 3, 4


def measure(config: Config, ds_config: Path, environment: Environment) -> dict[str, float]:
    """Waits per step of each part."""
    corpus = open_corpus(config.data, environment)
    settle_token_budget(config, corpus, environment)
    engine = build_engine(config, read_ds_config(ds_config), environment)
    ema = EMA(engine.module.ema_pairs())
    guard = NonfiniteGuard(engine, config.train.nonfinite_budget, environment)
    schedules = engine.module.schedules(WARM + STEPS)
    waits: Counter[str] = Counter()

    @contextmanager
    def counted(part: str) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        waits[part] += sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)

    with closing(build_loader(config, corpus, environment)) as loader:
        for step in range(WARM + STEPS):
            if step == WARM:
                waits.clear()
                if environment.device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("warn")
            with counted("loader"):
                batch = next(loader)
            with counted("forward"):
                loss, _ = engine(batch, {name: float(values[step]) for name, values in schedules.items()})
            guard.note(loss, batch.keys)
            with counted("backward"):
                engine.backward(loss)
            with counted("step"):
                guard.step()
            with counted("guard"):
                skipped = guard.finish(step + 1)
            with counted("ema"):
                ema.update(0.99, skipped)
                engine.module.after_step(skipped)
    return {part: waits[part] / STEPS for part in PARTS}


def main() -> int:
    """The command line is train.py's."""
    options = parse(sys.argv[1:])
    environment = read_environment()
    start_process_group(environment)
    config = load_config(options.objective, options.words)
    print(json.dumps(measure(config, options.ds_config or DEFAULT_DS_CONFIG, environment)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
