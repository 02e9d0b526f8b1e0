"""Scans out of MONAI's and TorchIO's dictionaries; needs neither.

Both keep an image as (C, X, Y, Z) with an affine to RAS+ millimetres: MONAI as a tensor with `.affine` (a `MetaTensor`),
TorchIO as an object with `.data` and `.affine`. An entry may also be the path of a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mri_fm.errors import UserError
from mri_fm.volume.read import Volume


def scan_of(item: Mapping[str, Any], key: str | None = None) -> Volume | Path:
    """The scan of a dictionary, for `Encoder.embed`.

    Args:
        item: a sample of MONAI, or a TorchIO `Subject`.
        key: of the image; None: the only one there is.

    Raises:
        UserError: no such entry, none or several that could be meant, or an image of more than one channel.
    """
    if key is None:
        found = [name for name, value in item.items() if _is_image(value)]
        if len(found) != 1:
            raise UserError(f"the dictionary has {len(found)} images ({', '.join(found)}): name one by scan_of(item, key)")
        key = found[0]
    if key not in item:
        raise UserError(f"the dictionary has no '{key}', but {', '.join(map(str, item))}")
    if isinstance(item[key], str | os.PathLike):
        return Path(item[key])
    if not _is_image(item[key]):
        raise UserError(f"'{key}' is no image with an affine, nor the path of one")
    return _volume(key, item[key])


def _is_image(value: Any) -> bool:
    return hasattr(value, "affine")


def _volume(key: str, image: Any) -> Volume:
    array_CXYZ = np.asarray(getattr(image.data, "numpy", lambda: image.data)())
    if array_CXYZ.ndim != 4 or array_CXYZ.shape[0] != 1:
        raise UserError(f"'{key}' has shape {array_CXYZ.shape}: one channel and three axes, (1, X, Y, Z), are needed")
    affine = np.asarray(image.affine, dtype=np.float64)
    return Volume(array_CXYZ[0], affine, array_CXYZ.dtype.name)
