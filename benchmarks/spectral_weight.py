"""How heavy may the spectral loss be? `mae_spectral` under several weights λ, same seeds, equal steps, one corpus.

    python benchmarks/spectral_weight.py --bids BIDS      # an hour on a CPU core; what is finished is not done again

λ = 0 is `mae`: same masks, same initial weights. Each run is measured on the corpus' val split, whose people no run has seen:
the voxel error on hidden voxels, the error of the spectrum by bands of frequency, the norm of the spectral gradient over that
of the voxel error's. Frozen probes of the same runs stand beside them.

The rule, written before the runs: the default λ is the largest of those tried whose voxel error on the val split, at the last
step and averaged over seeds, is at most 1 % above that of λ = 0, and whose error of the log-magnitudes above the cut-off is
below that of λ = 0; if none is, 0.01 stays, the published weight. Probes are reported and choose nothing, since the people they
are tested on would then have taken part in the choice.

Without --bids it says so and ends. Writes spectral_weight.md and spectral_weight.png.
"""

from __future__ import annotations

import argparse
import sys

from pretraining.runs import add_options, bench_of, build_corpus, spectral_run, train_all

WEIGHTS = (0.0, 0.01, 0.03, 0.1, 1.0)
TOLERANCE = 0.01


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    return parser.parse_args()


def main() -> int:
    """The command line."""
    options = parse()
    if options.bids is None:
        print("benchmarks/spectral_weight.py: skipped, it needs --bids FOLDER with a participants.tsv")
        return 0
    bench = bench_of(options)
    build_corpus(options.bids, bench)
    train_all(bench, [spectral_run(weight, seed) for seed in options.seeds for weight in WEIGHTS], options.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
