import numpy as np
import pytest
import torch

mteb = pytest.importorskip("mteb", reason="the optional dependency mteb is not installed")

from mteb._evaluators import retrieval_metrics  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from mose.data.retrieval.retrieval_set import RetrievalSet, load_retrieval_set  # noqa: E402
from mose.eval.mteb import COIR, MoSEEncoder, local_task, text_language  # noqa: E402
from mose.eval.retrieval import evaluate  # noqa: E402
from mose.inference.encoding import encode  # noqa: E402
from mose.tokenization.prompts import code_prompt, text_prompt  # noqa: E402

LANGUAGES = ("eng-Latn", "python-Code")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Thirty functions and twelve questions, some with several graded answers, from a BEIR folder."""
    import json

    folder = tmp_path_factory.mktemp("numbers")
    generator = np.random.default_rng(0)
    documents = [f"def f{i}(x):\n    return x * {i} + {i % 7}" for i in range(30)]
    queries = [f"multiply by {i} and add {i % 7}" for i in range(12)]
    for name, texts, kind in (("corpus", documents, "python"), ("queries", queries, "en")):
        rows = [{"_id": f"{name[0]}{i}", "text": text, "language": kind} for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    grades = [
        (f"q{i}", f"c{d}", g) for i in range(12) for d in {i, *generator.integers(0, 30, 2)} for g in [1 + d % 2]
    ]
    (folder / "qrels.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in grades))
    return load_retrieval_set(folder)


def run(encoder, task, monkeypatch):
    """MTEB's scores, without the rounding to five digits that it ends with."""
    monkeypatch.setattr(
        retrieval_metrics, "round", lambda value, digits=0: value if digits else round(value), raising=False
    )
    results = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return results.task_results[0].scores["test"][0]


@pytest.mark.slow
@pytest.mark.parametrize("exit_layer", [0, 1, 3])
def test_mteb_measures_what_we_measure(exit_layer, data, model, tokenizer, model_folder, monkeypatch):
    expected = evaluate(model, tokenizer, [data], [exit_layer], measure_speed=False, certainty=False)
    expected = expected["sets"][data.name]["exits"][str(exit_layer)]
    encoder = MoSEEncoder(str(model_folder), exit_layer=exit_layer, device="cpu")
    result = run(encoder, local_task(data, LANGUAGES), monkeypatch)
    assert result["ndcg_at_10"] == pytest.approx(expected["ndcg@10"], abs=1e-6)
    assert result["recall_at_10"] == pytest.approx(expected["recall@10"], abs=1e-6)
    assert result["main_score"] == result["ndcg_at_10"] < 1


def test_each_exit_has_results_of_its_own(model_folder):
    shallow, deepest = (MoSEEncoder(str(model_folder), exit_layer=k, device="cpu") for k in (1, None))
    assert (shallow.exit_layer, deepest.exit_layer) == (1, 3)
    assert len(shallow.model.layers) == 1  # nothing deeper is built
    names = [encoder.mteb_model_meta.experiment_name for encoder in (shallow, deepest)]
    assert len(set(names)) == 2 and "1" in names[0]
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 3, got 2"):
        MoSEEncoder(str(model_folder), exit_layer=2)


def test_the_caller_s_prompts_come_first(data, model, tokenizer, model_folder):
    metadata = local_task(data, LANGUAGES).metadata
    prompts = {"query": "Q: ", f"{data.name}-document": "D: "}
    encoder = MoSEEncoder(str(model_folder), exit_layer=1, device="cpu", prompts=prompts)
    for kind, prompt in ((PromptType.query, "Q: "), (PromptType.document, "D: ")):
        result = encoder.encode(
            torch.utils.data.DataLoader([{"text": "add"}, {"text": "subtract them"}], batch_size=2),
            task_metadata=metadata,
            hf_split="test",
            hf_subset="default",
            prompt_type=kind,
        )
        expected = encode(model, tokenizer, ["add", "subtract them"], [1], prompt)[1]
        np.testing.assert_allclose(result, expected, atol=1e-6)
    plain = MoSEEncoder(str(model_folder), exit_layer=1, device="cpu")
    assert plain.prompt(metadata, "default", PromptType.query) == text_prompt()
    assert plain.prompt(metadata, "default", PromptType.document) == code_prompt("python")


@pytest.mark.parametrize(
    ("task", "subset", "of_query", "of_document"),
    [
        ("CosQA", "default", "en", "python"),
        ("COIRCodeSearchNetRetrieval", "go", "go", "en"),
        ("CodeSearchNetCCRetrieval", "php", "php", "php"),
        ("StackOverflowQA", "default", "en", "en"),
        ("CodeSearchNetRetrieval", "ruby", "en", "ruby"),  # not of CoIR: by the task's languages
        ("ArguAna", "default", "en", "en"),
    ],
)
def test_the_task_says_what_is_text_and_what_is_code(task, subset, of_query, of_document):
    metadata = mteb.get_task(task).metadata
    assert text_language(metadata, subset, PromptType.query) == of_query
    assert text_language(metadata, subset, PromptType.document) == of_document


def test_the_pinned_datasets_are_those_of_mteb():
    from mose.eval.tasks.coir import ENTRIES, SOURCES

    assert sorted(COIR.values()) == sorted(ENTRIES) == sorted(SOURCES)
    for name, ours in COIR.items():
        dataset = mteb.get_task(name).metadata.dataset
        assert (dataset["path"], dataset["revision"]) == SOURCES[ours]


def test_a_query_that_is_a_document_is_left_out_as_we_leave_it_out(
    data, model, tokenizer, model_folder, monkeypatch
):
    """Each query is in the corpus under its own id and would rank first."""
    ids = (*data.document_ids, *data.query_ids)
    texts = (*data.documents, *data.queries)
    joined = RetrievalSet(
        "joined",
        ids,
        texts,
        ("python",) * len(ids),
        data.query_ids,
        data.queries,
        data.query_languages,
        {query: {**grades, query: 1} for query, grades in data.qrels.items()},  # and is judged to answer itself
        exclude_own=True,
    )
    expected = evaluate(model, tokenizer, [joined], [1], measure_speed=False, certainty=False)
    result = run(
        MoSEEncoder(str(model_folder), exit_layer=1, device="cpu"), local_task(joined, LANGUAGES), monkeypatch
    )
    assert result["ndcg_at_10"] == pytest.approx(expected["sets"]["joined"]["exits"]["1"]["ndcg@10"], abs=1e-6)
