"""Ctrl-C and SIGTERM during training: the step is finished, a checkpoint saved, and the run ends."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from mose.utils.command_line import InterruptedBySignal

logger = logging.getLogger("mose.train")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Turn SIGTERM into an exception inside the block, so that locks are released and files cleaned up."""

    def stop(number: int, frame: Any) -> None:
        raise InterruptedBySignal(
            number, "ended by SIGTERM outside of training steps. Checkpoints saved before are complete."
        )

    with _handlers({signal.SIGTERM: stop}):
        yield


class SaveOnSignal(TrainerCallback):
    """A callback that ends a run with a checkpoint after the step in which a signal came.

    Handlers are in place inside `catch`. A second signal ends the run at once, without a checkpoint.
    """

    def __init__(self):
        #: The signal that came, 0 for none.
        self.signal_number = 0

    @contextmanager
    def catch(self) -> Iterator[None]:
        """Note signals inside the block instead of raising at once."""
        self.signal_number = 0
        with _handlers(dict.fromkeys(SIGNALS, self._note)):
            yield

    def _note(self, number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        if self.signal_number:
            raise InterruptedBySignal(number, f"ended at once by a second {name}, without a further checkpoint.")
        self.signal_number = number
        logger.warning("%s: the step is finished and saved. Once more ends the run at once.", name)

    def on_step_end(self, args, state, control, **kwargs):
        """Ask for a checkpoint and the end, if any process got a signal."""
        if args.world_size > 1:
            # The processes must stop after the same step, or those left would wait for ever.
            number = torch.tensor(self.signal_number, device=args.device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
            self.signal_number = int(number)
        if self.signal_number:
            control.should_save = control.should_training_stop = True


@contextmanager
def _handlers(handlers: dict[Any, Any]) -> Iterator[None]:
    # Python allows handlers in the main thread only; elsewhere signals are the caller's.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
