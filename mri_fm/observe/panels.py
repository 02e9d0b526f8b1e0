"""What belongs side by side: the one arrangement of metrics that the W&B workspace and the HTML report both follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """Curves in one plot.

    Attributes:
        title: above the plot.
        keys: names of metrics; one that ends in "/" or "_" stands for all that begin so, one curve each.
        log: whether the vertical axis is logarithmic.
    """

    title: str
    keys: tuple[str, ...]
    log: bool = False

    def shows(self, name: str) -> bool:
        """Whether a metric is one of its curves."""
        return any(name.startswith(key) if key.endswith(("/", "_")) else name == key for key in self.keys)

    def choose(self, names: Iterable[str]) -> list[str]:
        """Its curves among these metrics, in the order of its keys."""
        given = sorted(names)
        return list(dict.fromkeys(name for key in self.keys for name in given if Panel("", (key,)).shows(name)))


PICTURES = ("pictures/reconstruction", "pictures/tokens")
SECTIONS: dict[str, tuple[Panel, ...]] = {
    "health": (
        Panel("gradient norm", ("grad_norm",), log=True),
        Panel("gradient norm by block", ("grad_norm/",), log=True),
        Panel("update / weight by block", ("update_ratio/",), log=True),
        Panel("attention entropy by layer", ("attention_entropy/",)),
        Panel("learning rate", ("lr",)),
        Panel("steps left out as not finite", ("nonfinite_steps",)),
    ),
    "losses": (
        Panel("loss", ("loss",), log=True),
        Panel("validation loss", ("val_loss",), log=True),
        Panel("parts of the loss", ("loss_reconstruction", "loss_spectral", "loss_prediction", "loss_variance",
                                    "loss_covariance", "loss_sigreg"), log=True),
        Panel("loss by data set", ("loss_dataset/",)),
        Panel("loss by contrast", ("loss_contrast/",)),
        Panel("spectral error by band", ("spectral_error/",), log=True),
        Panel("spectral power by band", ("spectral_power/",), log=True),
        Panel("spectral / reconstruction gradient", ("spectral_gradient_ratio",), log=True),
    ),
    "collapse": (
        Panel("feature std", ("feature_std", "feature_std_"), log=True),
        Panel("ranks of the features", ("rankme", "effective_rank", "lidar")),
        Panel("α-ReQ", ("alpha_req",)),
        Panel("teacher-student cosine", ("teacher_cosine",)),
        Panel("distance of the teacher", ("ema_distance",), log=True),
        Panel("load of the busiest expert / mean", ("expert_load",)),
    ),
    "pictures": (),
    "throughput": (
        Panel("volumes / s", ("volumes_per_s",)),
        Panel("tokens / s", ("tokens_per_s",)),
        Panel("seconds per step", ("step_time",)),
        Panel("TFLOP/s of a rank", ("tflops",)),
        Panel("MFU", ("mfu",)),
        Panel("share of communication", ("communication_share",)),
        Panel("cost of observing", ("observe_share", "observe_time"), log=True),
    ),
    "data": (
        Panel("seconds of a step that wait for samples", ("data_wait",)),
        Panel("samples skipped", ("skips",)),
        Panel("samples from the node's cache", ("cache_hits",)),
    ),
    "probes": (Panel("AUROC of online probes", ("probe/",)),),
    "system": (Panel("peak memory, GB", ("memory_peak_gb",)),),
}  # fmt: skip
LEFT_OUT = {"step", "samples", "time"}
"""Logged, and on no panel: the axes that the others are drawn over."""


def panels() -> list[Panel]:
    """All of them, section by section."""
    return [panel for section in SECTIONS.values() for panel in section]
