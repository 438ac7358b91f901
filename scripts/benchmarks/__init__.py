"""What ``scripts/benchmark.py`` measures: a module each, over the timing of pairs that all share."""
