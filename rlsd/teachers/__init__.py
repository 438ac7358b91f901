"""Who teaches? The answers to the first question, a file each."""

from rlsd.teachers.base import TargetSpec, Teacher, TeacherConfig
from rlsd.teachers.best import Best, BestTeacher
from rlsd.teachers.cascade import Cascade, CascadeTeacher
from rlsd.teachers.ema import Ema, EmaTeacher
from rlsd.teachers.ensemble import Ensemble, EnsembleTeacher
from rlsd.teachers.expert import Expert, ExpertTeacher
from rlsd.teachers.frozen import Frozen, FrozenTeacher
from rlsd.teachers.frozen_policy import FrozenPolicy
from rlsd.teachers.joined import JoinedTeacher
from rlsd.teachers.origin import Origin, OriginTeacher
from rlsd.teachers.peers import Peers, PeersTeacher
from rlsd.teachers.remember import Remember, RememberTeacher
from rlsd.teachers.selective import Selective
from rlsd.teachers.several import Several, SeveralTeacher, as_teacher
from rlsd.teachers.snapshot import Snapshot, SnapshotTeacher
from rlsd.teachers.stored import Stored, StoredTeacher

__all__ = [
    "Best",
    "BestTeacher",
    "Cascade",
    "CascadeTeacher",
    "Ema",
    "EmaTeacher",
    "Ensemble",
    "EnsembleTeacher",
    "Expert",
    "ExpertTeacher",
    "Frozen",
    "FrozenPolicy",
    "FrozenTeacher",
    "JoinedTeacher",
    "Origin",
    "OriginTeacher",
    "Peers",
    "PeersTeacher",
    "Remember",
    "RememberTeacher",
    "Selective",
    "Several",
    "SeveralTeacher",
    "Snapshot",
    "SnapshotTeacher",
    "Stored",
    "StoredTeacher",
    "TargetSpec",
    "Teacher",
    "TeacherConfig",
    "as_teacher",
]
