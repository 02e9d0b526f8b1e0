"""What a node needs for training, one function for each thing."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import xxhash

from mri_fm.data.shared_memory import SHARED_MEMORY

ROOT = Path(__file__).parents[1]
_OPEN_FILES, _SHM_GB, _FREE_GB, _WRITE_MB, _READ_S = 65536, 8, 50, 256, 3.0
_SLOW_MB_S = 200
_BLOCK = 1 << 22
_VIRTUAL = ("lo", "docker", "veth", "br-", "virbr", "ifb", "cni", "flannel", "cali")
_DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")


@dataclass(frozen=True)
class Finding:
    """One thing: ok, warn (may be meant), fail (training will not work) or skip (cannot be looked at here), and what to do."""

    level: str
    name: str
    detail: str
    advice: str = ""
    count: int = 0  # of GPUs


def examine(corpus: str | None, run_dir: Path | None) -> list[Finding]:
    """Look at everything; a check that itself fails is a finding."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("packages", packages),
        ("gpu", gpus),
        ("shm", shared_memory),
        ("ulimit", limits),
        ("network", network),
        ("run.dir", lambda: file_system(run_dir)),
        ("shards", lambda: shards(corpus)),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:
            findings.append(Finding("fail", name, f"could not be looked at ({type(error).__name__}: {error})"))
    return findings


def packages() -> Iterator[Finding]:
    """Python, and the packages that are pinned exactly."""
    pins = {r.split("==")[0]: r.split("==")[1].split(";")[0].strip() for r in requires("mri-fm") or () if "==" in r}
    yield Finding("ok", "python", platform.python_version())
    for name in ("torch", "deepspeed"):
        found = version(name).split("+")[0]
        if found == pins[name]:
            yield Finding("ok", name, found)
        else:
            yield Finding("fail", name, f"{found} instead of {pins[name]}", "make setup")
    dali = [name for name in _DALI if _installed(name)]
    if len(dali) == 1:
        yield Finding("ok", "dali", f"{dali[0]} {version(dali[0])}")
    else:
        yield Finding(
            "fail", "dali", f"{' and '.join(dali) or 'none'} installed", "make setup (DALI=cu13 or cu12): one of both"
        )


def gpus() -> Iterator[Finding]:
    """Driver, GPUs, NCCL."""
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        for name in ("driver", "gpu", "nccl"):
            yield Finding("skip", name, "no GPU" + _why_no_gpu(torch.version.cuda))
        return
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    yield Finding("ok", "driver", f"{driver[0] if driver else 'unknown'}, torch for CUDA {torch.version.cuda}")
    names = sorted({torch.cuda.get_device_name(index) for index in range(count)})
    yield Finding("ok" if len(names) == 1 else "warn", "gpu", f"{count} × {' and '.join(names)}", count=count)
    if torch.distributed.is_nccl_available():
        yield Finding("ok", "nccl", ".".join(map(str, torch.cuda.nccl.version())))
    else:
        yield Finding("fail", "nccl", "this torch has none", "install torch for CUDA")


def _why_no_gpu(cuda: str | None) -> str:
    if cuda is None:
        return " (this torch is for CPUs)"
    return " (nvidia-smi sees one: is its driver too old?)" if shutil.which("nvidia-smi") else ""


def shared_memory() -> Iterator[Finding]:
    """Room for data.workers."""
    state = os.statvfs(SHARED_MEMORY)
    free = state.f_bavail * state.f_frsize / 1e9
    if free >= _SHM_GB:
        yield Finding("ok", "shm", f"{free:.1f} GB free in {SHARED_MEMORY}")
    else:
        advice = "docker run --shm-size, in Kubernetes an emptyDir of medium Memory; or data.workers=0"
        yield Finding("warn", "shm", f"{free:.1f} GB free in {SHARED_MEMORY}", advice)


