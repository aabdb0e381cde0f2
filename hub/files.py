"""The files beside the weights that make sentence-transformers load a MoSE as it is meant to be used."""

import json
from pathlib import Path

from mose.tokenization.prompts import LANGUAGES, code_prompt, text_prompt


def sentence_transformers_files() -> dict[str, dict | list]:
    """File names and their JSON: modules, the transformer's settings, prompts.

    The forward pass pools already; sentence-transformers takes `pooler_output`, hands `exit_layer` through from
    `encode`, and puts the paper's instructions before queries and documents.
    """
    prompts = {"query": text_prompt(), "document": code_prompt()}
    prompts |= {language: code_prompt(language) for language in LANGUAGES}
    return {
        "modules.json": [
            {
                "idx": 0,
                "name": "0",
                "path": "",
                "type": "sentence_transformers.models.Transformer",
                "kwargs": ["exit_layer"],
            },
            {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
            "module_output_name": "sentence_embedding",
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def write_sentence_transformers_files(folder: Path) -> None:
    """Writes those files into `folder`, beside the weights and the tokenizer that lie there."""
    for name, content in sentence_transformers_files().items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
