#!/usr/bin/env python
"""Tokenize once what the steps of this recipe read: contexts, pairs and evaluation sets.

    python recipes/depth/prepare.py contexts SHARD.jsonl … --tokenizer DIR --output runs/depth/contexts.npz
    python recipes/depth/prepare.py pairs PAIRS.jsonl … --tokenizer DIR --output runs/depth/pairs.npz
    python recipes/depth/prepare.py sets FOLDER … --tokenizer DIR --output runs/depth/sets.npz

Shards have rows with `text`, `repository` and `language`, files of one repository together. Pairs are read as by
`train_hf.py finetune --dataset`. Evaluation sets are in the BEIR layout.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from arrays import Texts, save
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from mose.data.pretraining.contexts import ContextBuilder
from mose.data.retrieval.collator import PairCollator
from mose.data.retrieval.pairs import load_pairs
from mose.tokenization.inputs import input_ids
from mose.tokenization.prompts import code_prompt, text_prompt
from mose.utils.command_line import exit_status

#: Share of the repositories that are held out, in percent.
HELD_OUT = 2
MAX_CONTEXT = 512
#: Longest text of a pair in training, and longest in an evaluation, instruction included.
MAX_TEXT, MAX_EVALUATED = 160, 256


def contexts(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write In-Context Classification contexts: one pass over the shards, a block each."""
    builder = ContextBuilder(tokenizer, MAX_CONTEXT, "icc", options.same_language_intruders)
    parts: dict[bool, list[dict]] = {False: [], True: []}
    for number, shard in enumerate(tqdm(options.inputs, unit="shard")):
        with shard.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        for held_out in (False, True):
            own = [row for row in rows if (zlib.crc32(row["repository"].encode()) % 100 < HELD_OUT) == held_out]
            own.sort(key=lambda row: row["repository"])
            if len({row["repository"] for row in own}) > 1:
                parts[held_out] += builder(own, (options.seed, number, held_out))[:]

    texts = {name: Texts.from_lists(row["input_ids"] for row in parts[name == "held_out"]) for name in NAMES}
    labels = {f"{name}_labels": _labels(parts[name == "held_out"]) for name in NAMES}
    save(options.output, texts, **labels)
    print(json.dumps({name: [len(t.lengths), len(t.ids)] for name, t in texts.items()} | dict(builder.counts)))


NAMES = ("train", "held_out")


def _labels(examples: list[dict]) -> np.ndarray:
    return np.array([example["context_label"] for example in examples], np.uint8)


def pairs(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write pairs as the collator of fine-tuning makes them, and which have code on both sides."""
    rows = load_pairs(datasets=options.inputs)
    collator = PairCollator(tokenizer, MAX_TEXT, MAX_TEXT, word_replacement=0.3, seed=options.seed)
    sides: dict[str, list[list[int]]] = {"query": [], "document": []}
    keys, code_query = [], np.array([bool(language) for language in rows["query_language"]])

    for start in tqdm(range(0, len(rows), 512), unit="batch"):
        batch = collator(rows.select(range(start, min(start + 512, len(rows)))).to_list())
        keys.append(np.stack([batch["query_key"].numpy(), batch["document_key"].numpy()], 1))
        for side, ids in sides.items():
            for row, mask in zip(batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], strict=True):
                ids.append(row[mask.bool()].tolist())

    texts = {side: Texts.from_lists(ids) for side, ids in sides.items()}
    save(options.output, texts, keys=np.concatenate(keys), code_query=code_query)
    print(json.dumps({side: [len(t.lengths), len(t.ids)] for side, t in texts.items()}))


def evaluation_sets(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the queries and documents of evaluation sets, and which document answers which query."""
    texts, columns = {}, {}
    for folder in tqdm(options.inputs, unit="set"):
        rows = {part: list(_json_rows(folder / f"{part}.jsonl")) for part in ("queries", "corpus")}
        for part, part_rows in rows.items():
            languages = [row.get("language", "") for row in part_rows]
            in_code = [part == "corpus" or language not in ("", "en") for language in languages]
            prompts = [
                code_prompt(language) if code else text_prompt()
                for language, code in zip(languages, in_code, strict=True)
            ]
            ids = input_ids(tokenizer, [row["text"] for row in part_rows], prompts, MAX_EVALUATED)
            texts[f"{folder.name}/{part}"] = Texts.from_lists(ids)

        positions = {part: {row["_id"]: i for i, row in enumerate(rows[part])} for part in rows}
        lines = (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]
        relevant = [line.split("\t") for line in lines]
        columns[f"{folder.name}/qrels"] = np.array(
            [(positions["queries"][q], positions["corpus"][d]) for q, d, score in relevant if int(score) > 0]
        )
    save(options.output, texts, **columns)


def _json_rows(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def main() -> int:
    """Run one step and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("contexts", "pairs", "sets"), help="what to tokenize")
    parser.add_argument("inputs", type=Path, nargs="+", help="files of contexts or pairs, or folders of sets")
    parser.add_argument("--tokenizer", required=True, help="folder or Hub id of the tokenizer")
    parser.add_argument("--output", type=Path, required=True, help=".npz file to write")
    parser.add_argument("--same-language-intruders", type=float, default=0.8, help="as in train_hf.py pretrain")
    parser.add_argument("--seed", type=int, default=16, help="seed of layouts, labels and augmentation")
    options = parser.parse_args()

    def run() -> None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.tokenizer)
        {"contexts": contexts, "pairs": pairs, "sets": evaluation_sets}[options.step](options, tokenizer)

    return exit_status(parser.prog, run)


if __name__ == "__main__":
    sys.exit(main())
