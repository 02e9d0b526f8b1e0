"""Look at what the model sees: `python -m mri_fm.data.preview --corpus C [--out DIR] [key=value …]` writes DIR/preview.html.

For some volumes of the training split: the un-augmented centre crop beside one input of every kind of augmentation, each
switched on alone at the strength that the configuration gives it, then inputs as the configuration makes them. Pictures come
from the training loader itself; parameters stand beside them. A volume that cannot be read is named, with the reason and with
what is served in its place.

Axes: D, H, W depth, height, width of an input.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from mri_fm.config import ArtefactConfig, AugmentConfig, Config, DataConfig, load_config
from mri_fm.data.artefacts import Artefacts
from mri_fm.data.corpus import Corpus, Sample
from mri_fm.data.loader import Batch, TrainLoader, evaluation_batches
from mri_fm.data.params import SampleParams
from mri_fm.data.plan import plan_training
from mri_fm.data.positions import row_of
from mri_fm.data.reader import open_reader
from mri_fm.data.skips import Skip
from mri_fm.errors import UserError, run_main
from mri_fm.observe.page import figure_address, html_page, html_table

_CPU = torch.device("cpu")
_ANATOMY = ("axial", "coronal", "sagittal")  # slices across z, y, x
_TOGETHER = 3  # inputs of each volume as the configuration makes them
_OFF = AugmentConfig(orientation=False, flip=0, scale=0, rotation=0, gamma=0, bias=0, blur=0, noise=0)
_EXAMPLE = AugmentConfig(rotation=10, noise=0.1)  # for what the configuration has switched off
_RANGES = ("scale", "rotation", "gamma", "bias", "blur", "noise")
_ARTEFACTS = ("motion", "ghosting", "spike", "anisotropy")
_EDGE = {"left": 0.0, "right": 1.0, "bottom": 0.0, "top": 1.0, "wspace": 0.02}
_STYLE = """
body { max-width: 1500px } h3 { margin: 1.4em 0 .2em } .row { display: flex; gap: 1.2em; align-items: center; margin: .4em 0 }
.row img { max-width: 76% } .row p { margin: 0; font-size: .9em }
"""


@dataclass(frozen=True)
class Shown:
    """One input with what it was made by, and the samples that were to be served at its position and could not be read."""

    volume_DHW: Tensor
    spacing: tuple[float, ...]
    sample: Sample
    parameters: tuple[str, ...]
    skips: tuple[Skip, ...] = ()


def switched_on_alone(given: AugmentConfig) -> Iterator[tuple[str, bool, AugmentConfig]]:
    """Every kind of augmentation: its name, whether the configuration has it, and itself alone and always drawn."""
    yield "orientation", given.orientation, dataclasses.replace(_OFF, orientation=True)
    yield "flip", given.flip > 0, dataclasses.replace(_OFF, flip=1)
    always = dataclasses.replace(_OFF, rotation_probability=1, blur_probability=1, rician=given.rician)
    for name in _RANGES:
        value = getattr(given, name)
        yield name, value > 0, dataclasses.replace(always, **{name: value or getattr(_EXAMPLE, name)})
    never = dataclasses.replace(given.artefacts, **dict.fromkeys(_ARTEFACTS, 0))
    for name in _ARTEFACTS:
        artefacts: ArtefactConfig = dataclasses.replace(never, **{name: 1})
        yield name, getattr(given.artefacts, name) > 0, dataclasses.replace(_OFF, artefacts=artefacts)


def preview_html(corpus: Corpus, config: Config, count: int) -> str:
    """The page for the first `count` volumes of the training split.

    Raises:
        UserError: no such volumes, or none that can be read.
    """
    samples = corpus.select("train", config.data.contrasts)[:count]
    data = dataclasses.replace(config.data, views=1, session_contrasts=0, mixture={}, curriculum=[], workers=0)
    plain = _centre_crops(corpus, samples, data)
    kinds = list(switched_on_alone(data.augment))
    blocks, every = [], []
    for name, on, augment in tqdm(kinds, desc="preview", unit="kind", leave=False):
        shown = _inputs(corpus, samples, dataclasses.replace(data, augment=augment), config.seed, steps=1)
        blocks.append(f"<h3>{escape(name)}{'' if on else ' (off in this configuration)'}</h3>{_rows(shown, plain)}")
        every += shown
    viewed = dataclasses.replace(data, views=config.data.views)
    together = _inputs(corpus, samples, viewed, config.seed, steps=_TOGETHER)
    size = " × ".join(map(str, data.size))
    head = f"""<h1>Inputs of {size} voxels</h1><p class="note">Left in every row the centre crop as an evaluation sees it, right
