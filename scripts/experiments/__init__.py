"""Experiments that show what self-distillation does, and scripts that hold rlsd against what is outside of it."""
