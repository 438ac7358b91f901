"""Ray for the tests that need it, and their marks. A module that imports this is skipped where Ray is missing."""

from __future__ import annotations

import pytest

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'rlsd[ray]'")

MARKS = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Ray's own files and sockets
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
