"""What a run shows in TensorBoard: wanted, but nothing that training should end for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from stable_baselines3.common import utils
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HumanOutputFormat, Logger, TensorBoardOutputFormat
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from rlsd.cli.console import warn
from rlsd.cli.errors import refusal

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


def new_logger(agent: BaseAlgorithm, name: str, anew: bool) -> Logger:
    """Return the logger that ``learn`` would make, which goes on where TensorBoard's files cannot be written.

    :param name: the algorithm's.
    :param anew: whether this is no part of a run that is resumed.
    """
    try:
        logger = utils.configure_logger(agent.verbose, agent.tensorboard_log, name, anew)
    except OSError as error:
        _say_why(error)
        return Logger(None, [HumanOutputFormat(sys.stdout)] if agent.verbose else [])
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            records: Any = output.writer.file_writer
            records = records.event_writer._async_writer._writer
            records._writer = _Expendable(records._writer)
    return logger


class _Expendable:
    """A file that takes no more once it could not be written: what came after a torn record could not be read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._broken = False

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def write(self, data: bytes) -> None:
        self._try("write", data)

    def flush(self) -> None:
        self._try("flush")

    def close(self) -> None:
        self._try("close")

    def _try(self, what: str, *arguments: bytes) -> None:
        if self._broken:
            return
        try:
            getattr(self._file, what)(*arguments)
        except OSError as error:
            self._broken = True
            _say_why(error)


def _say_why(error: OSError) -> None:
    warn(f"TensorBoard's files can no longer be written, and training goes on without them: {refusal(error)}")


class ForgetLostSteps(BaseCallback):
    """Has TensorBoard forget what a run that was killed had logged after its checkpoint: it will be logged again."""

    def _on_training_start(self) -> None:
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                writer: Any = output.writer.file_writer
                # Twice: TensorBoard takes the first it reads of a run for its beginning, and forgets nothing.
                for _ in range(2):
                    start = Event(step=self.num_timesteps + 1, session_log=SessionLog(status=SessionLog.START))
                    writer.add_event(start)

    def _on_step(self) -> bool:
        return True