def limits() -> Iterator[Finding]:
    """Open files and locked memory."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files == resource.RLIM_INFINITY or files >= _OPEN_FILES
    advice = "" if enough else f"`ulimit -n {_OPEN_FILES}`, or nofile in /etc/security/limits.conf"
    yield Finding(
        "ok" if enough else "warn", "ulimit -n", "unlimited" if files == resource.RLIM_INFINITY else str(files), advice
    )
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked == resource.RLIM_INFINITY:
        yield Finding("ok", "ulimit -l", "unlimited")
    else:
        advice = "InfiniBand needs it unlimited: memlock in /etc/security/limits.conf, or LimitMEMLOCK of the service"
        yield Finding("warn", "ulimit -l", f"{locked >> 10} KiB", advice)


def network() -> Iterator[Finding]:
    """Interfaces that are up, those that ranks are told to use, and what this host's name means."""
    states = {path.parent.name: path.read_text().strip() for path in Path("/sys/class/net").glob("*/operstate")}
    up = {name: _speed(name) for name, state in sorted(states.items()) if state == "up" or name == "lo"}
    real = {name: speed for name, speed in up.items() if not name.startswith(_VIRTUAL)}
    words = ", ".join(f"{name} ({speed} Mb/s)" if speed > 0 else name for name, speed in real.items())
    yield Finding("ok" if real else "warn", "interfaces", words or "none but virtual ones")
    for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        name = os.environ.get(variable, "")
        if name.strip("=^") and not name.startswith("^") and not any(have.startswith(name.strip("=")) for have in up):
            yield Finding("fail", variable, f"{name} is not an interface that is up", f"one of {', '.join(up)}")
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        yield Finding("warn", "host name", f"{host} has no address", "add it to /etc/hosts or DNS")
        return
    if address.startswith("127.") and "GLOO_SOCKET_IFNAME" not in os.environ:
        advice = "ranks of other nodes would be given it: set GLOO_SOCKET_IFNAME in .deepspeed_env"
        yield Finding("warn", "host name", f"{host} is {address}", advice)
    else:
        yield Finding("ok", "host name", f"{host} is {address}")


def _speed(interface: str) -> int:
    """Mb/s; 0 where the driver does not say."""
    try:
        return int(Path("/sys/class/net", interface, "speed").read_text())
    except (OSError, ValueError):
        return 0


def file_system(run_dir: Path | None) -> Iterator[Finding]:
    """Whether a run folder can be written, how fast to the disk, and what is left."""
    if run_dir is None:
        yield Finding("skip", "run.dir", "not given (--run-dir)")
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(run_dir).free / 1e9
    advice = "" if free >= _FREE_GB else "checkpoints need room: `python -m launch.plan` says how much"
    yield Finding("ok" if free >= _FREE_GB else "warn", "free space", f"{free:.0f} GB at {run_dir}", advice)
    probe = run_dir / f".doctor-{socket.gethostname()}-{os.getpid()}"
    block = os.urandom(_BLOCK)
    try:
        start = time.monotonic()
        with probe.open("wb") as file:
            for _ in range(_WRITE_MB * 10**6 // _BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        yield _rate("write", _WRITE_MB, time.monotonic() - start, str(run_dir))
    finally:
        probe.unlink(missing_ok=True)


def shards(address: str | None) -> Iterator[Finding]:
    """How fast one process reads shards of a corpus, past the page cache as far as the system allows."""
    from mri_fm.data.corpus import Corpus

    if address is None:
        yield Finding("skip", "shards", "no corpus given (--corpus)")
        return
    corpus = Corpus.open(address, verify="size")
    yield Finding("ok", "corpus", f"{len(corpus.samples)} volumes at {address}")
    start, size = time.monotonic(), 0
    for path in sorted(Path(address).glob("shards/*.tar")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            while time.monotonic() - start < _READ_S and (block := os.read(descriptor, _BLOCK)):
                size += len(block)
        finally:
            os.close(descriptor)
    if size:
        yield _rate("shards", size / 1e6, time.monotonic() - start, f"{address}, one process")


def _rate(name: str, megabytes: float, seconds: float, where: str) -> Finding:
    rate = megabytes / max(seconds, 1e-6)
    detail = f"{rate:.0f} MB/s at {where}"
    if rate >= _SLOW_MB_S:
        return Finding("ok", name, detail)
    return Finding("warn", name, detail, "slow storage: data.workers, data.cache_dir on a local disk, or another mount")


@lru_cache(maxsize=1)
def code_version() -> str:
    """A hash of the files that ranks run, so that nodes can be compared without git."""
    digest = xxhash.xxh3_64()
    for folder in ("mri_fm", "ds_configs"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml", ".json"):
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    digest.update((ROOT / "train.py").read_bytes())
    return digest.hexdigest()


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
