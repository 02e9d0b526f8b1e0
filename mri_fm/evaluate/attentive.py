"""The attentive probe: one learned query reads frozen token maps (V-JEPA, Bardes et al. 2024, section 4).

Axes: S units, C contrasts of a unit, N tokens, D width, H heads, E width of one head, K outputs.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.experts import product_of_experts
from mri_fm.evaluate.features import Features, tensors
from mri_fm.evaluate.optimise import Schedule, fit_network, initialise
from mri_fm.evaluate.training import Fitted, TrainingPart


class AttentiveProbe(nn.Module):
    """Cross-attention of one query over the tokens, a small MLP, a linear head.

    The query is the same for all units, so the key projection moves onto it, q·(W_k x) = (W_kᵀ q)·x, and the value
    projection behind the weighted mean. That is exact multi-head attention at N·D·H instead of N·D² per volume; a bias of
    the keys would cancel in the softmax.
    """

    def __init__(self, width: int, heads: int, outputs: int, joint: bool = False) -> None:
        """Build for tokens of `width`, which `heads` divides.

        Args:
            width: D.
            heads: H.
            outputs: K.
            joint: one softmax over the tokens of all contrasts; else one for each contrast, whose results are averaged.
        """
        super().__init__()
        self.heads, self.joint = heads, joint
        self.query_D = nn.Parameter(torch.zeros(width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.norm_mlp, self.norm_head = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Linear(width, outputs)

    def forward(self, token_SCND: Tensor, present_SC: Tensor) -> Tensor:
        """Outputs (S, K) from tokens and which contrasts there are."""
        x_SD = self.query_D + self.project(self.attend(token_SCND, present_SC))
        x_SD = x_SD + self.mlp(self.norm_mlp(x_SD))
        return self.head(self.norm_head(x_SD))

    def attend(self, token_SCND: Tensor, present_SC: Tensor) -> Tensor:
        """Multi-head attention of the query over the tokens, before the output projection: (S, D)."""
        key_HED = self.key.weight.unflatten(0, (self.heads, -1))
        value_HED = self.value.weight.unflatten(0, (self.heads, -1))
        query_HE = self.query_D.view(self.heads, -1)
        query_HD = torch.einsum("he,hed->hd", query_HE, key_HED) / query_HE.shape[1] ** 0.5
        score_SCHN = query_HD @ token_SCND.mT
        if self.joint:
            score_SCHN = score_SCHN.masked_fill(~present_SC[:, :, None, None], -math.inf)
            weight_SCHN = (score_SCHN - score_SCHN.logsumexp(dim=(1, 3), keepdim=True)).exp()
        else:
            share_SC = present_SC / present_SC.sum(dim=1, keepdim=True)
            weight_SCHN = score_SCHN.softmax(dim=3) * share_SC[:, :, None, None]
        pooled_SHD = (weight_SCHN @ token_SCND).sum(dim=1)
        return torch.einsum("shd,hed->she", pooled_SHD, value_HED).flatten(1) + self.value.bias


class Standardised(nn.Module):
    """A probe behind a fixed standardisation of every feature, from training tokens; tokens may be of half precision."""

    def __init__(self, probe: AttentiveProbe, token_SCND: Tensor, present_SC: Tensor) -> None:
        super().__init__()
        self.probe = probe
        sums = [_moments(token_SCND[rows], present_SC[rows]) for rows in torch.arange(len(token_SCND)).split(64)]
        count, sum_D, square_D = (torch.stack(parts).sum(dim=0) for parts in zip(*sums, strict=True))
        self.mean_D = (sum_D / count).float()
        self.std_D = ((square_D - sum_D**2 / count) / (count - 1)).clamp(min=0).sqrt().float()

    def forward(self, token_SCND: Tensor, present_SC: Tensor) -> Tensor:
        """Outputs (S, K)."""
        return self.probe((token_SCND.float() - self.mean_D) / (self.std_D + 1e-6), present_SC)


def _moments(token_SCND: Tensor, present_SC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of tokens, their sum and sum of squares, float64."""
    token_TD = token_SCND[present_SC].double().flatten(0, 1)
    return torch.tensor(float(len(token_TD)), dtype=torch.float64), token_TD.sum(dim=0), (token_TD**2).sum(dim=0)


def fit_attentive(part: TrainingPart, test: Features, *, fusion: str = "mean", heads: int) -> Fitted:
    """Train on token maps (S, C, N, D); a group-disjoint quarter of the training units chooses the epoch.

    Args:
        part: what is learned.
        test: tokens of the test units, which are seen once, at the end.
        fusion: mean (of what the query reads from each contrast), concatenation (it reads all contrasts at once), product
            (of one probe per contrast).
        heads: attention heads.
    """
    if fusion == "product" and part.features.present_SC.shape[1] > 1:
        return product_of_experts(part, test, partial(fit_attentive, heads=heads))
    rng = drawer(part.seed, Draw.PROBE, part.index)
    known = tensors(part.features)
    probe = AttentiveProbe(known[0].shape[-1], heads, part.target.outputs, joint=fusion == "concatenation")
    initialise(probe, rng)
    with torch.no_grad():
        probe.query_D.copy_(torch.from_numpy(rng.standard_normal(probe.query_D.shape)) * 0.1)
    return fit_network(Standardised(probe, *known), part, test, tensors, rng, Schedule())
