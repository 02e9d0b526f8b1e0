"""The training loop: one for all objectives."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mri_fm.config import Config, to_yaml
from mri_fm.data.corpus import Corpus
from mri_fm.data.curriculum import Curriculum
from mri_fm.data.loader import Batch, TrainLoader
from mri_fm.data.schema import MANIFEST_FILE
from mri_fm.data.skips import SkipCount
from mri_fm.data.stream import describe_stream
from mri_fm.data.survey import foreground_tokens
from mri_fm.engine.agreement import require_agreement, settings
from mri_fm.engine.checkpoint import Checkpointer
from mri_fm.engine.control import Control
from mri_fm.engine.ema import EMA
from mri_fm.engine.environment import Environment, on_rank_0
from mri_fm.engine.feeding import build_loader
from mri_fm.engine.identity import identity, other_micro_steps
from mri_fm.engine.initial import InitialWeights, find_initial
from mri_fm.engine.monitor import Monitor, finite, is_due
from mri_fm.engine.nonfinite import NonfiniteGuard
from mri_fm.engine.schedules import optimizer_schedules
from mri_fm.engine.sequence_parallel import build_groups, data_place
from mri_fm.engine.setup import build_engine, resolve_precision
from mri_fm.engine.stored import read_meta
from mri_fm.engine.verification import open_corpus
from mri_fm.errors import EXIT_RESUMABLE, UserError
from mri_fm.models.patches import patch_grid
from mri_fm.models.sequence import sharing_tokens
from mri_fm.models.vit import as_size3
from mri_fm.objectives import Objective
from mri_fm.observe.profile import StepProfiler
from mri_fm.observe.recorder import Record, Recorder
from mri_fm.observe.throughput import Meter
from mri_fm.token_budget import count_kept, lost_share, needed_share

EXIT_DONE, EXIT_STOPPED = 0, EXIT_RESUMABLE


def run_training(config: Config, sharding: dict[str, Any], environment: Environment, loader: TrainLoader | None = None) -> int:
    """Train to `train.steps`, from the newest checkpoint where there is one; called by all ranks.

    Args:
        config: the run.
        sharding: the DeepSpeed configuration.
        environment: this process' place among the ranks.
        loader: one whose workers were forked before CUDA was used; by default one is built.

    Returns:
        The exit code: 0 when all steps are done (also when they were before), 75 when stopped on request.

    Raises:
        UserError: whatever can be found wrong with corpus, checkpoint or settings, before the first step.
    """
    require_agreement(environment, settings(config, sharding))
    corpus = open_corpus(config.data, environment)
    content = corpus.info["checksums"].get(MANIFEST_FILE, corpus.info["spec_hash"])
    require_agreement(environment, {"corpus": content})
    _, world = data_place(environment, config.train.sequence_parallel)
    for line in describe_stream(corpus.select("train", config.data.contrasts), config, world):
        if environment.is_main:
            print(line, flush=True)
    settle_token_budget(config, corpus, environment)
    names = identity(config, content, resolve_precision(config.train.precision, environment.device))
    checkpointer = Checkpointer(Path(config.run.dir), config.checkpoint, environment, names)
    checkpoint = checkpointer.find()
    if checkpoint is not None and read_meta(checkpoint)["step"] >= config.train.steps:
        if environment.is_main:
            print(f"{config.run.dir} has reached its {config.train.steps} steps; nothing to do", flush=True)
        return EXIT_DONE
    change = None if checkpoint is None else other_micro_steps(read_meta(checkpoint)["identity"], config)
    if change is not None and environment.is_main:
        print(f"warning: {change}", flush=True)
    initial = find_initial(config, environment) if checkpoint is None else None
    return Trainer(config, sharding, environment, corpus, checkpointer, initial).run(checkpoint, loader)


def settle_token_budget(config: Config, corpus: Corpus, environment: Environment) -> None:
    """Fill in a token budget that was left to the corpus, and say what a budget costs; nothing happens without one."""
    if config.objective.token_budget == 1.0:
        return

    def settle() -> float:
        patch = as_size3(config.model.patch)
        foreground_S = foreground_tokens(corpus, corpus.select("train", config.data.contrasts), config.data, patch)
        tokens = math.prod(patch_grid(as_size3(config.data.size), patch))
        share = config.objective.token_budget or needed_share(foreground_S, tokens)
        lost = lost_share(foreground_S, count_kept(tokens, share))
        print(f"token budget: {share:.1%} of {tokens} tokens; {lost:.2%} of the foreground is dropped on each pass", flush=True)
        return float(share)

    config.objective.token_budget = on_rank_0(environment, settle)


class Trainer:
    """One run: engine, teacher, clocks, records."""

    def __init__(
        self,
        config: Config,
        sharding: dict[str, Any],
        environment: Environment,
        corpus: Corpus,
        checkpointer: Checkpointer,
        initial: InitialWeights | None = None,
    ) -> None:
        """Build the engine over `config.objective`, with drawn weights or with the `initial` ones."""
        self.config, self.environment, self.corpus, self.checkpointer = config, environment, corpus, checkpointer
        self.run_dir, self.initial = Path(config.run.dir), initial
        self.engine = build_engine(config, sharding, environment, initial)
        self.objective: Objective = self.engine.module
        self.groups = build_groups(environment, config.train.sequence_parallel)
        self.objective.batch_group = self.groups.batch
        self.ema = EMA(self.objective.ema_pairs())
        self.curriculum = Curriculum.of(config.data, config.train.steps)
        train = config.train
        self.schedules = optimizer_schedules(config.optim, train.steps, train.global_batch)
        self.schedules |= self.objective.schedules(train.steps)
        self.monitor = Monitor(self.engine, self.ema, config, corpus, environment, self.groups.sequence)
        self.guard = NonfiniteGuard(self.engine, config.train.nonfinite_budget, environment)
        window = config.profile.window() if environment.is_main else range(0)
        self.profiler = StepProfiler(window, self.run_dir, environment.device)
        skipped = SkipCount(config.data.skip_budget, corpus.root, quiet=not environment.is_main)
        self.control = Control(skipped, sequence=train.sequence_parallel)

    def run(self, checkpoint: Path | None, loader: TrainLoader | None = None) -> int:
        """Train from `checkpoint` (None: from the start); returns the exit code."""
        start = 0 if checkpoint is None else self._resume(checkpoint)
        opened: list[Recorder] = []  # on rank 0 alone
        on_rank_0(self.environment, lambda: opened.append(self._open_records(start)))
        self.checkpointer.require_space(self.engine, self.ema)
        batches = loader or build_loader(self.config, self.corpus, self.environment)
        batches.seek(start)
        with closing(batches), closing(self.checkpointer), opened[0] if opened else nullcontext() as recorder:
            code = self._train(start, batches, recorder)
            self.checkpointer.finish()
            return code

    def _resume(self, checkpoint: Path) -> int:
        """Take up state and counts; returns the number of steps completed."""
        start = self.checkpointer.load(self.engine, self.ema, checkpoint)
        meta = read_meta(checkpoint)
        self.control.skipped.total = int(meta.get("skips", 0))
        self.guard.total = int(meta.get("nonfinite_steps", 0))
        if self.environment.is_main:
            print(f"resuming after step {start} from {checkpoint}", flush=True)
        return start

    def _open_records(self, start: int) -> Recorder:
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            (self.run_dir / "config.yaml").write_text(to_yaml(self.config))
            if self.initial is not None:
                self.initial.write_report(self.run_dir)
            return Recorder(self.config, self.run_dir, start)
        except OSError as error:
            raise UserError(f"run.dir={self.run_dir} cannot be written ({error}); give a folder of yours") from error

    def _train(self, start: int, batches: TrainLoader, recorder: Recorder | None) -> int:
        config, train = self.config, self.config.train
        meter = Meter(train.global_batch * config.data.rows, self.environment.world, self.environment.device)
        bar = tqdm(
            total=train.steps, initial=start, desc=config.objective.name, unit="step", disable=None if recorder else True
        )
        try:
            for step in range(start, train.steps):
                self.monitor.expect(step + 1)
                with self.profiler.step(step + 1):
                    parts = self._step(step, batches, meter)
                stopping = self.control.agree()
                self.checkpointer.check()
                self._record(step + 1, parts, meter, recorder)
                bar.update()
                self._save(step + 1, meter, stopping)
                if stopping and step + 1 < train.steps:
                    return EXIT_STOPPED
        finally:
            bar.close()
        return EXIT_DONE

    def _step(self, step: int, batches: Iterator[Batch], meter: Meter) -> dict[str, Tensor]:
        """One optimizer step; returns this rank's mean loss and its parts, still on the device."""
        now = {name: float(values[step]) for name, values in self.schedules.items()}
        for group in self.engine.optimizer.param_groups:
            group["lr"] = now["lr"] * group["lr_scale"]
            group["weight_decay"] = now["weight_decay"] if group["decay"] else 0.0
        totals: dict[str, Tensor] = {}
        for _ in range(self.config.train.accumulation):
            waited = time.perf_counter()
            batch = next(batches)
            meter.add_wait(time.perf_counter() - waited)
            self.control.note(batch.skips)
            with sharing_tokens(self.groups.sequence):
                loss, parts = self.engine(batch, now)
            self.guard.note(loss, batch.keys)
            self.engine.backward(loss)
            self.guard.step()
            if self.config.data.cache_dir:
                parts["cache_hits"] = loss.new_full((), batch.cached / len(batch.keys), dtype=torch.float32)
            for name, value in {"loss": loss.detach(), **parts}.items():
                totals[name] = totals.get(name, 0) + value.float() / self.config.train.accumulation
        skipped = self.guard.finish(step + 1)
        if "ema" in now:
            self.ema.update(now["ema"], skipped)
        return totals | self.objective.after_step(skipped)

    def _save(self, done: int, meter: Meter, stopping: bool) -> None:
        """Write a checkpoint where one is due."""
        if not (stopping or done % self.config.checkpoint.every == 0 or done == self.config.train.steps):
            return
        self.guard.settle()
        with meter.paused():
            counts = {"skips": self.control.skipped.total, "nonfinite_steps": self.guard.total}
            self.checkpointer.save(self.engine, self.ema, done, done * self.config.train.global_batch, counts)

    def _record(self, done: int, parts: dict[str, Tensor], meter: Meter, recorder: Recorder | None) -> None:
        """Fetch the metrics of this step, all at once and only where it is logged."""
        size = self.curriculum.size(done - 1)
        meter.add_step(self.objective.flops_per_sample(size), self.objective.count_tokens(size)[0])
        watched = self.monitor.due(done)
        if not (watched or is_due(done, self.config.log_every, self.config.train.steps)):
            return
        self.guard.settle()
        record: Record = {"step": done, "samples": done * self.config.train.global_batch, **self._fetch(parts)}
        record |= {
            "lr": float(self.schedules["lr"][done - 1]),
            "grad_norm": finite(float(self.guard.norm())),
            "skips": self.control.skipped.total,
            "nonfinite_steps": self.guard.total,
            **meter.report(),
            **self.profiler.report(),
        }
        arrays = None
        if watched:
            with meter.paused():
                arrays = self.monitor.picture(done)
                record |= self.monitor.watch(done, self.schedules, self.guard.norm(), float(record["step_time"] or 0.0))
        if recorder is not None:
            recorder.write(record)
            if arrays is not None:
                recorder.draw(done, arrays)
            tqdm.write(_line(record))

    def _fetch(self, parts: dict[str, Tensor]) -> dict[str, float | None]:
        """Means over ranks, None where one is not finite: JSON has no such number."""
        names = sorted(parts)
        values = torch.stack([parts[name].double() for name in names])
        torch.distributed.all_reduce(values)
        means = (values / self.environment.world).tolist()
        return {name: finite(mean) for name, mean in zip(names, means, strict=True)}


def _line(record: Record) -> str:
    """One human line per logged step; the file has all of it."""
    loss = "not finite" if record["loss"] is None else f"{record['loss']:.4f}"
    return f"step {record['step']}  loss {loss}  lr {record['lr']:.2e}  {record['volumes_per_s']:.1f} volumes/s"
