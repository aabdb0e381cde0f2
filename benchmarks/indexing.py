"""Measure what indexing source trees at exit 0 costs, beside semble on the same trees in the same run.

    python -m venv ../semble && ../semble/bin/pip install semble==0.7.0
    python benchmarks/indexing.py FOLDER --peer ../semble/bin/python

FOLDER holds labelled repositories (`docs/search.md`). Every round of each is a process of its own: it imports
what it needs, indexes all trees from nothing and writes the indexes to disk. Its processor time counts, with all
threads. semble's own model need not be there: a `model2vec.StaticModel` of 62,500 × 256 random numbers stands in.
`--profile` prints where a process of MoSE spends its time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.search.evaluation.dataset import read_labelled_repositories, write_tree
from mose.utils.locations import package_folder

#: Argument: a folder of trees, and one for the indexes.
_OURS = """
import sys
from pathlib import Path
from mose.search import Index
units = 0
for tree in sorted(Path(sys.argv[1]).iterdir()):
    units += len(Index.build(tree, MODEL, None, Path(sys.argv[2]) / tree.name, 0, progress=False))
print(units)
"""
_PROFILED = """
import cProfile, pstats, sys
profile = cProfile.Profile()
profile.run(SCRIPT)
pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
"""
_PEER = """
import sys
from pathlib import Path
from semble import SembleIndex
units = 0
for tree in sorted(Path(sys.argv[1]).iterdir()):
    index = SembleIndex.from_path(tree, model_path=sys.argv[3])
    index.save(Path(sys.argv[2]) / tree.name)
    units += len(index.chunks)
print(units)
"""
#: Writes a random model whose vocabulary is the most frequent words of the trees, and pieces of words.
_PEER_MODEL = """
import collections, re, sys
from pathlib import Path
import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
words = collections.Counter()
for file in Path(sys.argv[1]).rglob("*"):
    if file.is_file():
        words.update(re.findall(r"[a-z0-9]+", file.read_text(errors="replace").lower()))
pieces = dict.fromkeys(["[PAD]", "[UNK]", *map(chr, range(33, 127))])
pieces |= dict.fromkeys("##" + chr(code) for code in range(33, 127))
for word, _ in words.most_common():
    pieces |= dict.fromkeys([word, "##" + word[-4:]])
pieces |= dict.fromkeys(f"[unused{number}]" for number in range(62_500))
names = list(pieces)[:62_500]
tokenizer = Tokenizer(models.WordPiece({name: row for row, name in enumerate(names)}, unk_token="[UNK]"))
tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
vectors = np.random.default_rng(0).standard_normal((62_500, 256), dtype=np.float32)
StaticModel(vectors, tokenizer).save_pretrained(sys.argv[2])
"""


class Indexing(Benchmark):
    """Processor time and peak memory of indexing, for MoSE at exit 0 and for semble."""

    description = "Processor time of indexing source trees at exit 0, beside semble."
    rounds = 5

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what is indexed, and the peer."""
        parser.add_argument("folder", type=Path, metavar="FOLDER", help="labelled repositories")
        parser.add_argument("--peer", type=Path, metavar="PYTHON", help="a Python that has semble")
        default = str(package_folder())
        parser.add_argument("--model", default=default, help="folder of a MoSE (default: the shipped one)")
        parser.add_argument("--profile", action="store_true", help="profile one round of MoSE to stderr instead")

    def measure(self, options: argparse.Namespace) -> Report:
        """Run all in turn, and return the figures of each."""
        data = read_labelled_repositories(options.folder)
        if options.peer and not options.peer.exists():
            raise FileNotFoundError(f"--peer {options.peer} does not exist.")

        ours = f"MODEL = {options.model!r}\n{_OURS}"
        with tempfile.TemporaryDirectory(prefix="mose-indexing-") as temporary:
            trees = Path(temporary, "trees")
            for name in data.repositories:
                write_tree(data.contents[name], trees / name)
            ways: dict[str, list[Any]] = {"mose, exit 0": [sys.executable, "-c", ours, trees]}
            if options.peer:
                model = Path(temporary, "model")
                subprocess.run([options.peer, "-c", _PEER_MODEL, trees, model], check=True)
                ways["semble"] = [options.peer, "-c", _PEER, trees]
            if options.profile:
                script = _PROFILED.replace("SCRIPT", repr(ours))
                _run([sys.executable, "-c", script, trees], Path(temporary))
                return {"trees": data.repositories, "ways": {}}

            rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
            # The first round fills the system's cache of files.
            for number in tqdm(range(-1, options.rounds), desc="indexing", unit=" rounds", disable=None):
                for name, arguments in ways.items():
                    figures = _run(arguments, Path(temporary))
                    if number >= 0:
                        rounds[name].append(figures)
        return {"trees": data.repositories, "ways": {name: _summary(runs) for name, runs in rounds.items()}}

    def render(self, report: Report) -> str:
        """Return a row for each way."""
        columns = {
            "units": ("units", ",d"),
            "processor seconds": ("cpu", ".2f"),
            "of them system": ("system", ".2f"),
            "seconds": ("wall", ".2f"),
            "spread": ("spread", ".0%"),
            "peak memory": ("peak", "MB"),
        }
        ways = report["ways"]
        text = command.figures_table(f"{len(report['trees'])} trees", ways, columns) if ways else ""
        if len(ways) < 2:
            return text
        ratio = ways["mose, exit 0"]["cpu"] / ways["semble"]["cpu"]
        return f"{text}\n\nprocessor time over semble's: {ratio:.2f}"


def _run(arguments: Sequence[Any], folder: Path) -> dict[str, Any]:
    """Run a process that indexes into a new folder. Return its processor time, its time, and its peak memory."""
    with tempfile.TemporaryDirectory(dir=folder) as indexes:
        # Caches of the user must not help.
        settings = {"HOME": indexes, "XDG_CACHE_HOME": indexes, "MOSE_CACHE": indexes, "OMP_NUM_THREADS": "1"}
        command_line = [*map(str, arguments), indexes, str(folder / "model")]
        start = os.times()
        with subprocess.Popen(
            command_line, stdout=subprocess.PIPE, text=True, env=os.environ | settings
        ) as process:
            assert process.stdout is not None
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)

    if process.returncode:
        raise RuntimeError(f"The process that indexes ended with {process.returncode}: see its message above.")

    wall = os.times().elapsed - start.elapsed
    figures = {"cpu": usage.ru_utime + usage.ru_stime, "system": usage.ru_stime, "wall": wall}
    return figures | {"peak": 1024 * usage.ru_maxrss, "units": int(json.loads(output or "0"))}


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    quarter, median, three_quarters = np.percentile([run["cpu"] for run in runs], [25, 50, 75])
    figures = {name: float(np.median([run[name] for run in runs])) for name in ("system", "wall", "peak")}
    spread = float((three_quarters - quarter) / median)
    return {"units": runs[-1]["units"], "cpu": float(median), "spread": spread, **figures}


if __name__ == "__main__":
    sys.exit(Indexing().main())
