"""Encoders for images and videos, in the names that libraries give them, as the start of one for volumes."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mri_fm.config import load_config
from mri_fm.engine.initial import AS_IT_IS, REPORT_FILE, InitialWeights, read_initial
from mri_fm.engine.setup import build_objective
from mri_fm.errors import UserError
from mri_fm.model_config import ModelConfig
from mri_fm.models.positions import sincos_positions
from mri_fm.models.vit import VisionTransformer

WIDTH, DEPTH, HEADS, SIZE = 24, 2, 2, (8, 32, 32)
MODEL = {"width": WIDTH, "depth": DEPTH, "heads": HEADS}


class ImageViT(nn.Module):
    """A vision transformer for images under timm's names, without a class token."""

    def __init__(self, channels: int = 3, patch: int = 8, grid: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, WIDTH, patch, patch)})
        self.pos_embed = nn.Parameter(torch.randn(1, grid * grid, WIDTH))
        self.blocks = nn.ModuleList(ImageBlock() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        x_BTD = self.patch_embed["proj"](image).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD)


class ImageBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x_BTD: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in self.attn["qkv"](self.norm1(x_BTD)).chunk(3, dim=2)
        )
        scores = (query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5).softmax(dim=3)
        x_BTD = x_BTD + self.attn["proj"]((scores @ value).transpose(1, 2).flatten(2))
        return x_BTD + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x_BTD))))


@pytest.fixture(scope="module")
def image_vit() -> ImageViT:
    torch.manual_seed(0)
    return ImageViT()


def model(**options) -> ModelConfig:
    return ModelConfig(**{**MODEL, **options})


def fitted(tensors: dict[str, Tensor], folder: Path, config: ModelConfig | None = None, size=SIZE) -> InitialWeights:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "weights.safetensors")
    return read_initial(folder / "weights.safetensors", config or model(position="learned"), size)


def built(initial: InitialWeights, config: ModelConfig, size=SIZE) -> VisionTransformer:
    network = VisionTransformer.from_config(config, size)
    network.load_state_dict({**network.state_dict(), **initial.tensors})
    return network.eval()


def test_a_volume_constant_along_the_depth_has_the_tokens_of_its_image(image_vit, tmp_path):
    initial = fitted(image_vit.state_dict(), tmp_path)
    network = built(initial, model(position="learned"))
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = image_vit(image.expand(-1, 3, -1, -1))
        embedded = network.embedding(image[:, :, None].expand(-1, -1, 8, -1, -1).unfold(3, 8, 8).unfold(4, 8, 8)
                                     .permute(0, 3, 4, 1, 2, 5, 6).flatten(3).flatten(1, 2))  # fmt: skip
        conv = image_vit.patch_embed["proj"](image.expand(-1, 3, -1, -1)).flatten(2).transpose(1, 2)
        torch.testing.assert_close(embedded, conv, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(image[:, :, None].expand(-1, -1, 8, -1, -1)), expected, rtol=1e-4, atol=1e-4)
    assert (initial.drawn, initial.unused) == ([], {})
    how = {taken.name: taken.how for taken in initial.taken}
    assert how.pop("embedding.weight") == "kernel 3×8×8 to 1×8×8×8"
    assert set(how.values()) == {AS_IT_IS}


def test_monai_s_own_network_for_images_and_the_one_made_of_it_agree(tmp_path):
    nets = pytest.importorskip("monai.networks.nets", reason="monai is not installed (extra bench)")
    theirs = nets.ViT(1, (32, 32), (8, 8), WIDTH, 4 * WIDTH, DEPTH, HEADS, spatial_dims=2).eval()
    initial = fitted(theirs.state_dict(), tmp_path)
    ours = built(initial, model(position="learned"))
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        tokens = ours(image[:, :, None].expand(-1, -1, 8, -1, -1))
        torch.testing.assert_close(tokens, theirs(image)[0], rtol=1e-3, atol=1e-3)  # its LayerNorms have another ε
    assert initial.drawn == [f"blocks.{n}.attention.qkv.bias" for n in range(DEPTH)]  # it has none, and ours begin at 0
    assert set(initial.unused) <= {f"blocks.{n}.norm_cross_attn.{kind}" for n in range(DEPTH) for kind in ("weight", "bias")}


