"""What can be set about a run, as dataclasses that `HfArgumentParser` turns into flags: model and data.

What is of one command alone stands in a file of that command.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments


def json_object(name: str, value: Mapping | str | None) -> dict:
    """What the flag `name` holds: a JSON object, or a mapping where Python code gives one.

    Raises:
        ValueError: it is neither.
    """
    try:
        content = json.loads(value) if isinstance(value, str) else {} if value is None else value
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}={value}: not JSON ({error})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{name}={value}: must be a JSON object, {{…}}")
    return dict(content)


@dataclass
class RunArguments(TrainingArguments):
    """TrainingArguments that mean the CPU where there is nothing else.

    transformers refuses `bf16` on a CPU that was not asked for.
    """

    def __post_init__(self):
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()


@dataclass
class ModelArguments:
    """Parameters that control where the model comes from."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the MoSE to start from; by default the shipped one. Or give --preset."
        },
    )
    preset: str | None = field(
        default=None, metadata={"help": "Start untrained, with the sizes of mose-1b or mose-nano."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the tokenizer; by default the model's own."}
    )
    exit_layer: int | None = field(
        default=None,
        metadata={"help": "Build and train up to this exit only; by default the deepest that there is."},
    )
    grow_to: int | None = field(
        default=None,
        metadata={
            "help": "Deepen the model to this exit before training: new blocks begin as the identity, new "
            "exits as copies of the deepest one."
        },
    )
    start_exits_alike: bool = field(
        default=False,
        metadata={
            "help": "Start all exits with the projection of the deepest, for a model whose projections are "
            "untrained: with --align-exits they need not find to each other first."
        },
    )
    init_embeddings_from: str | None = field(
        default=None,
        metadata={
            "help": "Start the token embeddings from what this sentence-transformers model takes each token's "
            "string to mean."
        },
    )


@dataclass
class DataArguments:
    """Parameters that control the training pairs."""

    source_tree: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of source code to mine for documented functions; may be given several times.",
            "action": "extend",
        },
    )
    dataset: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Hub ids, folders, or .jsonl, .json and .parquet files with columns text and code, code_a "
            "and code_b, or all of text, code_a and code_b; may be given several times.",
            "action": "extend",
        },
    )
    train_split: str = field(
        default="train", metadata={"help": "What to read of a --dataset that has several splits."}
    )
    column_mapping: dict | str | None = field(
        default=None,
        metadata={
            "help": 'JSON object from a dataset\'s column names to those above: \'{"docstring": "text"}\'.'
        },
    )
    validation_dataset: list[str] = field(
        default_factory=list,
        metadata={
            "help": "As --dataset, with the same column mapping; pairs to measure every exit's loss on.",
            "action": "extend",
        },
    )
    validation_split: str = field(
        default="validation",
        metadata={"help": "What to read of a --validation-dataset that has several splits."},
    )
    held_out_share: float | None = field(
        default=None,
        metadata={
            "help": "Share of the source trees' functions that is not trained on but searched for among all, "
            "before and after; MRR at every exit goes to held_out.json. By default none, with --lora a tenth."
        },
    )
    max_query_length: int = field(
        default=128, metadata={"help": "Tokens after which a query is cut, instruction and <cls> included."}
    )
    max_document_length: int = field(
        default=256, metadata={"help": "Tokens after which a document is cut, instruction and <cls> included."}
    )
    instruction_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Share of texts whose instruction is left out or names no language, so that the model also "
            "serves those who give none."
        },
    )
    token_dropout: float = field(default=0.0, metadata={"help": "Share of each text's tokens to leave out."})
    word_replacement: float = field(
        default=0.3,
        metadata={
            "help": "Probability with which each word that a snippet has twice or more is replaced in it by "
            "another; never a keyword of its language."
        },
    )

    def __post_init__(self):
        self.columns: dict[str, str] = json_object("column_mapping", self.column_mapping)
        if not self.source_tree and not self.dataset:
            raise ValueError("nothing to train on: give --source-tree, --dataset or both")
        if self.held_out_share is not None and not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share={self.held_out_share}: a share below 1, from 0 on")
        if self.held_out_share and not self.source_tree:
            raise ValueError("--held-out-share holds out functions of a --source-tree, and there is none")
