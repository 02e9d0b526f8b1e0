"""The loaders that ours is measured against, each written with its library's own means and the same augmentation.

Every one is given what ours has from the build for nothing: the box of the brain and, except from raw files, the percentiles.
Axes: X, Y, Z voxels of a RAS+ volume; Z, Y, X the same from the other end; D, H, W depth, height, width of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import scipy.ndimage
import torch
import webdataset
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from loaders.scans import Scan
from loaders.settings import BIAS, BIAS_POINTS, BLUR, BLUR_PROBABILITY, FLIP, LOG_GAMMA, ORIENTATION_LIMIT, Settings

PERCENTILES = (1, 99)
LEFT_RIGHT_ZYX = 2


def random_plane(volume: Tensor, flip_axis: int) -> tuple[Tensor, int]:
    """Random depth axis first, a square at a random place of the other two; also where `flip_axis` of the three went."""
    volume_DHW, (top, left, side), flip_axis = random_square(volume, flip_axis)
    return volume_DHW[:, top : top + side, left : left + side], flip_axis


def random_square(volume: Tensor, flip_axis: int) -> tuple[Tensor, tuple[int, int, int], int]:
    """As `random_plane`, but with the square's top, left and side in place of the crop."""
    shape = volume.shape
    isotropic = max(shape) / min(shape) < ORIENTATION_LIMIT
    depth = int(torch.randint(3, ())) if isotropic else int(np.argmin(shape))
    volume_DHW = volume.movedim(depth, 0)
    order = [depth, *(axis for axis in range(3) if axis != depth)]
    side = min(volume_DHW.shape[1:])
    top, left = (int(torch.randint(length - side + 1, ())) for length in volume_DHW.shape[1:])
    return volume_DHW, (top, left, side), order.index(flip_axis)


def uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def batches(dataset: Any, settings: Settings, **how: Any) -> Iterator[Tensor]:
    """Forked workers, as is the DataLoader's habit on Linux."""
    return iter(DataLoader(dataset, settings.batch, num_workers=settings.workers, multiprocessing_context="fork", **how))


# webdataset + DataLoader + torch


def webdataset_torch(settings: Settings) -> Iterator[Tensor]:
    """The same shards, read in sequence."""
    windows = {scan.key: scan.window for scan in settings.scans}
    shards = sorted(map(str, (settings.corpus / "shards").glob("*.tar")))

    def prepare(sample: dict[str, Any]) -> Tensor:
        shape_ZYX = np.frombuffer(sample["shape"], "<i4")
        voxels_ZYX = np.frombuffer(bytearray(sample["raw"]), "<i2").reshape(shape_ZYX)
        return augment_torch(torch.from_numpy(voxels_ZYX), windows[sample["__key__"]], settings)

    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).repeat().map(prepare)
    return batches(dataset, settings)


def augment_torch(voxels_ZYX: Tensor, window: tuple[float, float], settings: Settings) -> Tensor:
    """Ours in torch's own operators, in place where they can be; float32 (1, D, H, W)."""
    factor = uniform(1 - settings.scale, 1 + settings.scale)
    if settings.rotation:
        whole_DHW, square, flip_axis = random_square(voxels_ZYX, LEFT_RIGHT_ZYX)
        volume_DHW = warp(whole_DHW, square, settings.size, factor, uniform(-settings.rotation, settings.rotation))
    else:
        crop_DHW, flip_axis = random_plane(voxels_ZYX, LEFT_RIGHT_ZYX)
        volume_DHW = resize(crop_DHW, settings.size, (factor, factor, factor))
    if uniform(0, 1) < FLIP:
        volume_DHW = volume_DHW.flip(flip_axis)
    foreground_DHW = volume_DHW > 0.5
    x_DHW = volume_DHW.sub_(window[0]).div_(max(window[1] - window[0], 1.0)).clamp_(0, 1)
    x_DHW.pow_(math.exp(uniform(-LOG_GAMMA, LOG_GAMMA)))
    points = BIAS * torch.randn(1, 1, *[BIAS_POINTS] * 3)
    x_DHW.mul_(functional.interpolate(points, size=settings.size, mode="trilinear")[0, 0].exp_())
    if BLUR and uniform(0, 1) < BLUR_PROBABILITY:
        x_DHW = blur(x_DHW, uniform(0, BLUR))
    deviation, mean = torch.std_mean(x_DHW[foreground_DHW], correction=0)
    x_DHW.sub_(mean).div_(deviation.clamp_(min=1e-6))
    if settings.noise:
        x_DHW.add_(torch.randn_like(x_DHW), alpha=uniform(0, settings.noise))
    return x_DHW[None]


