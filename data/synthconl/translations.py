"""The translations of a build: planned, made in batches, and stored so that a killed build resumes.

    FOLDER/
      plan.json   settings and digest of the source, counts of its skipped rows, and the jobs
      answers/    the model's answers, one chunk for each batch (`mose.utils.journal`)

Plan and answers depend on the source and the model only. They are judged at the end, all at once (`answers.py`,
near-duplicates): a build that was killed ends like one that was not.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm import tqdm

from mose.data.source.near_duplicates import NearDuplicates
from mose.data.synthconl.answers import NoCodeError, read_answer
from mose.data.synthconl.plan import Job, choose_jobs, digest_source, language_key
from mose.data.synthconl.translator import Translator
from mose.utils.files import atomic_write_json
from mose.utils.journal import SUFFIX, Journal

PLAN_FILE, ANSWERS_FOLDER = "plan.json", "answers"


@dataclass(frozen=True)
class Settings:
    """Settings of a build, which must not change when it is resumed.

    Each field is the option of `mose synthconl build` with its name.

    Raises:
        ValueError: a number is out of its range.
    """

    model: str
    batch_size: int = 32
    max_new_tokens: int = 1024
    max_prompt_tokens: int = 2048
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name in ("batch_size", "max_new_tokens", "max_prompt_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0 and finite, got {self.temperature}.")


class Translations:
    """The jobs of a build, and the answers that are stored so far.

    `source` has the pairs, as `mose.data.synthconl.plan.load_source` returns them.

    Raises:
        ValueError: the folder has a build of another source or with other settings, or there is nothing to
            translate.
    """

    def __init__(self, folder: Path, source: Dataset, settings: Settings, progress: bool = False):
        self.folder, self.source, self.settings = folder, source, settings
        identity = {**asdict(settings), "source": digest_source(source), "rows": len(source)}
        self._journal = Journal(folder / ANSWERS_FOLDER, json.dumps(identity, sort_keys=True))
        plan = self._open_plan(identity, progress)
        self.jobs, self._skipped = [Job(*job) for job in plan["jobs"]], plan["skipped"]

        size = settings.batch_size
        self._batches = {
            f"{number:07d}": self.jobs[start : start + size]
            for number, start in enumerate(range(0, len(self.jobs), size))
        }

    @property
    def missing(self) -> list[str]:
        """The keys of the batches without stored answers."""
        return sorted(self._batches.keys() - set(self._journal.keys()))

    def translate(self, translator: Translator, progress: bool = False) -> None:
        """Translate the missing batches, and store each one's answers before the next.

        Batches are the same however often a build is interrupted. The texts that share a batch with another one
        can change the last digits of its logits.
        """
        missing = self.missing
        answered = len(self.jobs) - sum(len(self._batches[key]) for key in missing)
        with tqdm(
            total=len(self.jobs), initial=answered, desc="translating", unit=" rows", disable=not progress
        ) as bar:
            for key in missing:
                answers = self._translate_batch(self._batches[key], translator, int(key))
                with self._journal.write(key) as stream:
                    stream.write(json.dumps(answers).encode())
                bar.update(len(answers))

    def triples(self, counts: Counter[str], progress: bool = False) -> Iterator[Mapping[str, str]]:
        """Yield the triples of a build whose answers are complete.

        `counts` is updated with the number of rows skipped for each reason, and of `triples`.

        Yields:
            `text`, `code_a`, `code_b`, `language_a`, `language_b` and `repository`. No two codes B are
            near-duplicates (Jaccard 0.7, 256 permutations, character 5-grams), and neither are two codes A.
        """
        counts.update(self._skipped)
        unique = NearDuplicates()

        for job, answer in tqdm(
            self.answers(), total=len(self.jobs), desc="reading answers", unit=" rows", disable=not progress
        ):
            example = self.source[job.row]
            try:
                code_b = _usable_code(answer, job.language_b, example["code"])
                if not unique.add(code_b):
                    raise NoCodeError("answer: near-duplicate")
            except NoCodeError as reason:
                counts[str(reason)] += 1
                continue

            counts["triples"] += 1
            yield {
                "text": example["text"],
                "code_a": example["code"],
                "code_b": code_b,
                "language_a": language_key(example["language"]),
                "language_b": job.language_b,
                "repository": example["repository"] or "",
            }

    def answers(self) -> Iterator[tuple[Job, dict[str, Any] | None]]:
        """Yield each job with its answer, `text` and `finished`, or None if its prompt is too long."""
        for key, batch in self._batches.items():
            yield from zip(batch, json.loads(self._journal.read(key)), strict=True)

    def _open_plan(self, identity: Mapping[str, Any], progress: bool) -> dict[str, Any]:
        path = self.folder / PLAN_FILE
        # Without answers there is nothing to lose, and a plan is made anew.
        if path.is_file() and any((self.folder / ANSWERS_FOLDER).glob(f"*{SUFFIX}")):
            plan = json.loads(path.read_text())
            for name, value in identity.items():
                if (existing := plan["settings"].get(name)) != value:
                    raise ValueError(
                        f"{self.folder} has a build with {name}={existing!r}, got {value!r}. "
                        "Choose another folder, or resume with the same settings."
                    )
            return plan

        skipped: Counter[str] = Counter()
        jobs = list(choose_jobs(self.source, self.settings.seed, skipped, progress))
        if not jobs:
            raise ValueError(f"nothing to translate: all {len(self.source)} rows are skipped: {dict(skipped)}")

        self.folder.mkdir(parents=True, exist_ok=True)
        plan = {"settings": identity, "skipped": skipped, "jobs": [(job.row, job.language_b) for job in jobs]}
        atomic_write_json(path, plan, indent=None)
        return plan

    def _translate_batch(
        self, batch: Sequence[Job], translator: Translator, number: int
    ) -> list[dict[str, Any] | None]:
        prompts = []
        for job in batch:
            example = self.source[job.row]
            prompts.append(translator.prompt(example["code"], language_key(example["language"]), job.language_b))

        answers: list[dict[str, Any] | None] = [None] * len(batch)
        short = [
            i for i, text in enumerate(prompts) if translator.length(text) <= self.settings.max_prompt_tokens
        ]
        if short:
            seed = self.settings.seed * 1_000_003 + number
            languages = [batch[i].language_b for i in short]
            translated = translator.translate([prompts[i] for i in short], languages, seed)
            for i, answer in zip(short, translated, strict=True):
                answers[i] = asdict(answer)

        return answers


def _usable_code(answer: Mapping[str, Any] | None, language: str, source: str) -> str:
    """Return the code in an answer; raise `NoCodeError` with the reason under which it is counted."""
    if answer is None:
        raise NoCodeError("source: too long")
    if not answer["finished"]:
        raise NoCodeError("answer: cut off")
    try:
        return read_answer(answer["text"], language, source)
    except NoCodeError as reason:
        raise NoCodeError(f"answer: {reason}") from reason
