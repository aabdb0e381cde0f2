"""A build that goes on where it stopped: every answer is stored as it comes, and a killed run loses one batch.

A build's folder holds `settings.json`, `plan.jsonl` (what is to be translated into what), `answers.jsonl` (what
the model said) and, at the end, the dataset that is made of them. Plan and answers are facts about the source and
the model; all that is judged (`answers.py`, near-duplicates) is judged at the end, from all answers, so that an
unbroken build and one that was killed end the same.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset
from tqdm import tqdm

from mose.data.source.near_duplicates import NearDuplicates
from mose.data.synthconl.answers import NoCode, read_answer
from mose.data.synthconl.plan import Job, choose, fingerprint, language_key
from mose.data.synthconl.translation import Answer
from mose.utils.files import atomic_write

logger = logging.getLogger(__name__)

SETTINGS_FILE, PLAN_FILE, ANSWERS_FILE = "settings.json", "plan.jsonl", "answers.jsonl"


class Translates(Protocol):
    """What a build needs of a `Translator`."""

    def prompt(self, code: str, language_a: str, language_b: str) -> str: ...

    def length(self, prompt: str) -> int: ...

    def translate(self, prompts: Sequence[str], languages_b: Sequence[str], seed: int) -> list[Answer]: ...


@dataclass(frozen=True)
class Settings:
    """What makes one build differ from another; all of it must be the same when a build goes on.

    Attributes:
        model: The translator's name.
        batch_size: Prompts in one batch.
        max_new_tokens: Tokens of an answer, at most; one that is cut off there is not used.
        max_prompt_tokens: Prompts with more are not asked.
        temperature: Of the sampling; 0 for none.
        seed: Of the languages and of the sampling.
        limit: Translations to make, at most; 0 for all.
    """

    model: str
    batch_size: int = 32
    max_new_tokens: int = 1024
    max_prompt_tokens: int = 2048
    temperature: float = 0.0
    seed: int = 0
    limit: int = 0

    def __post_init__(self):
        for name, smallest in (("batch_size", 1), ("max_new_tokens", 1), ("max_prompt_tokens", 1), ("limit", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {smallest}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: must be a number from 0 on")


def open_build(folder: Path, source: Dataset, settings: Settings, progress: bool = False) -> list[Job]:
    """Begins a build, or takes one up; returns its jobs.

    Raises:
        ValueError: the folder holds a build of another source or with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {**asdict(settings), "source": fingerprint(source), "rows": len(source)}
    path = folder / SETTINGS_FILE
    answers = folder / ANSWERS_FILE
    if (
        path.is_file() and answers.is_file() and answers.stat().st_size
    ):  # without answers there is nothing to lose
        found = json.loads(path.read_text())
        for name, value in wanted.items():
            if found["settings"].get(name) != value:
                raise ValueError(
                    f"{folder} holds a build with {name}={found['settings'].get(name)!r}, not {value!r}: "
                    "choose another folder, or go on with the same settings"
                )
        return [Job(**json.loads(line)) for line in (folder / PLAN_FILE).read_text().splitlines()]
    skipped: Counter[str] = Counter()
    jobs = []
    for job in choose(source, settings.seed, skipped, progress):
        jobs.append(job)
        if len(jobs) == settings.limit:
            break
    if not jobs:
        raise ValueError(f"nothing to translate: of {len(source)} rows all were skipped: {dict(skipped)}")
    with atomic_write(folder / PLAN_FILE) as file:
        file.writelines(json.dumps(asdict(job)).encode() + b"\n" for job in jobs)
    with atomic_write(path) as file:  # last: a folder with settings has a whole plan
        file.write(json.dumps({"settings": wanted, "skipped": skipped}, indent=2).encode() + b"\n")
    return jobs


