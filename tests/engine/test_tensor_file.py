import torch
from safetensors.torch import load_file

from mri_fm.engine.tensor_file import lay_out

TENSORS = {
    "odd": torch.arange(7, dtype=torch.bfloat16),
    "matrix": torch.arange(6, dtype=torch.float32).view(2, 3),
    "scalar": torch.tensor(5, dtype=torch.int64),
    "flag": torch.tensor([True, False, True]),
    "empty": torch.empty(0),
}
LAYOUT = lay_out({name: (tensor.dtype, tensor.shape) for name, tensor in TENSORS.items()})


def test_the_safetensors_package_reads_what_was_laid_out(tmp_path):
    file = torch.empty(LAYOUT.size, dtype=torch.uint8)
    LAYOUT.start(file)
    for name, place in LAYOUT.places.items():
        place.of(file).copy_(TENSORS[name])
    file.numpy().tofile(tmp_path / "file")
    read = load_file(tmp_path / "file")
    assert {name: tensor.dtype for name, tensor in read.items()} == {name: tensor.dtype for name, tensor in TENSORS.items()}
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


def test_tensors_lie_aligned():
    assert all(place.begin % place.dtype.itemsize == 0 for place in LAYOUT.places.values())
