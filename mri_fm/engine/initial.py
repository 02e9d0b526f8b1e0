"""A run that starts from the weights of another encoder: `train.init_from=FILE.safetensors`.

Images and videos (timm, Hugging Face, torchvision, MONAI, V-JEPA) become volumes by `mri_fm.models.inflation`; an export of
this project fits as it is. What was taken, changed, left as it was drawn and not used is in the run's initial_weights.json.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mri_fm.config import Config
from mri_fm.engine.agreement import require_agreement
from mri_fm.engine.environment import Environment
from mri_fm.errors import UserError
from mri_fm.model_config import ModelConfig
from mri_fm.models.foreign import BESIDE_PATCHES, EMBEDDING, POSITION, REGISTERS, Translation, translate
from mri_fm.models.inflation import inflate_kernel, resize_positions
from mri_fm.models.patches import Size3
from mri_fm.models.vit import VisionTransformer, as_size3
from mri_fm.objectives import Objective

REPORT_FILE = "initial_weights.json"
AS_IT_IS = "as it is"
_OPTIONS = {  # what a model must have for a tensor to have a place in it
    r"blocks\.\d+\.scale_\w+\.gain_D": "model.layer_scale=1e-5",
    r"blocks\.\d+\.attention\.norm_[qk]\.weight": "model.qk_norm=true",
    r"blocks\.\d+\.mlp\.gate_up\..*": "model.mlp=swiglu",
    r"blocks\.\d+\.mlp\.(up|down)\..*": "model.mlp=gelu and model.moe_experts=0",
    "register_token": "model.registers to their number",
}


@dataclass(frozen=True)
class Taken:
    """A tensor of the encoder that comes from the file: its name, names there, and what was done to them."""

    name: str
    sources: list[str]
    how: str


@dataclass(frozen=True)
class InitialWeights:
    """Weights for an encoder to start from, and the account of them.

    Attributes:
        file, sha256: where they come from; the file's name alone.
        tensors: float32, by the names of `VisionTransformer.state_dict()`.
        taken: how each of these came about.
        drawn: names of the encoder's tensors that stay as they were drawn.
        unused: names of the file's tensors that have no place, and why.
    """

    file: str
    sha256: str
    tensors: Mapping[str, Tensor]
    taken: list[Taken]
    drawn: list[str]
    unused: dict[str, str]

    def summary(self) -> str:
        """One line for people."""
        changed = sum(taken.how != AS_IT_IS for taken in self.taken)
        return (
            f"initial weights from {self.file} (SHA-256 {self.sha256[:12]}…): {len(self.taken)} tensors of the encoder, "
            f"{changed} of them reshaped; {len(self.drawn)} stay as drawn, {len(self.unused)} of the file are not used: "
            f"see {REPORT_FILE}"
        )

    def write_report(self, run_dir: Path) -> None:
        """Write the whole account."""
        content = {
            "file": self.file,
            "sha256": self.sha256,
            "taken": [asdict(taken) for taken in self.taken],
            "drawn": self.drawn,
            "unused": self.unused,
        }
        (run_dir / REPORT_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def load_into(self, objective: Objective) -> None:
        """Give them to the student, and to a teacher what it then follows."""
        objective.student.load_state_dict({**objective.student.state_dict(), **self.tensors})
        with torch.no_grad():
            for teacher, student in objective.ema_pairs():
                teacher.copy_(student)


def find_initial(config: Config, environment: Environment) -> InitialWeights | None:
    """What a new run starts from, the same on all ranks; None: the weights that its seed draws. Called by all ranks.

    Raises:
        UserError: as `read_initial`, or the ranks do not see the same file.
    """
    if config.train.init_from is None:
        return None
    initial = read_initial(Path(config.train.init_from), config.model, as_size3(config.data.size))
    require_agreement(environment, {"train.init_from": initial.sha256})
    if environment.is_main:
        print(initial.summary(), flush=True)
    return initial


def read_initial(path: Path, model: ModelConfig, size: Size3) -> InitialWeights:
    """Fit the encoder of a file to a model.

    Args:
        path: a safetensors file.
        model: of the run.
        size: voxels of its inputs along z, y, x.

    Raises:
        UserError: no safetensors file, no encoder or several in it, or one of another width, depth or make.
    """
    with torch.device("meta"):
        network = VisionTransformer.from_config(model, size)
    given = _read(path)
    try:
        translation = translate(given)
    except ValueError as error:
        raise UserError(f"train.init_from={path}: {error}; save the tensors of one vision transformer alone") from error
    fitter = _Fitter(path, network, given)
    fitter.check(translation)
    for name, sources in translation.sources.items():
        fitter.take(name, sources)
    fitter.unused |= {name: _reason(name) for name in translation.others}
    fitter.finish()
    drawn = [name for name in fitter.wanted if name not in fitter.tensors]
    return InitialWeights(path.name, _sha256(path), fitter.tensors, fitter.taken, drawn, fitter.unused)


class _Fitter:
    """Takes tensor after tensor of a file into an encoder's shapes."""

    def __init__(self, path: Path, network: VisionTransformer, given: Mapping[str, Tensor]) -> None:
        self.path, self.network, self.given = path, network, given
        self.wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        self.tensors: dict[str, Tensor] = {}
        self.taken: list[Taken] = []
        self.unused: dict[str, str] = {}
        self.image = True  # or else a video or a volume

    def check(self, translation: Translation) -> None:
        """Width and depth, whose mismatch would show in every tensor."""
        kernel = self.given[translation.sources[EMBEDDING][0]]
        width, self.image = len(kernel), kernel.ndim == 4
        depth = 1 + max((int(name.split(".")[1]) for name in translation.sources if name.startswith("blocks.")), default=-1)
        asked = (self.network.width, len(self.network.blocks))
        if (width, depth) != asked:
            raise UserError(
                f"train.init_from={self.path} has width {width} and {depth} blocks, the model {asked[0]} and {asked[1]}: set "
                f"model.width={width} model.depth={depth} (and the heads it was trained with, which no tensor tells)"
            )

    def take(self, name: str, sources: list[str]) -> None:
        """One of our tensors."""
        first = self.given[sources[0]]
        if name == POSITION:
            self._take_positions(sources[0])
            return
        if name not in self.wanted:
            raise UserError(f"train.init_from={self.path}: {sources[0]} has no place in this model: {_advice(name)}")
        if name == EMBEDDING and first.ndim > 2:
            kernel = self._inflate(first)
            how = f"kernel {_times(first.shape[1:])} to {_times(kernel.shape[1:])}"
            self._keep(name, sources, kernel.flatten(1), how)
        elif len(sources) > 1:
            self._join(name, sources)
        else:
            self._keep(name, sources, first[0] if name == REGISTERS and first.ndim == 3 else first, AS_IT_IS)

    def finish(self) -> None:
        """Blocks are taken whole, but for biases, which begin at 0: half a block of drawn weights would spoil the rest."""
        missing = [name for name in self.wanted if name.startswith("blocks.") and name not in self.tensors]
        if missing := [name for name in missing if not name.endswith(".bias")]:
            unknown = [name for name in self.unused if re.search(r"\.\d+\.", name)]
            known_not = f", and {unknown[0]} is not known here" if unknown else ""
            raise UserError(
                f"train.init_from={self.path} has nothing for {missing[0]} of this model{known_not}: switch off what asks for "
                "it, or give the encoder under the names of timm, Hugging Face, torchvision or MONAI"
            )

    def _inflate(self, kernel: Tensor) -> Tensor:
        try:
            return inflate_kernel(kernel, self.network.in_channels, self.network.patch)
        except ValueError as error:
            raise UserError(f"train.init_from={self.path}: {error}; give a vision transformer") from error

    def _join(self, name: str, sources: list[str]) -> None:
        """Query, key and value that the file has apart."""
        parts = [self.given[source] for source in sources]
        if len(parts) == 2:  # BEiT, VideoMAE: keys have no bias
            parts.insert(1, torch.zeros_like(parts[0]))
        self._keep(name, sources, torch.cat(parts), "q, k, v joined")

    def _take_positions(self, source: str) -> None:
        """A learned table, if the model has one too and the file's lies on a grid that can be told."""
        if POSITION not in self.wanted:
            self.unused[source] = "the model's positions are not learned (model.position=learned has room for them)"
            return
        table_ND = self.given[source].flatten(0, -2)
        grid = self._grid(len(table_ND))
        if grid is None:
            self.unused[source] = f"which grid its {len(table_ND)} positions lie on cannot be told"
            return
        wanted = self.network.grid
        how = AS_IT_IS if grid == wanted else f"grid {_times(grid)} to {_times(wanted)}, interpolated"
        self._keep(POSITION, [source], resize_positions(table_ND[-math.prod(grid) :], grid, wanted), how)

    def _grid(self, count: int) -> Size3 | None:
        """The grid of so many positions, of which the first may be those of class and register tokens.

        An image's is a square. Another one is taken for the model's own or for a cube. A video's is neither as a rule, but then
        it is a fixed function as well (V-JEPA, VideoMAE), of which the table that the model begins with is the like.
        """
        others = sum(len(t.flatten(0, -2)) for name, t in self.given.items() if name.split(".")[-1] in BESIDE_PATCHES)
        own = self.network.grid
        for number in (count - others, count):
            if not self.image and number == math.prod(own):
                return own
            side = round(max(number, 0) ** (1 / 2 if self.image else 1 / 3))
            if side ** (2 if self.image else 3) == number:
                return (1 if self.image else side), side, side
        return None

    def _keep(self, name: str, sources: list[str], tensor: Tensor, how: str) -> None:
        if tuple(tensor.shape) != self.wanted[name]:
            raise UserError(
                f"train.init_from={self.path}: {sources[0]} makes {name} {_times(tensor.shape)}, and the model has "
                f"{_times(self.wanted[name])}: set model.mlp_ratio, model.registers or model.patch as in the file"
            )
        if not tensor.isfinite().all():
            raise UserError(f"train.init_from={self.path}: {sources[0]} is not finite: give a sound encoder")
        self.tensors[name] = tensor.float().contiguous()
        self.taken.append(Taken(name, sources, how))


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"train.init_from={path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise UserError(
            f"train.init_from={path} is no safetensors file ({error}); pickles are not read: save its tensors with "
            "safetensors.torch.save_file first, on a machine where you trust it"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _advice(name: str) -> str:
    option = next((option for pattern, option in _OPTIONS.items() if re.fullmatch(pattern, name)), None)
    return f"set {option}" if option else "give an encoder without it"


def _reason(name: str) -> str:
    if name.split(".")[-1] in BESIDE_PATCHES:
        return "the model has no class token"
    return "no part of the encoder"


def _times(values: Sequence[int]) -> str:
    return "×".join(map(str, values))
