"""Agents on disk: zips, weights, checkpoints, and the state of environments."""
