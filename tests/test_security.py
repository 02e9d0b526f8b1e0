"""What SECURITY.md says, tried: bad tars, paths that lead outside, pickles and code in the place of data."""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xxhash

from mri_fm.config import config_from_yaml, load_config
from mri_fm.data.corpus import Corpus
from mri_fm.data.loader import TrainLoader, evaluation_batches
from mri_fm.engine.initial import read_initial
from mri_fm.engine.publication import CHECKSUM_FILE
from mri_fm.engine.weights import load_objective
from mri_fm.errors import UserError
from mri_fm.model_config import ModelConfig
from mri_fm.volume.read import read_volume
from mri_fm.volume.refusal import Refusal
from tests.export.conftest import configure, write_run

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "joblib.load",
    "yaml.load", "yaml.unsafe_load", "os.system", "os.popen", "shelve.open", "marshal.loads", "extractall", "extract",
}  # fmt: skip


class Trace:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def rewrite_checksum(corpus: Path, name: str) -> None:
    info = json.loads((corpus / "corpus.json").read_text())
    info["checksums"][name] = xxhash.xxh3_64_hexdigest((corpus / name).read_bytes())
    (corpus / "corpus.json").write_text(json.dumps(info))


@pytest.fixture
def hostile(corpus: Path, tmp_path: Path) -> Path:
    """The small corpus, to be spoilt, deep in a folder that is watched."""
    return shutil.copytree(corpus, tmp_path / "deep/er/corpus")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("reader", ["shards", "sequential"])
def test_members_of_a_tar_that_lead_outside_are_never_written(reader: str, hostile: Path, tmp_path: Path) -> None:
    for shard in (hostile / "shards").glob("*.tar"):
        with tarfile.open(shard, "a") as archive:
            for name in ("../../../evil.txt", "/tmp/evil.raw", "evil/../../evil.json"):
                member = tarfile.TarInfo(name)
                member.size = 4
                archive.addfile(member, io.BytesIO(b"evil"))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(link)
        rewrite_checksum(hostile, f"shards/{shard.name}")
    before = files(tmp_path)
    words = [f"data.corpus={hostile}", "run.dir=r", f"data.reader={reader}", "data.size=[16,32,32]"]
    config, opened, cpu = load_config("mae", words).data, Corpus.open(hostile), torch.device("cpu")
    if reader == "shards":
        assert (
            sum(len(batch.keys) for batch in evaluation_batches(opened, opened.samples, config, batch_size=4, device=cpu)) == 8
        )
    else:
        loader = TrainLoader(opened, opened.select("train"), config, seed=0, global_batch=2, accumulation=1, rank=0, world=1,
                             device=cpu)  # fmt: skip
        assert all(len(next(loader).keys) == 2 for _ in range(3))
        loader.close()
    assert files(tmp_path) == before
    assert not Path("/tmp/evil.raw").exists()


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("shard", "../../secret.tar"),
        ("shard", "/etc/passwd"),
        ("shard", "a/b.tar"),
        ("key", "../x"),
        ("key", "A b"),
        ("key", ""),
    ],
)
def test_a_manifest_does_not_lead_outside(column: str, name: str, hostile: Path) -> None:
    table = pq.read_table(hostile / "manifest.parquet")
    names = [name, *table.column(column).to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(names)), hostile / "manifest.parquet")
    rewrite_checksum(hostile, "manifest.parquet")
    with pytest.raises(UserError, match=f"has the {column} '{name}', a name that no build writes"):
        Corpus.open(hostile)


def test_a_header_does_not_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(64**3))
    (tmp_path / "raw").mkdir()
    text = "NRRD0004\ntype: uint8\ndimension: 3\nspace: RAS\nsizes: 64 64 64\nencoding: raw\n"
    text += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\ndata file: {}\n\n"
    for name in ("../secret.raw", str(tmp_path / "secret.raw")):
        (tmp_path / "raw/scan.nhdr").write_text(text.format(name))
        with pytest.raises(Refusal, match="outside its folder"):
            read_volume(tmp_path / "raw/scan.nhdr")


@pytest.fixture
def run(corpus: Path, tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", configure(tmp_path / "run", corpus))


def test_an_altered_checkpoint_is_refused_before_it_is_read(run: Path, tmp_path: Path) -> None:
    (weights,) = run.glob("checkpoints/step-*/rank-00000.safetensors")
    weights.write_bytes(pickle.dumps(Trace(tmp_path / "trace")))
    with pytest.raises(UserError, match=r"is damaged: rank-00000.safetensors was cut or altered"):
        load_objective(run)
    assert not (tmp_path / "trace").exists()


def test_a_pickle_is_not_loaded_even_with_checksums_that_match(run: Path, tmp_path: Path) -> None:
    (weights,) = run.glob("checkpoints/step-*/rank-00000.safetensors")
    for spoil in (lambda: weights.write_bytes(pickle.dumps(Trace(tmp_path / "trace"))), lambda: torch.save([1], weights)):
        spoil()
        sums = json.loads((weights.parent / CHECKSUM_FILE).read_text())
        sums[weights.name] = xxhash.xxh3_128_hexdigest(weights.read_bytes())
        (weights.parent / CHECKSUM_FILE).write_text(json.dumps(sums))
        with pytest.raises(UserError, match="is no safetensors file"):
            load_objective(run)
    assert not (tmp_path / "trace").exists()


def test_a_pickle_is_not_loaded_as_initial_weights(tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": Trace(tmp_path / "trace")}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="pickles are not read"):
        read_initial(tmp_path / "weights.safetensors", ModelConfig(), (8, 16, 16))
    assert not (tmp_path / "trace").exists()


def test_yaml_that_would_run_code_is_refused(run: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"{text}\nextra: !!python/object/apply:pathlib.Path.touch [{trace}]\n")
    with pytest.raises(UserError, match=r"is not a configuration that train.py wrote"):
        config_from_yaml(run / "config.yaml")
    assert not trace.exists()


def test_no_module_unpickles_evaluates_text_or_starts_a_shell() -> None:
    found = []
    for path in [ROOT / "train.py", *(p for top in ("mri_fm", "preprocessing", "launch") for p in (ROOT / top).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                shell = any(k.arg in ("shell", "allow_pickle") and ast.unparse(k.value) == "True" for k in node.keywords)
                if shell or name in FORBIDDEN or name.rpartition(".")[2] in ("extractall", "Unpickler"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not found
