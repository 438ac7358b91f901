"""Into whom, and when? Answers to the fifth question that teach beside the agent's own updates: phases and students."""

from rlsd.students.keeper import ByStart, Keep
from rlsd.students.phase import Phase
from rlsd.students.rebirth import Reborn

__all__ = ["ByStart", "Keep", "Phase", "Reborn"]
