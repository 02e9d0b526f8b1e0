"""Pretrain a 3D brain-MRI encoder.

    deepspeed --num_nodes 8 train.py --objective jepa_vcr data.corpus=CORPUS run.dir=RUN [key=value …]

The same command again resumes. Exit codes: 0 `train.steps` reached, 75 stopped on request, or by storage or a rank that did not
answer, and resumable, 2 the user's mistake.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mri_fm.engine.environment import exit_on_error, read_environment, start_process_group
from mri_fm.errors import ResumableError, UserError


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; `--local_rank` comes from the DeepSpeed launcher, which also sets LOCAL_RANK."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", required=True, help="mae, mae_spectral, jepa, jepa_vcr, jepa_sigreg, hybrid")
    parser.add_argument("--ds_config", type=Path, help="how to shard, communicate and offload (default: ds_configs/zero1.json)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="overrides; {recipe,model,data,optim}=NAME choose presets, for instance recipe=paper (arXiv 2606.13315) and "
        "recipe=fast (without most of the air): docs/recipes.md",
    )
    return parser.parse_intermixed_args(arguments)


def train(options: argparse.Namespace) -> int:
    """Compose the configuration, fork the loader's workers before all else, join the ranks, run."""
    from mri_fm.config import load_config
    from mri_fm.engine.feeding import forked_workers
    from mri_fm.engine.loop import run_training
    from mri_fm.engine.peers import Peers
    from mri_fm.engine.relay import Relay
    from mri_fm.engine.setup import DEFAULT_DS_CONFIG, complete_ds_config, read_ds_config

    config = load_config(options.objective, options.words)
    environment = read_environment()
    with forked_workers(config, environment) as loader, Relay(Path(config.run.dir), environment.rank):
        sharding = read_ds_config(options.ds_config or DEFAULT_DS_CONFIG)
        complete_ds_config(sharding, config, environment)
        start_process_group(environment)
        with Peers(environment, config.data.timeout_s):
            return run_training(config, sharding, environment, loader)


def main() -> int:
    """Run; a user's mistake is one line and exit code 2, storage that does not answer one line and 75."""
    try:
        return train(parse(sys.argv[1:]))
    except (UserError, ResumableError) as error:  # before the ranks have met; then `Peers` says it
        return exit_on_error(error)


if __name__ == "__main__":
    sys.exit(main())
