"""Rollouts collected by workers, on this machine or on a cluster.

Optional: nothing below imports it. What the agent trains in carries the workers (:mod:`rlsd.scaling.environment`), and
offers the agent's class to collect through them.
"""
