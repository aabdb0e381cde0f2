"""The figure of the comparison: one panel for each claim, and the curves of pre-training."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from depth_report import CODE_SETS, EXITS, arm_mean  # noqa: E402
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from mose.configuration_mose import MoSEConfig  # noqa: E402
from mose.eval.costs import flops_per_token  # noqa: E402

ARM_LABELS = {"multi-equal": "all exits, equal weights", "multi": "all exits, depth weights (paper)"}


def draw_comparison(data: dict[str, Any], path: Path) -> None:
    """Write the figure as a PNG."""
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7.4), layout="constrained")
    quality_and_cost(axes[0, 0], data)
    together_or_alone(axes[0, 1], data)
    text_and_code(axes[0, 2], data)
    objectives(axes[1, 0], data)
    by_set(axes[1, 1], data)
    curves(axes[1, 2], data)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def quality_and_cost(axis: Axes, data: dict[str, Any]) -> None:
    """Draw claim 1: quality against the cost of each exit, beside the deep model cut at the same blocks."""
    config = MoSEConfig.from_preset("mose-nano-256", num_hidden_layers=EXITS[-1], exit_layers=list(EXITS))
    deepest = flops_per_token(config, EXITS[-1])
    costs = {e: 100 * flops_per_token(config, e) / deepest for e in EXITS}

    for arm, label in ARM_LABELS.items():
        axis.plot(list(costs.values()), [arm_mean(data, arm, e) for e in EXITS], marker="o", label=label)
    for kind, label in (("cut-distilled", "deep model cut and distilled"), ("cut", "deep model cut")):
        shallow = EXITS[:-1]
        values = [arm_mean(data, f"{kind}-{e}", e) for e in shallow]
        axis.plot([costs[e] for e in shallow], values, marker="s", linestyle=":", label=label)
    axis.set(title="1. Quality and cost", xlabel="FLOPs, % of the deepest exit", ylabel="MRR, mean of the sets")
    axis.legend(fontsize=8)


def together_or_alone(axis: Axes, data: dict[str, Any]) -> None:
    """Draw claim 2: one model for all exits minus one model per exit, with bootstrap intervals."""
    width = 0.2
    chosen = [c for c in data["comparisons"] if "single" in c["second"] and "multi" in c["first"]][:4]
    for number, comparison in enumerate(chosen):
        cells = [comparison["exits"][str(e)] for e in EXITS]

        places = [position + (number - 1.5) * width for position in range(len(EXITS))]
        heights = [cell["over_queries"] for cell in cells]
        spans = [
            [cell["over_queries"] - cell["interval"][0] for cell in cells],
            [cell["interval"][1] - cell["over_queries"] for cell in cells],
        ]

        title = comparison["title"].removeprefix("all exits, ").replace("one model per exit, ", "")
        axis.bar(places, heights, width, yerr=spans, capsize=2, label=title)

    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(EXITS)), [f"exit {e}" for e in EXITS])
    axis.set(title="2. All exits minus one model per exit", ylabel="MRR over all queries, 95 % interval")
    axis.legend(fontsize=6.5)


def text_and_code(axis: Axes, data: dict[str, Any]) -> None:
    """Draw claim 3: text to code and code to code, each relative to its best exit."""
    for code, label in ((False, "text → code"), (True, "code → code")):
        values = [arm_mean(data, "multi-equal", e, code=code) for e in EXITS]
        axis.plot(EXITS, [100 * value / max(values) for value in values], marker="o", label=label)
    axis.set(title="3. Text and code (equal weights)", xlabel="exit", ylabel="MRR, % of the best exit")
    axis.legend(fontsize=8)


def objectives(axis: Axes, data: dict[str, Any]) -> None:
    """Draw claim 4 and the other ingredients: their difference from the plain multi-exit run."""
    chosen = [c for c in data["comparisons"] if c["second"] == "multi" and c["first"] != "scratch-multi"]
    for comparison in chosen:
        values = [comparison["exits"][str(e)]["mean_of_sets"] for e in EXITS]
        axis.plot(EXITS, values, marker="o", label=comparison["title"].removeprefix("all exits: "))
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(title="4. Objectives, against the paper's", xlabel="exit", ylabel="difference in MRR")
    axis.legend(fontsize=7)


def by_set(axis: Axes, data: dict[str, Any]) -> None:
    """Draw claim 5: each set's MRR by exit, relative to the set's best exit."""
    mrr = data["arms"]["multi-equal 40000x1"]["mrr"]
    for name in data["queries"]:
        values = [sum(mrr[str(e)][name]) / len(mrr[str(e)][name]) for e in EXITS]
        style = "--" if name in CODE_SETS else "-"
        axis.plot(EXITS, [100 * value / max(values) for value in values], style, linewidth=1, label=name)
    axis.set(title="5. By set", xlabel="exit", ylabel="MRR, % of the set's best exit")
    axis.legend(fontsize=5.5, ncols=2)


def curves(axis: Axes, data: dict[str, Any]) -> None:
    """Draw held-out MLM accuracy against the tokens of pre-training, by exit."""
    for arm, style in (("all", "-"), ("mlm", ":"), ("deepest", "--")):
        run = data["pretraining"][arm]
        log = [entry for entry in run["log"] if "mlm_accuracies" in entry]
        millions = [entry["step"] * run["tokens"] / run["steps"] / 1e6 for entry in log]
        for e in log[-1]["mlm_accuracies"]:
            colour = f"C{EXITS.index(int(e))}"
            values = [entry["mlm_accuracies"][e] for entry in log]
            axis.plot(millions, values, style, color=colour, label=f"{arm}, exit {e}", linewidth=1)
    axis.set(title="Pre-training", xlabel="million tokens", ylabel="MLM accuracy, held-out repositories")
    axis.legend(fontsize=5.5, ncols=2)
