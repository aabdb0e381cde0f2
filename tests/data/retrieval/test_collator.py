from itertools import product

import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mose.data.retrieval.collator import PairCollator
from mose.tokenization.prompts import code_prompt, text_prompt

TEXT_PROMPT = "Represent this code description for retrieving supporting snippets of code:<sep>"
PYTHON_PROMPT = "Represent this Python code snippet for retrieval:<sep>"


def row(query="Add two numbers.", document="def add(a, b): return a + b", language="python", index=0):
    return {
        **{"query": query, "query_language": "", "document": document, "document_language": language},
        **{"repository": "r", "index": index},
    }


def decoded(tokenizer, batch, side):
    return [
        tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], strict=True)
    ]


def test_each_side_stands_behind_its_instruction(tiny_tokenizer):
    batch = PairCollator(tiny_tokenizer)([row(), row(query="Sum.", language="")])
    parts = ("input_ids", "attention_mask", "key")
    assert set(batch) == {f"{side}_{part}" for side, part in product(("query", "document"), parts)}
    assert decoded(tiny_tokenizer, batch, "query") == [
        f"<sep>{TEXT_PROMPT}Add two numbers.<cls>",
        f"<sep>{TEXT_PROMPT}Sum.<cls>",
    ]
    assert decoded(tiny_tokenizer, batch, "document") == [
        f"<sep>{PYTHON_PROMPT}def add(a, b): return a + b<cls>",
        "<sep>Represent this code snippet for retrieval:<sep>def add(a, b): return a + b<cls>",
    ]
    for name, tensor in batch.items():
        assert tensor.dtype == torch.int64 and tensor.shape[0] == 2
        if name.endswith("ids"):
            assert torch.equal(tensor == 0, batch[name.replace("input_ids", "attention_mask")] == 0)


def test_code_queries_get_the_instruction_of_code(tiny_tokenizer):
    batch = PairCollator(tiny_tokenizer)([row() | {"query": "x = 1", "query_language": "go"}])
    assert decoded(tiny_tokenizer, batch, "query") == [f"<sep>{code_prompt('go')}x = 1<cls>"]


def test_each_side_has_its_length_and_keeps_its_end(tiny_tokenizer):
    collator = PairCollator(tiny_tokenizer, max_query_length=90, max_document_length=60, token_dropout=0.3)
    batch = collator([row(query="word " * 500, document="x = y\n" * 500), row()])
    assert batch["query_input_ids"].shape[1] <= 90 and batch["document_input_ids"].shape[1] <= 60
    for side in ("query", "document"):
        for ids, mask in zip(batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], strict=True):
            assert ids[mask.bool()][-1] == tiny_tokenizer.cls_token_id
            assert ids[mask.bool()][0] == tiny_tokenizer.sep_token_id


def test_columns_are_kept_by_name(tiny_tokenizer):
    batch = PairCollator(tiny_tokenizer, keep=("index",))([row(index=7), row(index=3)])
    assert torch.equal(batch["index"], torch.tensor([7, 3]))


@pytest.mark.slow
def test_instructions_are_dropped_at_the_rate_asked_for(tiny_tokenizer):
    collator = PairCollator(tiny_tokenizer, instruction_dropout=0.6)
    batch = collator([row(index=i) for i in range(2000)])
    heads = [text.split("def add")[0] for text in decoded(tiny_tokenizer, batch, "document")]
    rates = {head: heads.count(head) / 2000 for head in set(heads)}
    assert rates == pytest.approx(
        {"<sep>": 0.3, f"<sep>{code_prompt()}": 0.3, f"<sep>{PYTHON_PROMPT}": 0.4}, abs=0.04
    )
    heads = [text.split("Add two")[0] for text in decoded(tiny_tokenizer, batch, "query")]
    assert heads.count("<sep>") / 2000 == pytest.approx(0.3, abs=0.04)
    assert set(heads) == {"<sep>", f"<sep>{text_prompt()}"}


