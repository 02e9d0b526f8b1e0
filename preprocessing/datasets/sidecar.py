"""The JSON file beside an image."""

from __future__ import annotations

import json
from pathlib import Path

from mri_fm.volume.discover import Input, image_stem


def read_sidecar(raw: Path, item: Input) -> dict[str, str]:
    """The text fields of the JSON file beside an image; {} where there is none or it cannot be read."""
    path = raw / f"{image_stem(item.files[0])}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return {k: str(v) for k, v in content.items() if isinstance(v, str | int | float)} if isinstance(content, dict) else {}
