"""What does importing a released checkpoint take? One of the paper's size, which it makes and removes.

The checkpoint has the released layout and random weights; the import runs in a process of its own, whose memory
is sampled while it works. Needs Linux, and twice the checkpoint's size on disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from command import Report, new_parser, positive, run, table
from tokenizers import Tokenizer, models

from mose.configuration_mose import MoSEConfig
from mose.hub.shards import TensorSource, write_safetensors
from mose.modeling_mose import MoSEModel

OPTIONS = {"--pooling": "cls"}


def released_names(config: MoSEConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a fine-tuned checkpoint of that configuration."""
    with torch.device("meta"):
        model = MoSEModel(config)
    for name, tensor in model.state_dict().items():
        exit_layer, _, rest = name.removeprefix("exits.").partition(".")
        if name.startswith("exits.") and rest.startswith("projection."):
            number = config.exit_layers.index(int(exit_layer))
            yield f"projection_heads.{number}.{rest.removeprefix('projection.')}", tuple(tensor.shape)
        elif name.startswith("exits."):
            yield f"starEncoder2.{rest}", tuple(tensor.shape)
        elif name != "similarity_scale":
            yield f"starEncoder2.{name}", tuple(tensor.shape)


def write_released(folder: Path, config: MoSEConfig) -> int:
    """Writes such a checkpoint in bf16; gives its bytes."""

    def source(shape: tuple[int, ...]) -> TensorSource:
        return TensorSource(shape, torch.bfloat16, lambda: torch.randn(shape, dtype=torch.bfloat16) * 0.02)

    torch.manual_seed(0)
    sources = {name: source(shape) for name, shape in released_names(config)}
    write_safetensors(folder / "model.safetensors", sources)
    settings = config.to_dict() | {
        "model_type": "ModularStarEncoder",
        "matryoshka_layers": list(config.exit_layers),
        "rope_theta": 999_999.44,
    }
    (folder / "config.json").write_text(json.dumps(settings, default=str))
    words = {f"word{at}": at for at in range(config.vocab_size - 4)} | {
        word: config.vocab_size - 4 + at for at, word in enumerate(("<sep>", "<cls>", "<mask>"))
    }
    Tokenizer(models.WordLevel(words, "word0")).save(str(folder / "tokenizer.json"))
    return sum(one.size for one in sources.values())


def private_bytes(process: int) -> int:
    """Memory of a process that is no file's; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def watched(command: list[str]) -> tuple[float, int]:
    """Seconds and most private memory of a command.

    Raises:
        RuntimeError: it failed.
    """
    start, most = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            most = max(most, private_bytes(process.pid))
            time.sleep(0.002)
        if process.returncode:
            raise RuntimeError(str(process.stderr and process.stderr.read())[-500:])
    return time.perf_counter() - start, most


def measure(args: argparse.Namespace) -> Report:
    if not Path("/proc/self/status").exists():
        raise ValueError("this benchmark reads Linux's account of memory")
    overrides: dict[str, int] = {}
    if args.hidden_size is not None:
        overrides = {
            "hidden_size": args.hidden_size,
            "intermediate_size": 4 * args.hidden_size,
            "vocab_size": 512,
        }
        overrides |= {"vocab_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MoSEConfig.from_preset("mose-1b", exit_norm="final", pooling="cls", projection_layers=2, **overrides)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        source.mkdir()
        size = write_released(source, config)
        words = [word for pair in OPTIONS.items() for word in pair]
        command = [sys.executable, "-m", "mose.hub", "import", str(source), "--output-dir", str(out), *words]
        idle = watched([sys.executable, "-c", "import mose.hub.convert.command"])
        seconds, most = watched(command)
        start = time.perf_counter()
        model = MoSEModel.from_pretrained(out, exit_layer=4, variant="exit4", dtype=torch.bfloat16)
        load = time.perf_counter() - start
        norm = model.eval()(torch.tensor([[5, 6, 7]])).pooler_output.norm().item()
    return {
        "parameters": size // 2,
        "checkpoint_bytes": size,
        "largest_tensor_bytes": 2 * config.vocab_size * config.hidden_size,
        "import_seconds": seconds,
        "peak_bytes": most,
        "libraries_bytes": idle[1],
        "load_exit_4_seconds": load,
        "embedding_norm": norm,
    }


def render(report: Report) -> str:
    rows = [
        ["parameters", f"{report['parameters'] / 1e6:,.0f} M"],
        ["checkpoint", f"{report['checkpoint_bytes'] / 1e6:,.0f} MB"],
        ["its token embeddings", f"{report['largest_tensor_bytes'] / 1e6:,.0f} MB"],
        ["time of the import", f"{report['import_seconds']:.1f} s"],
        ["peak of private memory", f"{report['peak_bytes'] / 1e6:,.0f} MB"],
        ["of it the libraries", f"{report['libraries_bytes'] / 1e6:,.0f} MB"],
        ["loading exit 4 of the result", f"{report['load_exit_4_seconds']:.2f} s"],
    ]
    return table(["released layout, random weights", ""], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Time and memory of importing a checkpoint of the released size.")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to work (default: the system's)")
    parser.add_argument(
        "--hidden-size", type=positive, metavar="N", help="a narrower model, for a trial (default: the paper's)"
    )
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