an input for training: slices through the middle across depth, height and width, in the same grey window.</p>"""
    alone = f"<h2>Each kind alone</h2>{''.join(blocks)}"
    body = f"{head}{_replacements([*every, *together])}{alone}<h2>As configured</h2>{_rows(together, plain)}"
    return html_page("Augmentation", body, _STYLE)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m mri_fm.data.preview", description="Draw augmented samples.")
    parser.add_argument("--corpus", required=True, help="folder or s3://bucket/prefix")
    parser.add_argument("--out", type=Path, default=Path("preview"), help="folder for preview.html")
    parser.add_argument("--samples", type=int, default=2, help="volumes to show")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="*", metavar="key=value", help="as for train.py, for instance data.augment.rotation=10")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.samples < 1:
        raise UserError(f"--samples {arguments.samples} must be at least 1")
    config = load_config("mae", [*arguments.words, "data.corpus=unset", "run.dir=unset"])
    config.data.corpus, config.data.device, config.seed = arguments.corpus, "cpu", arguments.seed
    page = preview_html(Corpus.open(arguments.corpus, "size"), config, arguments.samples)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "preview.html"
    path.write_text(page, encoding="utf-8")
    print(path)


def _centre_crops(corpus: Corpus, samples: list[Sample], data: DataConfig) -> dict[str, Shown]:
    """By key; of a sample that cannot be read it is all zeros, and nothing asks for it."""
    (batch,) = evaluation_batches(corpus, samples, data, batch_size=len(samples), device=_CPU, strict=False)
    return {sample.key: _shown(batch, place, sample, ()) for place, sample in enumerate(samples)}


def _inputs(corpus: Corpus, samples: list[Sample], data: DataConfig, seed: int, steps: int) -> list[Shown]:
    """What training would see of the samples in its first steps, by sample."""
    layout = {"seed": seed, "steps": steps, "global_batch": len(samples), "accumulation": 1, "rank": 0, "world": 1}
    plan, reader = plan_training(samples, data, **layout), open_reader(corpus.storage, data)
    loader = TrainLoader(corpus, samples, data, device=_CPU, prefetch=1, **layout)
    by_key, shown = {sample.key: sample for sample in samples}, []
    for batch in (next(loader) for _ in range(steps)):
        for place, (row, key) in enumerate(zip(batch.positions_B.tolist(), batch.keys, strict=True)):
            params = plan.params(row, by_key[key], reader.read(by_key[key]))
            position, _, view_number = row_of(row)
            view = (f"view {view_number + 1} of {data.views}",) if data.views > 1 else ()
            described = (*view, *describe_params(params, data.augment.rician), *describe_artefacts(plan.artefacts(row)))
            skips = tuple(skip for skip in batch.skips if skip.position == position)
            shown.append(dataclasses.replace(_shown(batch, place, by_key[key], described), skips=skips))
    loader.close()
    reader.close()
    return sorted(shown, key=lambda one: one.sample.key)


def _shown(batch: Batch, place: int, sample: Sample, parameters: tuple[str, ...]) -> Shown:
    return Shown(batch.x_BCZYX[place, 0], tuple(batch.spacing_B3[place].tolist()), sample, parameters)


def describe_params(params: SampleParams, rician: bool) -> Iterator[str]:
    """What is not neutral about a sample's parameters, in words."""
    yield f"depth: {_ANATOMY[params.depth_axis]} slices"
    yield f"crop: from {params.start}, {params.extent} voxels"
    if params.flip_x:
        yield "flipped left to right"
    if params.scale != 1:
        yield f"scale {params.scale:.3f}"
    if params.rotation:
        yield f"rotation {math.degrees(params.rotation):+.1f}°"
    if params.gamma != 1:
        yield f"gamma {params.gamma:.3f}"
    if params.bias.any():
        yield f"bias field of {params.bias.std():.2f}"
    if params.blur:
        yield f"blur {params.blur:.2f} mm"
    if params.noise:
        yield f"{'Rician' if rician else 'Gaussian'} noise {params.noise:.3f}"