def test_tokens_are_dropped_at_the_rate_asked_for(tiny_tokenizer):
    document = " ".join(f"name{i}" for i in range(200))
    rows = [row(document=document)] * 20
    lengths = {}
    for rate in (0.0, 0.25):
        collator = PairCollator(tiny_tokenizer, max_document_length=5000, token_dropout=rate)
        lengths[rate] = collator(rows)["document_attention_mask"].sum().item() / 20
    untouched = len(tiny_tokenizer(PYTHON_PROMPT)["input_ids"])
    assert (lengths[0.25] - untouched) / (lengths[0.0] - untouched) == pytest.approx(0.75, abs=0.02)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    document=st.text(min_size=1, max_size=40),
    dropout=st.sampled_from([0.0, 0.5, 1.0]),
    instruction=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 9),
)
def test_dropout_spares_instructions_special_tokens_and_one_token(
    tiny_tokenizer, document, dropout, instruction, seed
):
    def ids(token_dropout):
        collator = PairCollator(
            tiny_tokenizer,
            max_document_length=1000,
            instruction_dropout=instruction,
            token_dropout=token_dropout,
            seed=seed,
        )
        return collator([row(document=document)])["document_input_ids"][0].tolist()

    whole, kept = ids(0.0), ids(dropout)
    snippet = tiny_tokenizer(document)["input_ids"]
    instruction_ids, end = whole[: len(whole) - len(snippet) + 1], whole[-1:]
    assert kept[: len(instruction_ids)] == instruction_ids and kept[-1:] == end
    remaining = iter(whole)
    assert all(token in remaining for token in kept)  # a subsequence
    assert len(kept) > len(instruction_ids) + 1
    if dropout == 0.0:
        assert kept == whole
    if dropout == 1.0:
        assert len(kept) == len(instruction_ids) + 2


def test_random_choices_depend_on_seed_and_batch_alone(tiny_tokenizer):
    rows = [row(query=f"Add the numbers {i} and {i + 1}.", index=i) for i in range(24)]
    collator = PairCollator(tiny_tokenizer, instruction_dropout=0.5, token_dropout=0.5, keep=("index",))

    def batches(workers: int) -> list[dict[str, torch.Tensor]]:
        torch.manual_seed(workers)
        return list(DataLoader(Dataset.from_list(rows), batch_size=8, collate_fn=collator, num_workers=workers))

    for ours, theirs in zip(batches(0), batches(2), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    state = torch.get_rng_state()
    one = collator(rows[:8])
    assert torch.equal(torch.get_rng_state(), state)
    other = collator([*rows[:7], rows[9]])
    assert decoded(tiny_tokenizer, one, "query")[:7] != decoded(tiny_tokenizer, other, "query")[:7]
    reseeded = PairCollator(tiny_tokenizer, instruction_dropout=0.5, token_dropout=0.5, seed=1)(rows[:8])
    assert decoded(tiny_tokenizer, one, "query") != decoded(tiny_tokenizer, reseeded, "query")


def test_bad_batches_and_arguments_are_named(tiny_tokenizer):
    with pytest.raises(ValueError, match="The batch is empty"):
        PairCollator(tiny_tokenizer)([])
    with pytest.raises(ValueError, match="rows must have document_language, weight; they have query"):
        rows = [{"query": "a", "query_language": "", "document": "b"}]
        PairCollator(tiny_tokenizer, keep=("weight",))(rows)
    with pytest.raises(ValueError, match="token_dropout must be .* got 1.5"):
        PairCollator(tiny_tokenizer, token_dropout=1.5)
    with pytest.raises(ValueError, match="max_query_length must be .*got 2"):
        PairCollator(tiny_tokenizer, max_query_length=2)
    taken = len(tiny_tokenizer(text_prompt())["input_ids"])  # here the longest
    shortest = PairCollator(tiny_tokenizer, max_query_length=taken + 1)([row()])
    assert shortest["query_input_ids"].shape[1] == taken + 1
    with pytest.raises(ValueError, match=f"max_query_length must be above {taken}, .*; got {taken}"):
        PairCollator(tiny_tokenizer, max_query_length=taken)
    with pytest.raises(ValueError, match="max_document_length must be above .*; got 10"):
        PairCollator(tiny_tokenizer, max_document_length=10)


def test_keys_are_alike_where_texts_are_but_for_white_space(tiny_tokenizer):
    rows = [row(query="a  b", document="x"), row(query="a\tb\n", document="a b"), row(query="ab", document="X")]
    batch = PairCollator(tiny_tokenizer)(rows)
    (first, second, third), documents = batch["query_key"].tolist(), batch["document_key"].tolist()
    assert first == second == documents[1]
    assert len({first, third, documents[0], documents[2]}) == 4
    assert min(first, third, *documents) >= 0


def test_hard_negatives_are_those_that_there_are(tiny_tokenizer):
    rows = [row() | {"negative": text} for text in ("x = 1", "", None, "y = 2")]
    batch = PairCollator(tiny_tokenizer)(rows)
    assert decoded(tiny_tokenizer, batch, "negative") == [
        f"<sep>{PYTHON_PROMPT}x = 1<cls>",
        f"<sep>{PYTHON_PROMPT}y = 2<cls>",
    ]
    assert batch["negative_key"].shape == (2,)
    nothing = PairCollator(tiny_tokenizer)([row() | {"negative": ""}] * 2)
    assert nothing["negative_input_ids"].shape[0] == nothing["negative_key"].shape[0] == 0
    assert "negative_key" not in PairCollator(tiny_tokenizer)([row()])
