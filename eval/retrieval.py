"""Retrieval at every exit beside peers: quality on every set, speed on the first."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mose.eval import metrics, speed
from mose.eval.beir import UNNAMED_CODE, RetrievalSet, is_hub_id
from mose.eval.encoding import encode, wanted_exits
from mose.eval.peers import Peer, SentenceTransformerPeer
from mose.tokenization.prompts import code_prompt, text_prompt

#: What a `language` column says of natural language. Anything else names a programming language.
NATURAL = frozenset({"en", "english", "text", "nl", "natural language"})


def load_model(
    source: str, exit_layers: Sequence[int] | None = None, device: str | None = None
) -> tuple[Any, Any, tuple[int, ...]]:
    """A MoSE in float32, as deep as the wanted exits need, and its tokenizer.

    Args:
        source: a folder or a Hub id.
        exit_layers: the wanted exits; None means all.
        device: where to put it; None means a GPU where there is one.

    Returns:
        model, tokenizer, the wanted exits.

    Raises:
        ValueError: no MoSE, or an exit that it does not have; found before any weights are read.
        OSError: nothing to load there.
    """
    from transformers import AutoModel, AutoTokenizer

    wanted = find_exits(source, exit_layers)
    model = AutoModel.from_pretrained(source, trust_remote_code=True, exit_layer=wanted[-1], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
    return model.to(device or default_device()).eval(), tokenizer, wanted


def find_exits(source: str, exit_layers: Sequence[int] | None) -> tuple[int, ...]:
    """The wanted exits of the MoSE at `source`, from its configuration alone.

    Raises:
        ValueError: no MoSE, or an exit that it does not have.
        OSError: nothing to load there.
    """
    from transformers import AutoConfig

    if not Path(source).is_dir() and not is_hub_id(source):
        raise FileNotFoundError("no such folder, and not the id of a Hub model (owner/name)")
    config = AutoConfig.from_pretrained(source, trust_remote_code=True)
    if not getattr(config, "exit_layers", None):
        raise ValueError(f"a {config.model_type!r} model has no exits; it can only be a peer")
    return wanted_exits(config, exit_layers)


def default_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def prompt_for(language: str, query: bool) -> str:
    """The instruction for a query or a document in that language.

    Without a language, a query is taken for text and a document for code.
    """
    if language.strip().lower() in NATURAL or (query and not language.strip()):
        return text_prompt()
    return code_prompt("" if language == UNNAMED_CODE else language)


def _prompts(languages: Sequence[str], query: bool) -> list[str]:
    return [prompt_for(language, query) for language in languages]


def evaluate(
    model: Any,
    tokenizer: Any,
    sets: Iterable[RetrievalSet],
    exit_layers: Sequence[int] | None = None,
    peers: Iterable[Peer] = (),
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    measure_speed: bool = True,
    progress: bool = False,
) -> dict[str, Any]:
    """Quality per set and exit, and speed per exit.

    Quality takes one pass for all exits. Speed is measured one exit at a time, on a sample of the first set,
    for sentence-transformers peers with the same sample, compute type and threads.

    Args:
        model, tokenizer: as `load_model` gives them.
        sets: at least one; names must differ.
        exit_layers: None means all that the model has built.
        peers: see `load_peer`; names must differ from each other and from the exits.
        max_length: tokens after which a text is cut off.
        dtype: compute type, by autocast; None means the type of the weights.
        measure_speed: without it, "speed" is empty.
        progress: show bars on stderr.

    Returns:
        `{"sets": {name: {"queries", "documents", "exits": {exit: metrics}, "peers": {name: metrics}}},
        "speed": {exit or peer: {"snippets_per_second", "query_ms_p50"}}}`, keys all strings, ready for JSON.
        Metrics are the set's `measures`: `mrr`, `ndcg@10`, `recall@1` and `recall@10` if it asks for nothing
        else, over the whole corpus.

    Raises:
        ValueError: no sets, doubled names, an exit that the model does not have.
    """
    sets, peers = list(sets), list(peers)
    exits = wanted_exits(model.config, exit_layers)
    if not sets:
        raise ValueError("no sets to evaluate on")
    _check_distinct("sets", [data.name for data in sets])
    _check_distinct("rows", [*map(str, exits), *(peer.name for peer in peers)])

    def embed(texts: Sequence[str], prompts: str | list[str], at: Sequence[int], bar: bool = False):
        return encode(model, tokenizer, texts, at, prompts, max_length, dtype=dtype, progress=bar)

    report: dict[str, Any] = {"sets": {}, "speed": {}}
    for data in sets:
        documents = embed(data.documents, _prompts(data.document_languages, False), exits, progress)
        queries = embed(data.queries, _prompts(data.query_languages, True), exits, progress)
        report["sets"][data.name] = {
            "queries": len(data.queries),
            "documents": len(data.documents),
            "exits": {str(k): score(data, metrics.score_blocks(queries[k], documents[k])) for k in exits},
            "peers": {peer.name: score(data, peer.scores(data, progress)) for peer in peers},
        }
    if measure_speed:
        first = sets[0]
        # One prompt for the whole sample: prompts of two languages differ by a token at most.
        of_documents = prompt_for(first.document_languages[0], query=False)
        of_queries = prompt_for(first.query_languages[0], query=True)
        encoders: dict[str, tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]] = {
            str(k): (partial(embed, prompts=of_documents, at=[k]), partial(embed, prompts=of_queries, at=[k]))
            for k in exits
        }
        encoders |= {
            peer.name: (peer.encode_documents, peer.encode_queries)
            for peer in peers
            if isinstance(peer, SentenceTransformerPeer)
        }
        for name, (of_document, of_query) in encoders.items():
            report["speed"][name] = speed.measure(of_document, of_query, first.documents, first.queries)
    return report


def score(data: RetrievalSet, blocks: Iterable[np.ndarray]) -> dict[str, float]:
    """The set's measures of one ranking, given its scores in blocks of consecutive queries."""
    found, grades = judged_ranks(data, blocks)
    return metrics.summary(found, grades, data.measures)


def judged_ranks(data: RetrievalSet, blocks: Iterable[np.ndarray]) -> tuple[list[np.ndarray], list[list[int]]]:
    """Per query, the ranks and the grades of its relevant documents, in the same order."""
    column = {document: at for at, document in enumerate(data.document_ids)}
    judged = [data.qrels[query] for query in data.query_ids]
    if data.exclude_own:
        blocks = metrics.without_own(blocks, [column.get(query) for query in data.query_ids])
        judged = [
            {document: grade for document, grade in grades.items() if document != query}
            for query, grades in zip(data.query_ids, judged, strict=True)
        ]
    relevant = [[column[document] for document in grades] for grades in judged]
    found = metrics.ranks(blocks, relevant, data.document_ids)
    return found, [list(grades.values()) for grades in judged]


def _check_distinct(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {what} of the report would be called {name!r}")
