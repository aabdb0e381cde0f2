"""Any retrieval set in the BEIR layout: a folder, or the id of a Hub dataset."""

from mose.data.retrieval.retrieval_set import RetrievalSet, load_retrieval_set
from mose.eval.tasks.base import Location, Task


def load(at: Location) -> list[RetrievalSet]:
    """The one set, under the folder's name."""
    if at.folder is None:
        raise FileNotFoundError(f"{at.name} has no dataset of its own: name one with --data")
    return [load_retrieval_set(at.folder, at.wanted_split)]


TASK = Task(
    name="beir",
    title="your own set: text or code → documents",
    source=None,
    layout="corpus.jsonl, queries.jsonl and qrels.tsv or qrels/test.tsv; `retrieval --data` takes Hub ids too",
    load=load,
    measures=("mrr", "ndcg@10", "recall@1", "recall@10"),
    size="as it is",
)