def describe_artefacts(artefacts: Artefacts) -> Iterator[str]:
    """The artefacts of a sample, in words."""
    along = ("depth", "height", "width")
    if motion := artefacts.motion:
        times = ", ".join(f"{100 * time:.0f} %" for time in motion.times)
        shift = max(abs(mm) for pose in motion.shifts for mm in pose)
        turn = math.degrees(max(abs(angle) for pose in motion.angles for angle in pose))
        yield f"motion along {along[motion.axis]} at {times} of the scan, up to {shift:.1f} mm and {turn:.1f}°"
    if ghosting := artefacts.ghosting:
        yield f"ghosting along {along[ghosting.axis]}: one line in {ghosting.count}, weaker by {ghosting.strength:.2f}"
    if spike := artefacts.spike:
        frequencies = ", ".join(f"{frequency:+.2f}" for frequency in spike.frequencies)
        yield f"spike at ({frequencies}) cycles per voxel, {spike.strength:.2f} of the mean"
    if anisotropy := artefacts.anisotropy:
        yield f"resolution along {along[anisotropy.axis]} coarser by {anisotropy.factor:.1f}"


def _replacements(shown: Sequence[Shown]) -> str:
    """A warning with a table of the samples that could not be read; nothing if all could."""
    instead: dict[tuple[str, str, str], set[str]] = {}
    for one in shown:
        for skip in one.skips:
            instead.setdefault((skip.key, skip.shard, skip.reason), set()).add(one.sample.key)
    if not instead:
        return ""
    rows = [[*bad, ", ".join(sorted(served))] for bad, served in sorted(instead.items())]
    words = f"Cannot be read: {len(rows)} of these volumes. Training replaces each and counts it against data.skip_budget."
    return f'<p class="warn">{words}</p>{html_table(["sample", "shard", "reason", "replaced by"], rows)}'


def _rows(shown: Sequence[Shown], plain: dict[str, Shown]) -> str:
    return "".join(_row(plain[one.sample.key], one) for one in shown)


def _row(plain: Shown, shown: Shown) -> str:
    name = f"{shown.sample.key}, {shown.sample.contrast}"
    address = figure_address(_figure(plain, shown), dpi=60)
    replaced = (f"in place of {skip}" for skip in shown.skips)
    words = "<br>".join(escape(words) for words in (name, *replaced, *shown.parameters))
    return f'<div class="row"><img alt="{escape(name)}" src="{address}"><p>{words}</p></div>'


def _figure(plain: Shown, shown: Shown) -> Figure:
    """Three slices of the centre crop and three of the input."""
    figure = Figure(figsize=(18.4, 3), facecolor="black")
    panels = figure.subplots(1, 7, width_ratios=[1, 1, 1, 0.1, 1, 1, 1], gridspec_kw=_EDGE)
    panels[3].set_axis_off()
    low, high = plain.volume_DHW.min().item(), plain.volume_DHW.quantile(0.995).item()
    for place, axes in enumerate([*panels[:3], *panels[4:]]):
        one, axis = (plain, shown)[place // 3], place % 3
        rows, columns = (other for other in range(3) if other != axis)
        picture = one.volume_DHW.select(axis, one.volume_DHW.shape[axis] // 2)
        aspect = one.spacing[rows] / one.spacing[columns]
        axes.imshow(picture.numpy(), cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
        axes.set_axis_off()
    return figure


if __name__ == "__main__":
    run_main(main)
