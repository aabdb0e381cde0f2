"""Translate code with a causal language model of transformers, in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mose.tokenization.prompts import LANGUAGES

DEFAULT_MODEL = "Qwen/Qwen2.5-Coder-7B-Instruct"
SYSTEM = "You are an expert programmer who translates code faithfully, in the idioms of the target language."


@dataclass(frozen=True)
class Answer:
    """The answer of the model; `finished` is False if it was cut off at the limit of new tokens."""

    text: str
    finished: bool


def instruction(code: str, language_a: str, language_b: str) -> str:
    """Return the request to translate `code`."""
    a, b = LANGUAGES[language_a], LANGUAGES[language_b]
    return (
        f"Translate this {a} code into {b}. Keep its behaviour and its structure. Answer with one fenced block "
        f"of {b} code that is complete, without explanation and without a usage example.\n\n"
        f"```{language_a}\n{code}\n```"
    )


class Translator:
    """A causal language model that translates code.

    The weights are float32 on a CPU, and the checkpoint's type on an accelerator.

    Args:
        model: folder or Hub id.
        device: device of the model; None for an accelerator if there is one.
        max_new_tokens: most tokens of an answer.
        temperature: sampling temperature; 0 for greedy decoding.

    Raises:
        OSError: the model cannot be found or loaded.
    """

    def __init__(
        self, model: str, device: str | None = None, max_new_tokens: int = 1024, temperature: float = 0.0
    ):
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self.device = torch.device(device or accelerator or "cpu")
        dtype = "float32" if self.device.type == "cpu" else "auto"
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
            language_model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        except OSError as error:
            raise OSError(f"--model {model}: {error}") from error

        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = language_model.to(self.device).eval()
        self.max_new_tokens, self.temperature = max_new_tokens, temperature

    def prompt(self, code: str, language_a: str, language_b: str) -> str:
        """Return the complete input: the chat template, or without one the request and an opened fence."""
        request = instruction(code, language_a, language_b)
        if self.tokenizer.chat_template:
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": request}]
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return f"{request}\n\n{self._opening(language_b)}"

    def _opening(self, language_b: str) -> str:
        return "" if self.tokenizer.chat_template else f"```{language_b}\n"

    def length(self, prompt: str) -> int:
        """Return the number of tokens of a prompt."""
        return len(self._encode([prompt])["input_ids"][0])

    def _encode(self, prompts: Sequence[str], **options):
        # A chat template writes the special tokens itself.
        special = not self.tokenizer.chat_template
        return self.tokenizer(list(prompts), add_special_tokens=special, **options)

    @torch.inference_mode()
    def translate(self, prompts: Sequence[str], languages_b: Sequence[str], seed: int) -> list[Answer]:
        """Return one answer for each prompt, from one batch; `languages_b` are the target languages."""
        batch = self._encode(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
        # A checkpoint's generation config can have sampling on, so greedy decoding resets it.
        sampling: dict = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.temperature > 0:
            torch.manual_seed(seed)
            sampling = {"do_sample": True, "temperature": self.temperature}

        generated = self.model.generate(
            **batch.to(self.device),
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            **sampling,
        )[:, batch["input_ids"].shape[1] :]
        end_ids = self.model.generation_config.eos_token_id
        end_ids = end_ids if isinstance(end_ids, list) else [] if end_ids is None else [end_ids]
        finished = torch.isin(generated, torch.tensor(end_ids, device=self.device)).any(dim=1).tolist()

        texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [
            Answer(self._opening(language) + text, done)
            for text, language, done in zip(texts, languages_b, finished, strict=True)
        ]
