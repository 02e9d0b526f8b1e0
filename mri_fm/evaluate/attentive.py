"""The attentive probe: one learned query reads frozen token maps (V-JEPA, Bardes et al. 2024, section 4).

Axes: S samples (volumes), N tokens, D width, H heads, E width of one head, K classes.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mri_fm.evaluate.draws import Draw, drawer
from mri_fm.evaluate.splits import Ints, grouped_folds

EPOCHS = 60
PATIENCE = 10
BATCH = 16
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
VALIDATION_PARTS = 4  # a quarter of the training units chooses the epoch


class AttentiveProbe(nn.Module):
    """Cross-attention of one query over the tokens, a small MLP, a linear head.

    The query is the same for all samples, so the key projection moves onto it, q·(W_k x) = (W_kᵀ q)·x, and the value
    projection behind the weighted mean. That is exact multi-head attention at N·D·H instead of N·D² per sample; a bias of
    the keys would cancel in the softmax.
    """

    def __init__(self, width: int, heads: int, classes: int) -> None:
        """Build for tokens of `width`, which `heads` divides."""
        super().__init__()
        self.heads = heads
        self.query_D = nn.Parameter(torch.zeros(width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.norm_mlp, self.norm_head = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Linear(width, classes)

    def forward(self, token_SND: Tensor) -> Tensor:
        """Class logits (S, K)."""
        x_SD = self.query_D + self.project(self.attend(token_SND))
        x_SD = x_SD + self.mlp(self.norm_mlp(x_SD))
        return self.head(self.norm_head(x_SD))

    def attend(self, token_SND: Tensor) -> Tensor:
        """Multi-head attention of the query over the tokens, before the output projection: (S, D)."""
        key_HED = self.key.weight.unflatten(0, (self.heads, -1))
        value_HED = self.value.weight.unflatten(0, (self.heads, -1))
        query_HE = self.query_D.view(self.heads, -1)
        query_HD = torch.einsum("he,hed->hd", query_HE, key_HED) / query_HE.shape[1] ** 0.5
        weight_SHN = (query_HD @ token_SND.mT).softmax(dim=-1)
        pooled_SHD = weight_SHN @ token_SND
        return torch.einsum("shd,hed->she", pooled_SHD, value_HED).flatten(1) + self.value.bias

    @torch.no_grad()
    def initialise(self, rng: np.random.Generator) -> None:
        """Normal weights of variance 1/fan-in, a small query (near-uniform attention, so it starts as mean pooling)."""
        for parameter in self.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)) * parameter.shape[1] ** -0.5)
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear) and module.bias is not None):
            linear.bias.zero_()
        self.query_D.copy_(torch.from_numpy(rng.standard_normal(self.query_D.shape)) * 0.1)


def fit_attentive(
    token_SND: Tensor, label_S: Ints, unit_S: Ints, test_SND: Tensor, *, heads: int, seed: int, index: int
) -> NDArray[np.float64]:
    """Train on the training tokens and give class probabilities (S, K) of the test tokens.

    The tokens are standardised per feature with the training samples' statistics. A unit-disjoint quarter of the training
    samples is held out to choose the epoch; the test samples are seen once, at the end.
    """
    mean_D, std_D = token_SND.float().mean((0, 1)), token_SND.float().std((0, 1))
    train_SND, final_SND = ((t.float() - mean_D) / (std_D + 1e-6) for t in (token_SND, test_SND))
    held_S = torch.from_numpy(_held_out(label_S, unit_S, seed=seed, index=index))
    rng = drawer(seed, Draw.PROBE, index)
    probe = AttentiveProbe(token_SND.shape[2], heads, int(label_S.max()) + 1)
    probe.initialise(rng)
    _train(probe, train_SND, torch.from_numpy(label_S), held_S, rng)
    with torch.no_grad():
        return probe(final_SND).double().softmax(dim=1).numpy()


def _held_out(label_S: Ints, unit_S: Ints, *, seed: int, index: int) -> NDArray[np.bool_]:
    """The samples that choose the epoch: one of `VALIDATION_PARTS` folds, or all samples where there is but one unit."""
    units = len(np.unique(unit_S))
    if units < 2:
        return np.ones(len(unit_S), dtype=np.bool_)
    return grouped_folds(label_S, unit_S, min(VALIDATION_PARTS, units), seed=seed, index=index) == 0


def _train(probe: AttentiveProbe, token_SND: Tensor, label_S: Tensor, held_S: Tensor, rng: np.random.Generator) -> None:
    """Fit by AdamW and leave the probe with the weights of the epoch that was best on the held-out samples."""
    rows = (~held_S if not bool(held_S.all()) else held_S).nonzero()[:, 0]
    optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    best_loss, best_state, stale = float("inf"), copy.deepcopy(probe.state_dict()), 0
    for _ in range(EPOCHS):
        for batch in rows[torch.from_numpy(rng.permutation(len(rows)))].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(probe(token_SND[batch]), label_S[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(F.cross_entropy(probe(token_SND[held_S]), label_S[held_S]))
        if loss < best_loss:
            best_loss, best_state, stale = loss, copy.deepcopy(probe.state_dict()), 0
        else:
            stale += 1
        if stale == PATIENCE:
            break
    probe.load_state_dict(best_state)
