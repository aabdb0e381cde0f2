"""The page: a query, and a column for each exit."""

from collections.abc import Mapping
from pathlib import Path

import gradio

from mose.demo.exits import answer_html, open_exits, search_exits
from mose.search import Index
from mose.utils.locations import package_folder

#: Queries to start from, about this package.
EXAMPLES = ("retry when the Hub is busy", "how is a prompt chosen for a language", "write a file in one step")
_ABOUT = """# One model, several exits
Each column answers the same query with more blocks of the model. Exit 0 runs none: it looks tokens up.
"""


def build_demo(indexes: Mapping[int, Index]) -> gradio.Blocks:
    """Return the page for indexes by exit, from `mose.demo.exits.open_exits`."""

    def answer(query: str, top_k: float) -> list[str]:
        if not query.strip():
            return ["<p>Describe what the code does.</p>" for _ in indexes]
        answers = search_exits(indexes, query, int(top_k))
        first = next(iter(answers.values())).hits
        return [answer_html(exit_layer, one, first) for exit_layer, one in answers.items()]

    with gradio.Blocks(title="MoSE: one query at each exit", analytics_enabled=False) as page:
        gradio.Markdown(_ABOUT)
        query = gradio.Textbox(label="What should the code do?", value=EXAMPLES[0], max_lines=1)
        top_k = gradio.Slider(1, 10, value=3, step=1, label="hits")
        gradio.Examples([[example] for example in EXAMPLES], query)
        with gradio.Row():
            columns = [gradio.HTML(min_height=200) for _ in indexes]
        for event in (page.load, query.submit, top_k.release):
            event(answer, [query, top_k], columns, api_name="search" if event == query.submit else False)
    return page


def shipped_demo(tree: Path | None = None) -> gradio.Blocks:
    """Return the page for the shipped model, on this package's own code unless another tree is named."""
    return build_demo(open_exits(tree or package_folder(), str(package_folder())))
