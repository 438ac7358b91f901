"""The Hugging Face Hub as a place for agents: names, how it is reached, and its errors as one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rlsd.cli.errors import UserError, one_line
from rlsd.cli.extras import need
from rlsd.plain import shown

#: How the Hub calls an agent's files, as rl_zoo3 does; beside ``ALGO-ENV.zip``.
STATISTICS, METRICS, CARD = "vec_normalize.pkl", "train_eval_metrics.zip", "README.md"
_PART = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", re.ASCII)


def check_repo(name: str) -> str:
    """Return the name of a repository.

    :raises UserError: when it is none of the Hub's.
    """
    parts = name.split("/")
    if len(parts) != 2 or len(name) > 96 or name.endswith(".git") or not all(map(_PART.fullmatch, parts)):
        raise UserError(f"{shown(name)} is no name of the Hub: give OWNER/NAME, e.g. me/ppo-CartPole-v1")
    return name


def connect() -> Any:
    """Return huggingface_hub's ``HfApi``.

    :raises UserError: when it is not installed.
    """
    need("hub", "the Hugging Face Hub")
    from huggingface_hub import HfApi

    return HfApi()


@contextmanager
def blame_hub(name: str) -> Iterator[None]:
    """Turn what the Hub refuses into one line.

    :param name: of the repository.
    :raises UserError: then.
    """
    try:
        yield
    except Exception as error:
        kinds = {cls.__name__ for cls in type(error).__mro__}
        status = getattr(getattr(error, "response", None), "status_code", None)
        missing = "RepositoryNotFoundError" in kinds
        if (status in (401, 403) and not missing) or "LocalTokenNotFoundError" in kinds:
            raise UserError(f"the Hub lets nobody write to {name} so: log in with `hf auth login`") from error
        if missing:
            raise UserError(f"the Hub has no {name}, or not for you: `hf auth login` for a private one") from error
        if kinds & {
            "HfHubHTTPError",
            "HTTPError",
            "LocalEntryNotFoundError",
            "OfflineModeIsEnabled",
            "ConnectionError",
        }:
            raise UserError(f"the Hub cannot be reached: {one_line(error)}") from error
        if "EntryNotFoundError" in kinds:
            raise UserError(f"{name} on the Hub holds no agent as rlsd or rl_zoo3 push it") from error
        raise
