"""Progress of an encoding: the callbacks of `encode`, and a bar on stderr that implements them."""

from typing import Protocol

from tqdm import tqdm


class Progress(Protocol):
    """Progress callbacks for `encode`."""

    def tokenized(self, characters: int, tokens: int) -> None:
        """Receive the size of texts that have just been tokenized."""

    def encoded(self, tokens: int) -> None:
        """Receive the number of tokens that have just been encoded, padding excluded."""


class TokenBar(tqdm):
    """A progress bar on stderr that counts tokens.

    Batches run from long texts to short ones, so the share of encoded texts is a poor estimate of the time left.
    The total is exact for tokenized texts and estimated from characters for the rest.

    Args:
        characters: total length of all texts.
        shown: if False, the bar counts without printing.
        description: text in front of the bar.
    """

    def __init__(self, characters: int, shown: bool, description: str | None = None):
        super().__init__(desc=description, unit=" tokens", unit_scale=True, smoothing=0.05, disable=not shown)
        self._characters = characters
        self._tokenized_characters = self._tokens = 0

    def tokenized(self, characters: int, tokens: int) -> None:
        """Update the estimated total."""
        self._tokenized_characters += characters
        self._tokens += tokens

        left = max(0, self._characters - self._tokenized_characters)
        self.total = self._tokens + round(left * self._tokens / max(1, self._tokenized_characters))

    def encoded(self, tokens: int) -> None:
        """Advance the bar."""
        self.update(tokens)
