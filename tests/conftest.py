"""Settings of the whole suite: one thread, and examples that hypothesis draws the same way every time."""

from __future__ import annotations

import hypothesis
import torch

# Small networks run slower on several threads than on one, and tests run side by side.
torch.set_num_threads(1)

hypothesis.settings.register_profile("rlsd", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("rlsd")