def translate_all(
    folder: Path, source: Dataset, jobs: Sequence[Job], translator: Translates, settings: Settings,
    progress: bool = False,
) -> None:  # fmt: skip
    """Asks for what has no answer yet, and stores each batch's answers before it asks for the next.

    Batches are the same however often a build is interrupted, since what shares a batch with a text may change
    the last digits of its logits: of a batch that is not whole the answers are asked for again.
    """
    path = folder / ANSWERS_FILE
    batches = [jobs[start : start + settings.batch_size] for start in range(0, len(jobs), settings.batch_size)]
    whole = answered(folder, jobs, settings)
    if path.is_file():
        _cut(path, sum(map(len, batches[:whole])))
    with path.open("a", encoding="utf-8") as file, tqdm(
        total=len(jobs), initial=sum(map(len, batches[:whole])), desc="translating", unit=" rows",
        disable=not progress,
    ) as bar:  # fmt: skip
        for number, batch in enumerate(batches[whole:], whole):
            answers = _ask(source, batch, translator, settings, settings.seed * 1_000_003 + number)
            for job, answer in zip(batch, answers, strict=True):
                file.write(json.dumps({**asdict(job), **answer}) + "\n")
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(batch))


def answered(folder: Path, jobs: Sequence[Job], settings: Settings) -> int:
    """How many batches have all their answers stored; a killed run may leave a part of one."""
    path = folder / ANSWERS_FILE
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        lines = sum(line.endswith(b"\n") for line in file)
    return -(-lines // settings.batch_size) if lines >= len(jobs) else lines // settings.batch_size


def _ask(
    source: Dataset, batch: Sequence[Job], translator: Translates, settings: Settings, seed: int
) -> list[dict[str, Any]]:
    prompts = []
    for job in batch:
        example = source[job.row]
        prompts.append(translator.prompt(example["code"], language_key(example["language"]), job.language_b))
    fits = [i for i, prompt in enumerate(prompts) if translator.length(prompt) <= settings.max_prompt_tokens]
    answers: list[dict[str, Any]] = [{"answer": None} for _ in batch]
    if fits:
        given = translator.translate([prompts[i] for i in fits], [batch[i].language_b for i in fits], seed)
        for i, answer in zip(fits, given, strict=True):
            answers[i] = {"answer": answer.text, "finished": answer.finished}
    return answers


def _cut(path: Path, lines: int) -> None:
    with path.open("r+b") as file:
        for _ in range(lines):
            file.readline()
        file.truncate()


def triples(
    folder: Path, source: Dataset, counts: Counter[str], progress: bool = False
) -> Iterator[Mapping[str, str]]:
    """The triples of a build whose answers are all there.

    Args:
        folder: The build's.
        source: The same as when it was begun.
        counts: Takes up how many rows were skipped for which reason, and how many `triples` there are.

    Yields:
        `text`, `code_a`, `code_b`, `language_a`, `language_b`, `repository`. The code B of each is no
        near-duplicate of an earlier one's (Jaccard 0.7, 256 permutations, character 5-grams), as its code A is
        not (`plan.choose`).
    """
    counts.update(json.loads((folder / SETTINGS_FILE).read_text())["skipped"])
    seen = NearDuplicates()
    with (folder / ANSWERS_FILE).open(encoding="utf-8") as file:
        for line in tqdm(file, desc="reading answers", unit=" rows", disable=not progress):
            row = json.loads(line)
            example = source[row["row"]]
            if row["answer"] is None:
                counts["source: too long"] += 1
                continue
            if not row["finished"]:
                counts["answer: cut off"] += 1
                continue
            try:
                code_b = read_answer(row["answer"], row["language_b"], example["code"])
            except NoCode as reason:
                counts[f"answer: {reason}"] += 1
                continue
            if not seen.add(code_b):
                counts["answer: near-duplicate"] += 1
                continue
            counts["triples"] += 1
            yield {
                "text": example["text"],
                "code_a": example["code"],
                "code_b": code_b,
                "language_a": language_key(example["language"]),
                "language_b": row["language_b"],
                "repository": example["repository"] or "",
            }
