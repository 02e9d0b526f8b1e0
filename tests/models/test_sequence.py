"""Tokens shared out over real ranks, against one rank that has them all, in float64."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from launch.planning.trace import saved_bytes
from mri_fm.model_config import HeadConfig, ModelConfig
from mri_fm.models.heads import decoder
from mri_fm.models.layers import Attention, block_stack, run_blocks
from mri_fm.models.sequence import SequenceGroup, share_out, sharing_tokens
from mri_fm.models.vit import VisionTransformer
from tests.distributed import run_ranks

OPTIONS = {
    "plain": {},
    "everything": {
        "position": "rope",
        "qk_norm": True,
        "registers": 3,
        "drop_path": 0.5,
        "layer_scale": 0.5,
        "mlp": "swiglu",
        "moe_experts": 4,
        "moe_active": 2,
        "moe_width": 8,
    },
}
SIZE = (8, 24, 24)  # 9 tokens


class Net(nn.Module):
    """An encoder and a head behind it, as in MAE: 5 visible tokens, 4 hidden ones."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        head = HeadConfig(width=48, depth=2, heads=6)
        model = ModelConfig(width=48, depth=2, heads=6, decoder=head, **options)
        self.student = VisionTransformer.from_config(model, SIZE)
        self.decoder = decoder(model, self.student)
        for parameter in self.parameters():  # away from initial zeros and ones
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x_BCZYX: Tensor) -> Tensor:
        positions_B = torch.tensor([3, 7])
        visible_BV, hidden_BM = torch.tensor([[0, 2, 3, 5, 8]] * 2), torch.tensor([[1, 4, 6, 7]] * 2)
        context_BVD = self.student(x_BCZYX, visible_BV, positions_B=positions_B)
        pred_BMP = self.decoder(context_BVD, visible_BV, hidden_BM)
        whole_BND = self.student(x_BCZYX, positions_B=positions_B)
        return pred_BMP.square().mean() + context_BVD[:, 0].pow(3).mean() + whole_BND.norm(dim=2).mean()


def loss_and_gradients(net: Net, group: SequenceGroup | None) -> list[Tensor]:
    x_BCZYX = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with sharing_tokens(group):
        loss = net(x_BCZYX)
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in net.parameters())]


def share_tokens(rank: int, options: dict[str, object]) -> float:
    """Largest difference between the mean over the ranks and one rank."""
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    expected = loss_and_gradients(Net(**options).double(), None)
    seen = loss_and_gradients(Net(**options).double(), SequenceGroup(dist.group.WORLD, rank, world))
    worst = 0.0
    for mine, whole in zip(seen, expected, strict=True):
        mean = mine.clone()
        dist.all_reduce(mean)
        worst = max(worst, float((mean / world - whole).abs().max() / whole.abs().max().clamp_min(1e-3)))
    return worst


@pytest.mark.parametrize(("options", "world"), [("plain", 2), ("everything", 2), ("everything", 3)])
def test_losses_and_mean_gradients_are_those_of_one_rank(options, world):
    """5, 9 and 12 tokens on two and three ranks: parts of different lengths too."""
    assert max(run_ranks(share_tokens, world, OPTIONS[options])) < 1e-10


def count_bytes(rank: int) -> float:
    """What the blocks keep for the backward pass when two ranks share out the tokens, over what they keep on one."""
    dist.init_process_group("gloo")
    blocks, x_BTD = block_stack(48, 3, 6, 4.0), torch.randn(2, 100, 48)
    kept = []
    for group in (SequenceGroup(dist.group.WORLD, rank, 2), None):
        with sharing_tokens(group):
            kept.append(saved_bytes(lambda: run_blocks(blocks, x_BTD, None), blocks, x_BTD)[0])
    return kept[0] / kept[1]


def test_two_ranks_keep_little_more_than_half_each():
    assert max(run_ranks(count_bytes, 2)) < 0.55  # attention's output is kept once more, by tokens


def look_at_shares(rank: int) -> tuple[list[int], list[tuple[int, ...]]]:
    """How long the parts of 7 tokens are, and what attention is given of 5 bf16 ones."""
    dist.init_process_group("gloo")
    seen: list[tuple[int, ...]] = []
    attention = Attention(24, 4, 0.02).bfloat16()
    x_BTD = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole_BTD = attention(x_BTD)
    plain = nn.functional.scaled_dot_product_attention

    def note(*qkv: Tensor) -> Tensor:
        seen.extend(tuple(x.shape) for x in qkv)
        return plain(*qkv)

    with sharing_tokens(SequenceGroup(dist.group.WORLD, rank, 2)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "scaled_dot_product_attention", note)
        parts = share_out(5)
        mixed_BTD = parts.gather(attention(parts.take(x_BTD, 1), None, parts))
        lengths = list(share_out(7).lengths)
        with pytest.raises(ValueError, match="1 tokens cannot be shared out over 2 ranks"):
            share_out(1)
    torch.testing.assert_close(mixed_BTD, whole_BTD)
    assert share_out(7) is None
    return lengths, seen


def test_each_rank_attends_to_all_tokens_with_its_own_heads():
    torch.manual_seed(0)
    assert run_ranks(look_at_shares, 2) == [([4, 3], [(2, 2, 5, 6)] * 3)] * 2
