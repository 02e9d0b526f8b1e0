"""A step never waits for the device: it reads no value of a tensor and copies none from the host.

Shown here without a GPU, on tensors of the device "meta", which have no values to be read; tests/gpu shows it on one.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.objectives.variants import ALL, SCHEDULE, build, inputs


class NoCopies(TorchDispatchMode):
    """Refuses whatever moves a tensor from one device to another."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::_to_copy", "aten::copy_"):
            devices = {tensor.device for tensor in (out, *args) if isinstance(tensor, torch.Tensor)}
            assert len(devices) == 1, f"{func} between {devices}"
        return out


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_nothing_is_read_from_the_device_or_copied_to_it(name, variant):
    objective, given = build(name, variant).to("meta"), inputs(device="meta")
    objective(given, SCHEDULE)  # what depends on the size alone is brought over once
    with NoCopies():
        loss, metrics = objective(given, SCHEDULE)
        loss.backward()
    assert loss.shape == ()
    assert all(value.shape == () for value in metrics.values())


def test_a_copy_or_a_value_would_be_noticed():
    with NoCopies(), pytest.raises(AssertionError, match="_to_copy"):
        torch.ones(3).to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device="meta").sum().item()
