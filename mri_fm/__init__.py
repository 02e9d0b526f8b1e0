"""Self-supervised foundation models for 3D brain MRI.

`load_encoder` opens an exported encoder. The name is found when it is used, so that `import mri_fm` loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mri_fm.export.encoder import Encoder, load_encoder

__all__ = ["Encoder", "load_encoder"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mri_fm' has no attribute '{name}'")
    from mri_fm.export import encoder

    return getattr(encoder, name)
