"""POJ-104 (Mou et al., 2016; CodeXGLUE's splits, arXiv 2102.04664): programs that solve the same problem.

Every program of the test split is a query, all other programs are its candidates, and those of its problem are
relevant: R = 499 in the published split. Measured by MAP@R.
"""

from collections import defaultdict

from mose.data.retrieval.retrieval_set import RetrievalSet, RetrievalSetError
from mose.eval.tasks.base import Location, Source, Task

MEASURES = ("map@r",)


def load(at: Location) -> list[RetrievalSet]:
    """The one set; a problem with a single program is an error, since that query has nothing to find."""
    codes: dict[str, str] = {}
    solved: dict[str, list[str]] = defaultdict(list)
    for where, row in at.rows():
        key, code = str(at.cell(where, row, "id")), at.cell(where, row, "program")
        if key in codes:
            raise RetrievalSetError(f"{where}: id {key!r} stands in the programs twice")
        if not isinstance(code, str):
            raise RetrievalSetError(f"{where}: the program {key!r} must be a string, not {code!r:.60}")
        codes[key] = code
        solved[str(at.cell(where, row, "problem"))].append(key)
    if not codes:
        raise RetrievalSetError(f"{at.name}: the programs are empty")
    for label, keys in solved.items():
        if len(keys) == 1:
            raise RetrievalSetError(f"{at.name}: problem {label!r} has one program alone, {keys[0]!r}")
    # One dictionary for all queries of a problem: 12,000 of 499 entries each would take gigabytes.
    qrels = {key: grades for keys in solved.values() for grades in [dict.fromkeys(keys, 1)] for key in keys}
    ids, texts, languages = tuple(codes), tuple(codes.values()), ("cpp",) * len(codes)
    return [RetrievalSet(at.name, ids, texts, languages, ids, texts, languages, qrels, True, MEASURES)]


TASK = Task(
    name="poj104",
    title="program → programs that solve the same problem, C and C++",
    source=Source(
        "google/code_x_glue_cc_clone_detection_poj104",
        "main",
        "test",
        {"id": ("index", "id"), "program": ("code",), "problem": ("label",)},
    ),
    layout="test.jsonl with index (or id), code and label (as CodeXGLUE's script writes it), or a clone of the "
    "Hub dataset",
    load=load,
    measures=MEASURES,
    size="12,000 → 11,999 each",
    paper={"map@r": {"best": 0.759}},
    note="The paper calls the measure mAP.",
    hub_note="Reads the dataset's main branch: of its commit only the beginning, 701869d, is known here.",
)
