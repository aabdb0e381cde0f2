import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare
from torch.utils.data import DataLoader

from mose.data.pretraining.masking import MLMCollator

SPECIALS = 4  # pad, sep, cls and mask are 0 to 3


def make_examples(n=200, longest=120, seed=0):
    rng = np.random.default_rng(seed)
    examples = []
    for index in range(n):
        body = rng.integers(SPECIALS, 300, size=rng.integers(1, longest)).tolist()
        middle = len(body) // 2
        ids = [1, *body[:middle], 1, *body[middle:], 2]
        examples.append(
            {"input_ids": ids, "context_label": int(rng.integers(2)), "index": index, "language": "c"}
        )
    return examples


def originals(examples, batch, side="left"):
    """The ids before masking, padded as the batch is."""
    length = batch["input_ids"].shape[1]
    rows = []
    for example in examples:
        pad = [0] * (length - len(example["input_ids"]))
        rows.append([*pad, *example["input_ids"]] if side == "left" else [*example["input_ids"], *pad])
    return torch.tensor(rows)


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_rates_are_those_of_bert_by_exact_bounds(tiny_tokenizer, probability):
    examples = make_examples(600)
    batch = MLMCollator(tiny_tokenizer, probability)(examples)
    before, after, labels = (
        originals(examples, batch, tiny_tokenizer.padding_side),
        batch["input_ids"],
        batch["labels"],
    )
    real = before >= SPECIALS
    chosen = labels != -100
    total, n = int(real.sum()), int(chosen.sum())
    assert total > 30_000
    assert binomtest(n, total, probability).pvalue > 1e-3
    masked = after[chosen] == tiny_tokenizer.mask_token_id
    same = after[chosen] == before[chosen]
    assert binomtest(int(masked.sum()), n, 0.8).pvalue > 1e-3
    # A random token is the one that was there once in 316 times.
    ordinary = len(tiny_tokenizer) - SPECIALS
    assert binomtest(int(same.sum()), n, 0.1 + 0.1 / ordinary).pvalue > 1e-3
    assert torch.equal(labels[chosen], before[chosen])
    assert torch.equal(after[~chosen], before[~chosen])


def test_special_tokens_are_neither_chosen_nor_drawn(tiny_tokenizer):
    examples = make_examples(300)
    batch = MLMCollator(tiny_tokenizer, 1.0)(examples)
    before = originals(examples, batch, tiny_tokenizer.padding_side)
    assert torch.equal(batch["labels"] != -100, before >= SPECIALS)
    changed = batch["input_ids"][(batch["input_ids"] != before)]
    drawn = changed[changed != tiny_tokenizer.mask_token_id]
    assert len(drawn) > 1000 and not set(drawn.tolist()) & {0, 1, 2}
    # Every other token is drawn as often.
    counts = np.bincount(drawn.numpy(), minlength=len(tiny_tokenizer))[SPECIALS:]
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_the_tokenizers(tiny_tokenizer, side, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "padding_side", side)
    examples = make_examples(20)
    batch = MLMCollator(tiny_tokenizer)(examples)
    expected = tiny_tokenizer.pad(
        {"input_ids": [example["input_ids"] for example in examples]},
        return_tensors="pt",
    )
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    hidden = batch["labels"] != -100
    restored = torch.where(hidden, batch["labels"], batch["input_ids"])
    assert torch.equal(restored, expected["input_ids"])
    assert batch["context_labels"].tolist() == [example["context_label"] for example in examples]
    assert all(values.dtype == torch.int64 for values in batch.values())


def rows_of(batch):
    """Each example's masked ids and labels, without padding."""
    return [
        (ids[mask.bool()].tolist(), labels[mask.bool()].tolist())
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]


def test_masks_depend_on_the_example_its_number_and_the_seed_alone(tiny_tokenizer):
    examples = make_examples(24)
    collator = MLMCollator(tiny_tokenizer)
    state = torch.get_rng_state()
    whole = rows_of(collator(examples))
    assert torch.equal(torch.get_rng_state(), state)
    for workers, size in ((0, 5), (2, 3)):
        loader = DataLoader(examples, batch_size=size, collate_fn=collator, num_workers=workers)
        assert [row for batch in loader for row in rows_of(batch)] == whole
    assert rows_of(MLMCollator(tiny_tokenizer, seed=1)(examples)) != whole
    later = [{**example, "index": example["index"] + 24} for example in examples]
    assert rows_of(collator(later)) != whole  # another pass hides other tokens of the same text


def test_bad_batches_and_arguments_are_named(tiny_tokenizer):
    collator = MLMCollator(tiny_tokenizer)
    assert "context_labels" not in collator([{"input_ids": [1, 7, 2]}])
    with pytest.raises(ValueError, match="The batch is empty"):
        collator([])
    with pytest.raises(ValueError, match="must have a context_label, got 1 of 2"):
        collator([{"input_ids": [1, 7, 2], "context_label": 1}, {"input_ids": [1, 7, 2]}])
    with pytest.raises(
        ValueError, match=rf"token ids must be in \[0, {len(tiny_tokenizer)}\), got ids from 1 to 999"
    ):
        collator([{"input_ids": [1, 999, 2]}])
    with pytest.raises(ValueError, match=r"mlm_probability must be in \(0, 1\], got 0"):
        MLMCollator(tiny_tokenizer, 0.0)

    class Lacking:
        pad_token_id = sep_token_id = cls_token_id = 0
        mask_token_id = None

    with pytest.raises(ValueError, match="no mask token"):
        MLMCollator(Lacking())
