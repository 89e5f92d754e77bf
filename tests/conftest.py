"""Common to all tests: no window system, and no more threads than a small machine has."""

import os

import torch

os.environ.setdefault("MPLBACKEND", "agg")
torch.set_num_threads(min(2, torch.get_num_threads()))
