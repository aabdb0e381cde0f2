"""What does an exit cost to download? Every exit by repository id from a Hub on this machine, each in a fresh
process with an empty cache, where `mose` cannot be imported.

The model is published as `python -m mose.hub publish` does it, and loaded with
`AutoModel.from_pretrained(repo, trust_remote_code=True, exit_layer=k, variant="exitk")`. The Hub is the tests'
loopback server, which counts the bytes that it sends: run this with `PYTHONPATH=tests`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from command import Report, new_parser, positive, run, table
from huggingface_hub import constants
from tqdm import tqdm

from mose.configuration_mose import MoSEConfig
from mose.hub.publish import publish
from mose.modeling_mose import MoSEModel

LOAD = """
import json
from transformers import AutoModel
model = AutoModel.from_pretrained(
    sys.argv[1], trust_remote_code=True, exit_layer=int(sys.argv[2]), variant=f"exit{sys.argv[2]}"
)
assert len(model.layers) == int(sys.argv[2])
print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}))
"""
REPO = "tester/model"


def measure(args: argparse.Namespace) -> Report:
    from loopback_hub import LoopbackHub

    with tempfile.TemporaryDirectory() as temporary, LoopbackHub() as hub:
        folder = args.model
        if folder is None:
            folder = Path(temporary) / "model"
            config = MoSEConfig(
                vocab_size=16_384,
                hidden_size=args.hidden_size,
                intermediate_size=4 * args.hidden_size,
                num_attention_heads=8,
                num_key_value_heads=2,
                pad_token_id=0,
                sep_token_id=1,
                cls_token_id=2,
                mask_token_id=3,
            )
            torch.manual_seed(0)
            MoSEModel(config).save_pretrained(folder)
        known = MoSEConfig.from_pretrained(folder)
        exits = [known.resolve_exit_layer(e) for e in args.exit_layers or known.built_exit_layers]
        constants.HF_HUB_DISABLE_XET = True  # a kind of storage that the loopback Hub does not have
        publish(folder, REPO, endpoint=hub.url, token=hub.token)
        rows = {}
        for exit_layer in tqdm(exits, "exits", disable=not sys.stderr.isatty()):
            hub.served.clear()
            done = hub.python(LOAD, REPO, str(exit_layer), without_mose=True, cache=f"cache{exit_layer}")
            weights = sum(n for name, n in hub.served[REPO].items() if name.endswith(".safetensors"))
            rows[str(exit_layer)] = {
                **json.loads(done.stdout.splitlines()[-1]),
                "weights": weights,
                "all": sum(hub.served[REPO].values()),
            }
    return {"exits": rows}


def render(report: Report) -> str:
    whole = list(report["exits"].values())[-1]  # the deepest that was loaded

    def share(row: dict, name: str) -> str:
        return f"{100 * row[name] / whole[name]:.1f} %"

    rows = [
        [
            exit_layer,
            f"{row['parameters'] / 1e6:.2f} M",
            share(row, "parameters"),
            f"{row['weights']:,}",
            share(row, "weights"),
            f"{row['all']:,}",
        ]
        for exit_layer, row in report["exits"].items()
    ]
    return table(["exit", "parameters", "of all", "bytes of weights", "of all", "bytes in all"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Bytes that each exit downloads from a Hub on this machine.")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="a model's folder (default: 36 blocks with random weights)"
    )
    parser.add_argument(
        "--hidden-size",
        type=positive,
        default=256,
        metavar="N",
        help="of the model with random weights (default: %(default)s)",
    )
    parser.add_argument(
        "--exit-layers", type=int, nargs="+", metavar="K", help="exits to load (default: all of the model's)"
    )
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
