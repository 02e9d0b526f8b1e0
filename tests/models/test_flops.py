import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mri_fm.config import load_config
from mri_fm.engine.setup import build_objective
from mri_fm.model_config import ModelConfig
from mri_fm.models.flops import encoder_flops
from mri_fm.models.vit import VisionTransformer


@pytest.mark.parametrize("options", [{}, {"mlp": "swiglu", "registers": 5, "position": "rope", "qk_norm": True}])
def test_the_formula_is_what_torch_counts(options):
    model = ModelConfig(width=96, depth=3, heads=3, mlp_ratio=3.9, **options)
    encoder = VisionTransformer.from_config(model, (32, 32, 64))
    x_BCZYX = torch.zeros(1, 1, 32, 32, 64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        encoder(x_BCZYX)
    embedding = 2 * encoder.num_tokens * 8**3 * model.width
    assert counter.get_total_flops() - embedding == pytest.approx(encoder_flops(model, encoder.num_tokens))


@pytest.mark.parametrize(("model", "tera"), [("vit_base", 7.5), ("vit_large", 18.2)])
def test_a_jepa_sample_at_160_cubed_costs_what_its_parts_add_up_to(model, tera):
    words = ["data.corpus=C", "run.dir=R", f"model={model}", "data.size=[160,160,160]"]
    with torch.device("meta"):
        objective = build_objective(load_config("jepa", words))
    assert objective.flops_per_sample() / 1e12 == pytest.approx(tera, abs=0.06)
