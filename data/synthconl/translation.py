"""Translating code with a causal language model of transformers, in batches."""

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
    """What the model said, and whether it had ended before its limit of tokens."""

    text: str
    finished: bool


def instruction(code: str, language_a: str, language_b: str) -> str:
    """What the model is asked."""
    a, b = LANGUAGES[language_a], LANGUAGES[language_b]
    return (
        f"Translate this {a} code into {b}. Keep its behaviour and its structure. Answer with one fenced block "
        f"of {b} code that is complete, without explanation and without a usage example.\n\n"
        f"```{language_a}\n{code}\n```"
    )


class Translator:
    """A causal language model that is asked to translate.

    Args:
        model: Folder or Hub id.
        device: Where it runs; None: an accelerator where there is one.
        dtype: Of the weights; None: that of the checkpoint on an accelerator, float32 on a CPU.
        max_new_tokens: Tokens of an answer, at most.
        temperature: 0 takes the likeliest token every time.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        OSError, ValueError: the model cannot be found or loaded.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        device: str | None = None,
        dtype: str | None = None,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        trust_remote_code: bool = False,
    ):
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self.device = torch.device(device or accelerator or "cpu")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                model, padding_side="left", trust_remote_code=trust_remote_code
            )
            language_model: Any = AutoModelForCausalLM.from_pretrained(
                model,
                dtype=dtype or ("float32" if self.device.type == "cpu" else "auto"),
                trust_remote_code=trust_remote_code,
            )
        except OSError as error:
            raise OSError(f"--model {model}: {error}") from error
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = language_model.to(self.device).eval()
        self.max_new_tokens, self.temperature = max_new_tokens, temperature

    def prompt(self, code: str, language_a: str, language_b: str) -> str:
        """The whole input: by the model's chat template, or, where it has none, up to an opened fence."""
        asked = instruction(code, language_a, language_b)
        if self.tokenizer.chat_template:
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return f"{asked}\n\n{self._opening(language_b)}"

    def _opening(self, language_b: str) -> str:
        return "" if self.tokenizer.chat_template else f"```{language_b}\n"

    def length(self, prompt: str) -> int:
        """Tokens of a prompt."""
        return len(self._encode([prompt])["input_ids"][0])

    def _encode(self, prompts: Sequence[str], **options):
        # A chat template writes the special tokens itself.
        special = not self.tokenizer.chat_template
        return self.tokenizer(list(prompts), add_special_tokens=special, **options)

    @torch.inference_mode()
    def translate(self, prompts: Sequence[str], languages_b: Sequence[str], seed: int) -> list[Answer]:
        """One answer for each prompt, from one batch; `seed` is that of the sampling, where there is any."""
        batch = self._encode(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
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
        ends = self.model.generation_config.eos_token_id
        ends = torch.tensor(
            ends if isinstance(ends, list) else [] if ends is None else [ends], device=self.device
        )
        finished = torch.isin(generated, ends).any(dim=1).tolist()
        texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [
            Answer(self._opening(language) + text, done)
            for text, language, done in zip(texts, languages_b, finished, strict=True)
        ]
