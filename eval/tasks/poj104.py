"""POJ-104 (Mou et al., 2016; CodeXGLUE's splits, arXiv 2102.04664): programs that solve the same problem.

Every program of the test split is a query, and all other programs are its candidates. The programs of the same
problem are relevant: R = 499 in the published split. Measured by MAP@R.
"""

from collections import defaultdict

from mose.data.retrieval.retrieval_set import RetrievalSet, RetrievalSetError
from mose.eval.tasks.base import HubSource, Task, TaskReader

MEASURES = ("map@r",)


def load(reader: TaskReader) -> list[RetrievalSet]:
    """Return the one set. A problem with a single program is an error, since that query has no answer."""
    codes: dict[str, str] = {}
    solutions: dict[str, list[str]] = defaultdict(list)

    for location, row in reader.rows():
        key, code = str(reader.cell(location, row, "id")), reader.cell(location, row, "program")
        if key in codes:
            raise RetrievalSetError(f"{location}: id {key!r} occurs twice in the programs")
        if not isinstance(code, str):
            raise RetrievalSetError(f"{location}: the program {key!r} must be a string, got {code!r:.60}")
        codes[key] = code
        solutions[str(reader.cell(location, row, "problem"))].append(key)

    if not codes:
        raise RetrievalSetError(f"{reader.name}: the programs are empty")
    for label, keys in solutions.items():
        if len(keys) == 1:
            raise RetrievalSetError(
                f"{reader.name}: problem {label!r} must have two programs, has only {keys[0]!r}"
            )

    # All queries of a problem share one dictionary: 12,000 of 499 entries each would take gigabytes.
    qrels = {key: grades for keys in solutions.values() for grades in [dict.fromkeys(keys, 1)] for key in keys}
    ids, texts, languages = tuple(codes), tuple(codes.values()), ("cpp",) * len(codes)
    return [RetrievalSet(reader.name, ids, texts, languages, ids, texts, languages, qrels, True, MEASURES)]


TASK = Task(
    name="poj104",
    title="program → programs that solve the same problem, C and C++",
    source=HubSource(
        "google/code_x_glue_cc_clone_detection_poj104",
        "main",
        columns={"id": ("index", "id"), "program": ("code",), "problem": ("label",)},
    ),
    layout="test.jsonl with index (or id), code and label (as CodeXGLUE's script writes it), or a clone of the "
    "Hub dataset",
    load=load,
    size="12,000 → 11,999 each",
    measures=MEASURES,
    paper={"map@r": {"best": 0.759}},
    note="The paper calls the measure mAP.",
    hub_note="Reads the dataset's main branch: of its commit only the beginning, 701869d, is known here.",
)
