"""`python -m mose.data.synthconl`: build triples with a language model, and push them."""

import argparse
import json
import logging
import sys
from collections import Counter
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from mose.data.synthconl.building import Settings, answered, open_build, translate_all, triples
from mose.data.synthconl.dataset import push, write_card, write_dataset
from mose.data.synthconl.plan import load_source
from mose.data.synthconl.translation import DEFAULT_MODEL, Translator

logger = logging.getLogger("mose.data.synthconl")


def build(args: argparse.Namespace) -> None:
    settings = Settings(
        model=args.model,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        max_prompt_tokens=args.max_prompt_tokens,
        temperature=args.temperature,
        seed=args.seed,
        limit=args.limit,
    )
    folder = Path(args.output_dir)
    try:
        mapping = json.loads(args.column_mapping)
    except json.JSONDecodeError as error:
        raise ValueError(f"--column-mapping {args.column_mapping}: not JSON ({error})") from error
    if not isinstance(mapping, dict):
        raise ValueError(f"--column-mapping {args.column_mapping}: must be a JSON object, {{…}}")
    source = load_source(args.source_tree, args.dataset, mapping, args.split)
    progress = not args.no_progress
    jobs = open_build(folder, source, settings, progress)
    if answered(folder, jobs, settings) * settings.batch_size < len(jobs):
        translator = Translator(
            args.model, args.device, args.dtype, args.max_new_tokens, args.temperature, args.trust_remote_code
        )
        translate_all(folder, source, jobs, translator, settings, progress)
    counts: Counter[str] = Counter()
    languages: Counter[tuple[str, str]] = Counter()

    def counted():
        for row in triples(folder, source, counts, progress):
            languages[row["language_a"], row["language_b"]] += 1
            yield row

    if not write_dataset(counted(), folder):
        raise RuntimeError(f"of {len(jobs)} translations no triple is left: {dict(counts)}")
    origin = args.dataset or ", ".join(Path(tree).resolve().name for tree in args.source_tree)
    write_card(folder, counts, languages, args.model, origin, args.license)
    print(f"{counts['triples']} triples in {folder}")
    for reason, n in sorted(counts.items()):
        if reason != "triples":
            print(f"{n:8d} {reason}")
    if args.push_to_hub:
        print(push(folder, args.push_to_hub, args.private))


def push_command(args: argparse.Namespace) -> None:
    print(push(Path(args.folder), args.repo_id, args.private))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m mose.data.synthconl", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "build",
        help="translate pairs into triples",
        description="Translates the code of (text, code) pairs into another language with a causal language "
        "model, and writes the triples as parquet with a card. Run again, it goes on where it was stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    one.add_argument("--dataset", help="Hub id, file or folder with the columns text, code and language")
    one.add_argument("--split", default="train", help="what to read of a dataset that has several splits")
    one.add_argument(
        "--column-mapping", default="{}", help="JSON object from the dataset's column names to those above"
    )
    one.add_argument(
        "--source-tree",
        action="append",
        default=[],
        help="instead of --dataset: a folder to mine; may be repeated",
    )
    one.add_argument("--output-dir", required=True, help="folder of the build and of the dataset")
    one.add_argument("--model", default=DEFAULT_MODEL, help="folder or Hub id of the model that translates")
    one.add_argument("--batch-size", type=int, default=32, help="prompts in one batch")
    one.add_argument(
        "--max-new-tokens", type=int, default=1024, help="tokens of an answer; one cut off there is left out"
    )
    one.add_argument(
        "--max-prompt-tokens", type=int, default=2048, help="code whose prompt is longer is left out"
    )
    one.add_argument(
        "--temperature", type=float, default=0.0, help="of the sampling; 0: the likeliest token always"
    )
    one.add_argument("--seed", type=int, default=0, help="of the languages and of the sampling")
    one.add_argument("--limit", type=int, default=0, help="translations to make, at most; 0: all")
    one.add_argument("--device", help="where the model runs; by default an accelerator where there is one")
    one.add_argument("--dtype", help="of the weights; by default the checkpoint's, on a CPU float32")
    one.add_argument("--trust-remote-code", action="store_true", help="let code that comes with the model run")
    one.add_argument("--license", help="the dataset's licence for its card, as the Hub names it")
    one.add_argument("--push-to-hub", metavar="ID", help="push the finished dataset to this repository")
    one.add_argument("--private", action="store_true", help="make that repository private")
    one.add_argument("--no-progress", action="store_true", help="show no progress bars")
    one.set_defaults(run=build)
    two = commands.add_parser("push", help="push a finished dataset", description="Pushes a finished dataset.")
    two.add_argument("folder", help="folder of the build")
    two.add_argument("repo_id", help="Hub id of the dataset, owner/name")
    two.add_argument("--private", action="store_true", help="make the repository private")
    two.set_defaults(run=push_command)
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed, 2 bad arguments, 130 interrupted."""
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        args.run(args)
    except HfHubHTTPError as error:
        print(f"synthconl {args.command}: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"synthconl {args.command}: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, ImportError) as error:
        print(f"synthconl {args.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"synthconl {args.command}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
