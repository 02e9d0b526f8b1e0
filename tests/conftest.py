"""One thread per process: reproducible sums, and no thread pool that a fork would leave behind."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch

torch.set_num_threads(1)
