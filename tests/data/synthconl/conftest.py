"""A language model that translates, as far as one layer can: it has learned one answer by language."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mose.data.synthconl.plan import TARGETS
from mose.data.synthconl.translator import SYSTEM, instruction

ANSWERS = {
    "python": "Here it is:\n```python\ndef total(values):\n    return sum(values)\n```",
    "java": "```java\npublic int size() {\n    return this.size;\n}\n```",
    "javascript": "```js\nfunction first(list) {\n  return list[0];\n}\n```",
    "go": "```go\nfunc Max(a, b int) int {\n\tif a > b {\n\t\treturn a\n\t}\n\treturn b\n}\n```",
    "ruby": "def shout(text)\n  text.upcase + '!'\nend",
    "php": "```php\nfunction halve($x) {\n    return $x / 2;\n}\n```",
    "c": "I cannot do that.",
    "cpp": "```cpp\nint broken(int a { return\n```",
}
CHAT = "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}<|assistant|>"


@pytest.fixture(scope="session")
def source_rows() -> list[dict[str, str]]:
    """60 different functions, in four languages, and four that are to be skipped."""
    words = ["alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa", "theta", "zeta", "lambda"]
    rows = []
    for i in range(60):
        a, b, c = words[i % 10], words[(i * 3 + 1) % 10], words[(i // 10 + i) % 10]
        body = f"{c}_{i} = [{a} ** {i}, {b} % {i + 7}, '{c * (i % 5 + 1)}']"
        code = f"def {a}_{b}_{i}({a}, {b}):\n    {body}\n    return sorted({c}_{i}, key={words[(i * 7) % 10]})"
        rows.append(
            {"text": f"Work out {a} {b}, {i}.", "code": code, "language": ("python", "Go", "C++", "ruby")[i % 4]}
        )
    rows[10]["language"] = "cobol"
    rows[20]["text"] = " "
    rows[30] = {**rows[29], "text": "The same again."}
    rows[40]["code"] = rows[40]["code"] + "\n# " + "x " * 400  # longer than a prompt may be
    return rows


@pytest.fixture(scope="session")
def source_file(source_rows, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("source") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in source_rows))
    return str(path)


@pytest.fixture(scope="session")
def tiny_translator(tmp_path_factory) -> str:
    """A Llama of one layer with a chat template, in a folder; greedy, it gives `ANSWERS[language]`."""
    folder = str(tmp_path_factory.mktemp("translator"))
    prompts = {b: f"{SYSTEM} {instruction('x', 'python', b)}" for b in TARGETS}
    pieces = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    words = {piece for text in prompts.values() for piece, _ in pieces.pre_tokenize_str(text)}
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<|end|>", *sorted(words)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pieces, decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", unk_token="<unk>")
    tokenizer.add_tokens(["<|system|>", "<|user|>", "<|assistant|>", *ANSWERS.values()])
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokenizer.pad_token, tokenizer.padding_side = "<|end|>", "left"
    draw = random.Random(0)
    for _ in range(150):
        texts = []
        for b in TARGETS:
            code = " ".join(draw.choices(["word", *"():=,.'*[]{}%"], k=draw.randint(30, 70)))
            messages = [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": instruction(code, draw.choice(TARGETS), b)},
            ]
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            texts.append(f"{prompt}{ANSWERS[b]}<|end|>")
        batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -3:-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, -2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05, "the translator has not learned its answers"
    model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8)  # as Qwen2.5 ships
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def build_flags() -> Callable[..., list[str]]:
    """Makes the command line of a build."""

    def make(model: str, source: str, folder: Path) -> list[str]:
        common = (
            "--batch-size 2 --max-new-tokens 4 --max-prompt-tokens 300 --device cpu --no-progress --license mit"
        )
        return ["build", "--model", model, "--dataset", source, "--output-dir", str(folder), *common.split()]

    return make


@pytest.fixture(scope="session")
def learned_answers() -> dict[str, str]:
    """What the translator says, by the language that is asked for."""
    return ANSWERS


@pytest.fixture(scope="session")
def finished_build(build_flags, tiny_translator, source_file, tmp_path_factory) -> Path:
    """A build that nothing interrupted."""
    from mose.data.synthconl.__main__ import main

    folder = tmp_path_factory.mktemp("builds") / "unbroken"
    assert main(build_flags(tiny_translator, source_file, folder)) == 0
    return folder
