"""Any retrieval set in the BEIR layout, from a local folder."""

from mose.data.retrieval.retrieval_set import RetrievalSet, load_retrieval_set
from mose.eval.tasks.base import Task, TaskReader


def load(reader: TaskReader) -> list[RetrievalSet]:
    """Return the one set, named after the folder."""
    if reader.folder is None:
        raise FileNotFoundError(f"{reader.name} has no dataset of its own. Name one with --data.")
    return [load_retrieval_set(reader.folder, reader.split)]


TASK = Task(
    name="beir",
    title="your own set: text or code → documents",
    source=None,
    layout="corpus.jsonl, queries.jsonl and qrels.tsv or qrels/test.tsv; `retrieval --data` takes Hub ids too",
    load=load,
    size="as it is",
)
