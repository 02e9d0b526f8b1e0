"""A trained encoder that takes scans: `mri_fm.load_encoder(DIR).embed("scan.nii.gz")`.

Needs neither DeepSpeed nor DALI.

Axes: B batch, S scans, C channels, N tokens, D width, K values of a token, Z/Y/X depth, height, width of the input.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mri_fm.errors import UserError
from mri_fm.export.adapters.dictionaries import scan_of
from mri_fm.export.folder import Exported, read_folder, read_weights
from mri_fm.export.maps import scan_map, token_grid_map
from mri_fm.export.plausible import unusual_extent
from mri_fm.export.spec import InputScan, InputSpec
from mri_fm.models.vit import VisionTransformer
from mri_fm.volume.dicom import is_dicom
from mri_fm.volume.prepare import Prepared, prepare_files, prepare_volume
from mri_fm.volume.read import Volume
from mri_fm.volume.refusal import Refusal

ScanSource = str | os.PathLike[str] | Volume | Mapping[str, Any]


class Encoder(nn.Module):
    """A frozen encoder and the preparation of its input; `.to(device)` moves it, and what it returns is on the CPU.

    Attributes:
        network: the vision transformer, without drop path.
        exported: model, input and origin, as the export states them.
    """

    def __init__(self, network: VisionTransformer, exported: Exported) -> None:
        super().__init__()
        self.network, self.exported = network, exported

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        return self.network.width

    def forward(self, x_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) of inputs that are prepared already, see `prepare`."""
        return self.network(x_BCZYX, spacing_B3=spacing_B3)

    def prepare(self, scan: ScanSource) -> InputScan:
        """Read, orient, quantise and crop a scan exactly as the corpus build does; a head of unusual extent is warned of.

        Args:
            scan: an image file in any format that the build reads, the folder of a DICOM series, a volume in memory, or a
                dictionary of MONAI or TorchIO with one image (`mri_fm.export.adapters.dictionaries`).

        Raises:
            UserError: the scan is refused by the rules of the build, and why.
        """
        spec = self.exported.spec
        scan = scan_of(scan) if isinstance(scan, Mapping) else scan
        name = "the given volume" if isinstance(scan, Volume) else os.fspath(scan)
        try:
            prepared = _prepared(scan, spec)
        except Refusal as refusal:
            raise UserError(f"{name} is refused: {refusal}") from refusal
        if unusual := unusual_extent(prepared):
            warnings.warn(f"{name}: {unusual}", stacklevel=2)
        return InputScan(prepared, spec)

    def embed(self, scans: ScanSource | Sequence[ScanSource], *, batch_size: int = 4) -> Tensor:
        """One vector for each scan, the mean over its tokens.

        Args:
            scans: one scan or several.
            batch_size: scans in one pass of the network.

        Returns:
            float32 on the CPU, (D,) for one scan, (S, D) for several.

        Raises:
            UserError: a scan is refused, or its embedding is not finite.
        """
        several = isinstance(scans, Sequence) and not isinstance(scans, str)
        listed: Sequence[Any] = scans if isinstance(scans, Sequence) and several else [scans]
        pooled = [tokens_BND.mean(dim=1) for tokens_BND in self._batches(listed, batch_size)]
        embedded_SD = torch.cat(pooled) if pooled else torch.empty(0, self.width)
        return embedded_SD if several else embedded_SD[0]

    def tokens(self, scan: ScanSource) -> Tensor:
        """The tokens of one scan, float32 (N, D) on the CPU, in raster order of depth, height, width; errors as `embed`."""
        return next(self._batches([scan], 1))[0]

    def encode(self, inputs: Sequence[InputScan]) -> Tensor:
        """The tokens of prepared scans, float32 (B, N, D) on the CPU.

        Raises:
            UserError: they are not finite.
        """
        device = next(self.parameters()).device
        x_BCZYX = torch.stack([one.tensor() for one in inputs])[:, None].to(device)
        spacing_B3 = torch.stack([one.spacing() for one in inputs]).to(device)
        with torch.inference_mode():
            tokens_BND = self.network(x_BCZYX, spacing_B3=spacing_B3).float().cpu()
        if not tokens_BND.isfinite().all():
            raise UserError("the embedding is not finite: the run that was exported has diverged; export another one")
        return tokens_BND

    def token_map(
        self, scan: ScanSource, values_NK: Tensor | NDArray[Any] | None = None, *, on_scan: bool = False
    ) -> nibabel.Nifti1Image:
        """Values of tokens as an image in the scan's own space, which any viewer lays over the scan.

        Args:
            scan: as in `embed`.
            values_NK: (N, K) numbers, K for each token; by default the tokens themselves.
            on_scan: one voxel for each of the scan's, with its shape and affine, 0 where no token looks; otherwise one voxel
                for each token.

        Returns:
            float32 (X, Y, Z, K), RAS+ millimetres.
        """
        prepared = self.prepare(scan)
        values = self.encode([prepared])[0] if values_NK is None else torch.as_tensor(values_NK)
        if values.shape[:1] != (self.network.num_tokens,) or values.ndim != 2:
            raise UserError(
                f"values of shape {tuple(values.shape)}: ({self.network.num_tokens}, K) are needed, a row per token"
            )
        draw = scan_map if on_scan else token_grid_map
        return draw(prepared, values.numpy(force=True).astype(np.float32), self.network.grid)

    def _batches(self, scans: Sequence[ScanSource], batch_size: int) -> Iterator[Tensor]:
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: at least one scan is embedded at once")
        for first in range(0, len(scans), batch_size):
            yield self.encode([self.prepare(scan) for scan in scans[first : first + batch_size]])


def load_encoder(folder: str | os.PathLike[str]) -> Encoder:
    """Open what `python -m mri_fm.export` wrote.

    Args:
        folder: the export.

    Returns:
        An `Encoder` on the CPU, in evaluation mode.

    Raises:
        UserError: not an export, or one that was cut, altered, or written by another version.
    """
    exported = read_folder(Path(folder))
    weights = read_weights(Path(folder), exported)
    plain = dataclasses.replace(exported, model=dataclasses.replace(exported.model, drop_path=0.0))
    network = plain.build()
    network.load_state_dict(weights)
    return Encoder(network, exported).eval()


def _prepared(scan: str | os.PathLike[str] | Volume, spec: InputSpec) -> Prepared:
    if isinstance(scan, Volume):
        return prepare_volume(scan, max_spacing=spec.max_spacing, processing=spec.processing)
    path = Path(scan)
    files = _series_files(path) if path.is_dir() else [path]
    return prepare_files(files, series=path.is_dir(), max_spacing=spec.max_spacing, processing=spec.processing)


def _series_files(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]
    if not files:
        raise Refusal("not_readable", "a folder without DICOM files")
    return files