def test_monai_s_own_network_for_volumes_fits_as_it_is(tmp_path):
    nets = pytest.importorskip("monai.networks.nets", reason="monai is not installed (extra bench)")
    theirs = nets.ViT(1, SIZE, (8, 8, 8), WIDTH, 4 * WIDTH, DEPTH, HEADS).eval()
    ours = built(fitted(theirs.state_dict(), tmp_path), model(position="learned"))
    volume = torch.randn(2, 1, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(ours(volume), theirs(volume)[0], rtol=1e-3, atol=1e-3)


def renamed(state: dict[str, Tensor], library: str) -> dict[str, Tensor]:
    """The same tensors as another library writes them."""
    rules = {
        "V-JEPA": {r"^": "encoder.module.backbone."},
        "torchvision": {
            r"^patch_embed\.proj": "conv_proj", "^pos_embed": "encoder.pos_embedding", r"^norm\.": "encoder.ln.",
            r"^blocks\.": "encoder.layers.encoder_layer_", "norm1": "ln_1", "norm2": "ln_2",
            r"attn\.qkv\.": "self_attention.in_proj_",
            r"attn\.proj": "self_attention.out_proj", "fc1": "0", "fc2": "3",
        },
        "Hugging Face": {
            r"^patch_embed\.proj": "embeddings.patch_embeddings.projection", "^pos_embed": "embeddings.position_embeddings",
            r"^norm\.": "layernorm.", "^": "vit.", r"blocks\.": "encoder.layer.", "norm1": "layernorm_before",
            "norm2": "layernorm_after", r"attn\.qkv": "attention.attention.query|key|value",
            r"attn\.proj": "attention.output.dense",
            r"mlp\.fc1": "intermediate.dense", r"mlp\.fc2": "output.dense",
        },
        "Hugging Face, newer": {
            r"^patch_embed\.proj": "embeddings.patch_embeddings.projection", "^pos_embed": "embeddings.position_embeddings",
            r"^norm\.": "layernorm.", r"^blocks\.": "layers.", "norm1": "layernorm_before", "norm2": "layernorm_after",
            r"attn\.qkv": "attention.q_proj|k_proj|v_proj", r"attn\.proj": "attention.o_proj",
        },
        "Hugging Face's V-JEPA 2": {
            r"^patch_embed\.proj": "encoder.embeddings.patch_embeddings.proj", r"^norm\.": "encoder.layernorm.",
            r"^blocks\.": "encoder.layer.", r"attn\.qkv": "attention.query|key|value", r"attn\.proj": "attention.proj",
        },
    }[library]  # fmt: skip
    found = {}
    for name, tensor in state.items():
        for pattern, text in rules.items():
            name = re.sub(pattern, text, name)
        split = re.search(r"\w+\|\w+\|\w+", name)
        parts = zip(split[0].split("|"), tensor.chunk(3), strict=True) if split else [("", tensor)]
        found |= {name.replace(split[0], part) if split else name: values for part, values in parts}
    return found


@pytest.mark.parametrize("library", ["V-JEPA", "torchvision", "Hugging Face", "Hugging Face, newer", "Hugging Face's V-JEPA 2"])
def test_the_names_of_a_library_do_not_matter(image_vit, library, tmp_path):
    state = image_vit.state_dict()
    (tmp_path / "timm").mkdir()
    expected = fitted(state, tmp_path / "timm").tensors
    beside = {"predictor.blocks.0.norm1.weight": torch.ones(7), "encoder.head.weight": torch.ones(7)}
    initial = fitted(renamed(state, library) | beside, tmp_path)
    assert initial.unused == dict.fromkeys(beside, "no part of the encoder")
    assert set(initial.tensors) | {"position.table_ND"} == set(expected)
    for name, tensor in initial.tensors.items():
        assert torch.equal(tensor, expected[name]), name
    split = [taken for taken in initial.taken if taken.how == "q, k, v joined"]
    assert len(split) == (2 * DEPTH if library.startswith("Hugging") else 0)


def test_positions_of_another_grid_are_interpolated_behind_those_of_the_class_token(tmp_path):
    state = ImageViT(grid=2).state_dict()
    state["pos_embed"] = torch.cat([torch.full((1, 1, WIDTH), 9.0), state["pos_embed"]], dim=1)
    initial = fitted({**state, "cls_token": torch.ones(1, 1, WIDTH)}, tmp_path, size=(16, 32, 32))
    table_ZYXD = initial.tensors["position.table_ND"].unflatten(0, (2, 4, 4))
    torch.testing.assert_close(table_ZYXD[0], table_ZYXD[1])  # repeated along the depth
    torch.testing.assert_close(table_ZYXD[0, 0, 0], state["pos_embed"][0, 1])  # a corner keeps the corner's, none has the 9
    assert {taken.how for taken in initial.taken if taken.name == "position.table_ND"} == {"grid 1×2×2 to 2×4×4, interpolated"}
    assert initial.unused == {"cls_token": "the model has no class token"}


def test_a_video_s_tubelets_become_patches_and_its_fixed_positions_stay_behind(image_vit, tmp_path):
    state = image_vit.state_dict()
    state["patch_embed.proj.weight"] = torch.randn(WIDTH, 3, 2, 16, 16)
    state["pos_embed"] = torch.randn(1, 3 * 4 * 4, WIDTH)  # 6 frames
    initial = fitted(state, tmp_path)
    assert initial.unused == {"pos_embed": "which grid its 48 positions lie on cannot be told"}
    assert initial.drawn == ["position.table_ND"]
    assert {taken.how for taken in initial.taken if taken.name == "embedding.weight"} == {"kernel 3×2×16×16 to 1×8×8×8"}
    fixed = fitted(state, tmp_path, model())
    assert "are not learned (model.position=learned" in fixed.unused["pos_embed"]
    assert fixed.drawn == []


def test_learned_positions_start_as_the_fixed_ones_and_fit_other_grids():
    torch.manual_seed(0)
    network = VisionTransformer.from_config(model(position="learned"), SIZE)
    plain = VisionTransformer.from_config(model(), SIZE)
    plain.load_state_dict({name: t for name, t in network.state_dict().items() if name != "position.table_ND"})
    volume = torch.randn(2, 1, *SIZE)
    torch.testing.assert_close(network(volume), plain(volume))
    visible_BV = torch.tensor([[1, 5], [0, 15]])
    torch.testing.assert_close(network(volume, visible_BV), plain(volume, visible_BV))
    network(torch.randn(2, 1, 16, 64, 64)).sum().backward()
    assert network.position.table_ND.grad is not None
    assert torch.equal(network.position.table_ND, sincos_positions(WIDTH, (1, 4, 4)))


def test_an_export_of_this_project_fits_as_it_is(tmp_path):
    network = VisionTransformer.from_config(model(registers=2, qk_norm=True, layer_scale=0.1), SIZE)
    initial = fitted(network.state_dict(), tmp_path, model(registers=2, qk_norm=True, layer_scale=0.1))
    assert all(torch.equal(tensor, initial.tensors[name]) for name, tensor in network.state_dict().items())
    assert ({taken.how for taken in initial.taken}, initial.drawn, initial.unused) == ({AS_IT_IS}, [], {})


def test_the_teacher_starts_as_the_student_and_the_report_names_every_tensor(image_vit, tmp_path):
    words = ["data.corpus=C", f"run.dir={tmp_path}", "data.size=[8,32,32]", "model.position=learned"]
    words += [f"model.{key}={value}" for key, value in MODEL.items()]
    objective = build_objective(load_config("jepa", words))
    initial = fitted({**image_vit.state_dict(), "head.weight": torch.ones(3)}, tmp_path)
    initial.load_into(objective)
    for name, tensor in objective.student.state_dict().items():
        assert torch.equal(tensor, initial.tensors[name])
        assert torch.equal(tensor, objective.teacher.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in objective.teacher.parameters())
    initial.write_report(tmp_path)
    report = json.loads((tmp_path / REPORT_FILE).read_text())
    assert report["file"] == "weights.safetensors"
    assert {taken["name"] for taken in report["taken"]} == set(initial.tensors)
    assert report["unused"] == {"head.weight": "no part of the encoder"}
    assert "0 stay as drawn, 1 of the file are not used" in initial.summary()


LAYER_SCALE = {f"blocks.{n}.ls{m}.gamma": torch.ones(WIDTH) for n in range(DEPTH) for m in (1, 2)}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"width": 48}, "has width 24 and 2 blocks, the model 48 and 2: set model.width=24 model.depth=2"),
        ({}, {"depth": 3}, "has width 24 and 2 blocks, the model 24 and 3"),
        (
            {},
            {"mlp_ratio": 2.0},
            "blocks.0.mlp.fc1.bias makes blocks.0.mlp.up.bias 96, and the model has 48: set model.mlp_ratio",
        ),
        ({}, {"layer_scale": 0.1}, "has nothing for blocks.0.scale_attention.gain_D of this model: switch off"),
        ({}, {"qk_norm": True}, "has nothing for blocks.0.attention.norm_q.weight"),
        ({}, {"mlp": "swiglu"}, "blocks.0.mlp.fc1.bias has no place in this model: set model.mlp=gelu"),
        (LAYER_SCALE, {}, "ls1.gamma has no place in this model: set model.layer_scale=1e-5"),
        ({"reg_token": torch.ones(1, 4, WIDTH)}, {}, "reg_token has no place in this model: set model.registers"),
        ({"blocks.1.attn.qkv.weight": None}, {}, "has nothing for blocks.1.attention.qkv.weight of this model"),
        ({"patch_embed.proj.weight": None}, {}, "no patch embedding among its tensors"),
        ({"teacher.patch_embed.proj.weight": torch.ones(WIDTH, 3, 8, 8)}, {}, "2 encoders"),
        ({"patch_embed.proj.weight": torch.ones(WIDTH, 3, 8)}, {}, "of no image and of no video"),
        ({"norm.bias": torch.full((WIDTH,), torch.nan)}, {}, "norm.bias is not finite"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_trained(image_vit, change, options, message, tmp_path):
    state = {name: tensor for name, tensor in {**image_vit.state_dict(), **change}.items() if tensor is not None}
    with pytest.raises(UserError, match=message):
        fitted(state, tmp_path, model(position="learned", **options))


def test_only_safetensors_are_read(tmp_path):
    torch.save({"patch_embed.proj.weight": torch.ones(3)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"is no safetensors file .*pickles are not read"):
        read_initial(tmp_path / "weights.pth", model(), SIZE)
    with pytest.raises(UserError, match="no such file"):
        read_initial(tmp_path / "nothing.safetensors", model(), SIZE)
