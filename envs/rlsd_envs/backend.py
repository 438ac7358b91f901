"""What every vector environment of this package can say about itself."""

from __future__ import annotations

BACKENDS = ("auto", "dummy", "subproc", "gymnasium", "envpool", "ale")
"""The values of ``backend`` that :func:`rlsd_envs.make_vec_env` takes."""


class Backend:
    """Mixed into the vector environments of this package; reachable through SB3's wrappers too.

    :ivar backend: which backend runs the environments, one of :data:`BACKENDS` except ``"auto"``
    :ivar backend_reason: why it was chosen
    """

    backend: str = ""
    backend_reason: str = ""

    def describe_backend(self) -> str:
        """Return one line that says which backend runs the environments, and why."""
        return f"backend {self.backend}: {self.backend_reason}"
