"""Training faster, from outside: what SB3 computes in vain is left out while an agent learns, and put back after.

Every part is one switch of :class:`Speed`. See docs/speed.md. Nothing in the rest of the library imports this package:
it registers itself in :mod:`rlsd.acceleration`.
"""

from rlsd.speed.door import accelerate
from rlsd.speed.parts import EXACT, MAX, NOTHING, Speed, resolve_speed

__all__ = ["EXACT", "MAX", "NOTHING", "Speed", "accelerate", "resolve_speed"]
