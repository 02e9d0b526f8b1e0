import itertools
import json
import struct

import torch

from mri_fm.engine.tensor_file import TensorFile, lay_out, write_tensors

TENSORS = {
    "odd": torch.arange(7, dtype=torch.bfloat16),
    "matrix": torch.arange(6, dtype=torch.float32).view(2, 3),
    "scalar": torch.tensor(5, dtype=torch.int64),
    "flag": torch.tensor([True, False, True]),
    "empty": torch.empty(0),
}


def test_what_is_written_is_read(tmp_path):
    write_tensors(tmp_path / "file", TENSORS)
    file = TensorFile(tmp_path / "file")
    assert set(file.places) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert file[name].dtype == tensor.dtype
        assert torch.equal(file[name], tensor)


def test_the_layout_is_that_of_safetensors(tmp_path):
    """By its specification: a 64-bit length, a JSON header, ranges that begin at 0 and leave no gap up to the end."""
    write_tensors(tmp_path / "file", TENSORS)
    content = (tmp_path / "file").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    ranges = sorted(entry["data_offsets"] for entry in header.values())
    assert ranges[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert 8 + length + ranges[-1][1] == len(content)
    begin, end = header["matrix"]["data_offsets"]
    assert struct.unpack("<6f", content[8 + length :][begin:end]) == (0, 1, 2, 3, 4, 5)
    assert header["odd"] | {"data_offsets": 0} == {"dtype": "BF16", "shape": [7], "data_offsets": 0}


def test_tensors_lie_aligned():
    places = lay_out({name: (tensor.dtype, tensor.shape) for name, tensor in TENSORS.items()}).places
    assert all(place.begin % place.dtype.itemsize == 0 for place in places.values())
