"""`data.reader=sequential`: DALI's own `readers.webdataset`, from the first byte of a shard to its last.

For storage where one large read after another is much faster than reads here and there. What it gives up: samples come in the
order of the shards, which changes after each pass, not from one shuffle of everything; a resumed run begins with another
part of the corpus; a shard that is cut stops the run. What stays: each payload is checked and a bad one is replaced by
the next; parameters and masks are those of the position; all ranks take the same number of steps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def
from nvidia.dali import types as dali

from mri_fm.data.codecs import CODECS
from mri_fm.data.corpus import Sample
from mri_fm.data.reader import BadSampleError, decode, fault_of
from mri_fm.data.storage import S3_SCHEME, S3Storage, Storage
from mri_fm.errors import UserError

_REMEMBERED = 1 << 16  # positions whose sample can still be told


class SequentialStream:
    """A rank's part of the shards, over and over: what the sampler and the reader are otherwise.

    Attributes:
        cached: always False.
    """

    cached = False

    def __init__(self, samples: Sequence[Sample], storage: Storage, *, seed: int, rank: int, world: int) -> None:
        """Start reading the shards that hold `samples`; what else they hold is passed over.

        Args:
            samples: the training samples.
            storage: where their shards lie.
            seed: of the order of the shards in each pass.
            rank, world: which part of each pass is ours; parts differ by one sample, which is then repeated.

        Raises:
            UserError: an index file is missing, or DALI cannot read the shards.
        """
        self._index = {sample.key: number for number, sample in enumerate(samples)}
        self._given: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._payload = b""
        shards = sorted({sample.shard for sample in samples})
        for shard in shards:
            _require_index(storage, shard.with_suffix(".idx"))
        prefix = f"{S3_SCHEME}://" if isinstance(storage, S3Storage) else ""
        self._pipeline = _build(
            [f"{prefix}{shard}" for shard in shards],
            ";".join(sorted({CODECS[sample.codec].extension for sample in samples})),
            seed,
            rank,
            world,
        )

    def index(self, position: int) -> int:
        """The sample that comes next, for a position that was not asked for before; else the one it was given."""
        return self.substitute(position, 0)

    def substitute(self, position: int, tries: int) -> int:
        """As `index`, in place of a sample that failed."""
        if (position, tries) not in self._given:
            self._given[position, tries] = self._next()
            if len(self._given) > _REMEMBERED:
                self._given.popitem(last=False)
        return self._given[position, tries]

    def read(self, sample: Sample) -> np.ndarray:
        """The voxels of the sample that came last, int16 (z, y, x).

        Raises:
            BadSampleError: its checksum or size is not the manifest's, or it does not decode.
        """
        if fault := fault_of(self._payload, sample):
            raise BadSampleError(fault)
        return decode(self._payload, sample)

    def close(self) -> None:
        """Stop reading."""
        self._pipeline = None

    def _next(self) -> int:
        while True:
            try:
                payload, origin = self._pipeline.run()
            except RuntimeError as error:
                raise UserError(f"DALI's reader of shards fails ({_reason(error)}): {_ADVICE}") from error
            key = bytes(np.array(origin[0])).decode().rpartition("/")[2].rpartition(":")[2].partition(".")[0]
            if key in self._index:
                self._payload = np.array(payload[0]).tobytes()
                return self._index[key]


_ADVICE = "restore the shards, or take data.reader=shards, which replaces what it cannot read"


def _build(paths: list[str], extensions: str, seed: int, rank: int, world: int) -> Any:
    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=2)
    def graph() -> Any:
        payload = fn.readers.webdataset(
            paths=paths,
            index_paths=[path.removesuffix(".tar") + ".idx" for path in paths],
            ext=[extensions],
            dtypes=[dali.UINT8],
            shard_id=rank,
            num_shards=world,
            pad_last_batch=True,  # so that passes are equally long on all ranks
            missing_component_behavior="error",
            dont_use_mmap=True,  # mapped files are slow over a network
            shuffle_after_epoch=True,
            shuffle_after_epoch_seed=seed,
        )
        return payload, fn.get_property(payload, key="source_info")

    try:
        pipeline = graph()
        pipeline.build()
    except RuntimeError as error:
        raise UserError(f"DALI cannot read the shards ({_reason(error)}): {_ADVICE}") from error
    return pipeline


def _require_index(storage: Storage, index: Any) -> None:
    try:
        storage.size(index)
    except OSError as error:
        raise UserError(
            f"{index} is missing, and data.reader=sequential needs it: restore it, or `wds2idx SHARD.tar SHARD.idx`"
        ) from error


def _reason(error: RuntimeError) -> str:
    """The line of DALI's long message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "rror" in line and not line.endswith(":")]
    return (told or lines)[-1][:200]