def resize(volume_DHW: Tensor, size: Sequence[int], factors: tuple[float, float, float]) -> Tensor:
    """Along each axis the middle enlarged, or all of it made smaller amid zeros; one interpolation either way."""
    for axis, factor in enumerate(factors):
        length = volume_DHW.shape[axis]
        kept = round(length / max(factor, 1))
        volume_DHW = volume_DHW.narrow(axis, (length - kept) // 2, kept)
    inner = [round(length * min(factor, 1)) for length, factor in zip(size, factors, strict=True)]
    small_DHW = functional.interpolate(volume_DHW.float()[None, None], size=inner, mode="trilinear")[0, 0]
    missing = [length - part for length, part in zip(size, inner, strict=True)]
    return functional.pad(small_DHW, [side for gap in reversed(missing) for side in (gap // 2, gap - gap // 2)])


def warp(volume_DHW: Tensor, square: tuple[int, int, int], size: tuple[int, int, int], factor: float, degrees: float) -> Tensor:
    """Crop, scale, turn and resize with one interpolation per axis: the depth, then the plane with slices as channels."""
    top, left, side = square
    depth, height, width = size[0], *volume_DHW.shape[1:]
    slices_DHW = resize(volume_DHW, (depth, height, width), (factor, 1, 1))
    cos, sin = math.cos(math.radians(degrees)) / factor, math.sin(math.radians(degrees)) / factor
    across, down = side / width, side / height  # half the square, where half the plane is 1
    theta = [
        [across * cos, -across * sin, (2 * left + side) / width - 1],
        [down * sin, down * cos, (2 * top + side) / height - 1],
    ]
    grid = functional.affine_grid(torch.tensor([theta]), [1, *size], align_corners=False)
    return functional.grid_sample(slices_DHW[None], grid, align_corners=False)[0]


def blur(volume_DHW: Tensor, deviation: float) -> Tensor:
    """Gaussian, one axis after the other."""
    half = max(1, math.ceil(3 * deviation))
    kernel = torch.exp(-0.5 * (torch.arange(-half, half + 1) / max(deviation, 1e-3)) ** 2)
    kernel /= kernel.sum()
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = -1, half
        volume_DHW = functional.conv3d(volume_DHW[None, None], kernel.view(shape), padding=padding)[0, 0]
    return volume_DHW


# MONAI, TorchIO and the paper's way: one function from a scan to (1, D, H, W)


class Scans(Dataset):
    """Applies a function to each scan."""

    def __init__(self, scans: tuple[Scan, ...], load: Callable[[Scan], Tensor]) -> None:
        self._scans, self._load = scans, load

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> Tensor:
        return self._load(self._scans[index])


def endless(settings: Settings, load: Callable[[Scan], Tensor]) -> Iterator[Tensor]:
    """Batches of random scans for ever."""
    scans = Scans(settings.scans, load)
    sampler = RandomSampler(scans, replacement=True, num_samples=1 << 40)
    return batches(scans, settings, sampler=sampler)


def cached_array(path: Path) -> Tensor:
    """A cached payload, float32."""
    return torch.from_numpy(np.load(path).transpose(2, 1, 0).astype(np.float32))


def monai(settings: Settings, *, cached: bool) -> Iterator[Tensor]:
    """Array transforms on tensors."""
    from monai import transforms as mt

    read = mt.LoadImage("NibabelReader", image_only=True, ensure_channel_first=True)
    canonical = mt.Orientation("RAS", labels=None)
    window = mt.ScaleIntensityRangePercentiles(*PERCENTILES, 0, 1, clip=True)
    flips = [mt.RandFlip(FLIP, spatial_axis=axis) for axis in range(3)]
    augment = [
        mt.RandAdjustContrast(1.0, gamma=(math.exp(-LOG_GAMMA), math.exp(LOG_GAMMA))),
        mt.RandBiasField(prob=1.0, coeff_range=(-BIAS, BIAS)),
        mt.RandGaussianSmooth(*[(1e-3, BLUR)] * 3, prob=BLUR_PROBABILITY),
        mt.NormalizeIntensity(nonzero=True),
    ]
    noise = mt.RandGaussianNoise(1.0, std=settings.noise)
    resized = mt.Resize(settings.size, mode="trilinear")
    zoom = mt.RandZoom(1.0, 1 - settings.scale, 1 + settings.scale, mode="trilinear", padding_mode="constant")

    def deterministic(scan: Scan) -> Tensor:
        if cached:
            return mt.ScaleIntensityRange(*scan.window, 0, 1, clip=True)(cached_array(scan.array)[None])
        start, stop = zip(*scan.box_XYZ, strict=True)
        return window(canonical(mt.SpatialCrop(roi_start=start, roi_end=stop)(read(scan.raw))))

    def load(scan: Scan) -> Tensor:
        volume_DHW, flip_axis = random_plane(torch.as_tensor(deterministic(scan))[0], 0)
        return torch.as_tensor(mt.Compose([resized, zoom, flips[flip_axis], *augment, noise])(volume_DHW[None]))

    return endless(settings, load)


def torchio(settings: Settings, *, cached: bool) -> Iterator[Tensor]:
    """Transforms on `ScalarImage`."""
    import torchio as tio

    augment = torchio_augmentation(settings, tio.ZNormalization(masking_method=lambda x: x > 0))
    rescale = tio.RescaleIntensity((0, 1), percentiles=PERCENTILES)

    def deterministic(scan: Scan) -> Tensor:
        if cached:
            image = tio.Clamp(*scan.window)(tio.ScalarImage(tensor=cached_array(scan.array)[None]))
            return tio.RescaleIntensity((0, 1), in_min_max=scan.window)(image).data[0]
        image = tio.ScalarImage(scan.raw)
        ends = [(first, length - last) for (first, last), length in zip(scan.box_XYZ, image.spatial_shape, strict=True)]
        return rescale(tio.ToCanonical()(tio.Crop(sum(ends, ()))(image))).data[0]

    def load(scan: Scan) -> Tensor:
        volume_DHW, flip_axis = random_plane(deterministic(scan), 0)
        resized = tio.Resize(settings.size)(tio.ScalarImage(tensor=volume_DHW[None]))
        return torch.as_tensor(augment(tio.RandomFlip(flip_axis, flip_probability=FLIP)(resized)).data)

    return endless(settings, load)


def torchio_augmentation(settings: Settings, z_score: Any) -> Any:
    """Scale, gamma, bias field, blur, z-score, noise."""
    import torchio as tio

    return tio.Compose(
        [
            tio.RandomAffine((1 - settings.scale, 1 + settings.scale), degrees=0, isotropic=True),
            tio.RandomGamma((-LOG_GAMMA, LOG_GAMMA)),
            tio.RandomBiasField(BIAS),
            tio.RandomBlur((0, BLUR), p=BLUR_PROBABILITY),
            z_score,
            tio.RandomNoise(std=(0, settings.noise)),
        ]
    )


def paper(settings: Settings) -> Iterator[Tensor]:
    """As the code beside arXiv 2606.13315 goes about it: float64 decode, percentiles, zoom, for each sample each time."""
    import torchio as tio

    augment = torchio_augmentation(settings, tio.ZNormalization())

    def load(scan: Scan) -> Tensor:
        volume_XYZ = nib.load(scan.raw).get_fdata()[tuple(slice(*ends) for ends in scan.box_XYZ)]
        volume_DHW, flip_axis = random_plane(torch.from_numpy(volume_XYZ), 0)
        clipped_DHW = np.clip(volume_DHW.numpy(), *np.percentile(volume_DHW.numpy(), PERCENTILES))
        factors = [wanted / length for wanted, length in zip(settings.size, clipped_DHW.shape, strict=True)]
        zoomed_DHW = scipy.ndimage.zoom(clipped_DHW, factors, order=1).astype(np.float32)
        image = tio.ScalarImage(tensor=torch.from_numpy(zoomed_DHW)[None])
        return torch.as_tensor(augment(tio.RandomFlip(flip_axis, flip_probability=FLIP)(image)).data)

    return endless(settings, load)
