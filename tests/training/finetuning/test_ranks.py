"""Two processes, each with its part of the batch, must do what one does that has it all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from ranks_worker import find
from torch import distributed as dist

from mose.data.retrieval.pairs import load_pairs

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parents[2] / "support" / "ranks_worker.py"


def run(work: Path, world: int = 2) -> list[dict]:
    ports = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(world)}
    environment |= {"MASTER_PORT": str(ports.port), "PYTHONPATH": str(Path(__file__).parents[3])}
    del ports  # and so free for the processes
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, work],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * world, "\n".join(outputs)
    return [torch.load(work / f"found-{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.fixture(scope="module")
def found(tiny_model_folder, tmp_path_factory) -> tuple[dict, list[dict]]:
    """What one process found, and what each of two."""
    work = tmp_path_factory.mktemp("ranks")
    generator = torch.Generator().manual_seed(2)
    sides = [
        (torch.randint(4, 300, (rows, 6), generator=generator), torch.ones(rows, 6, dtype=torch.long))
        for rows in (5, 5, 2)
    ]
    # Pairs 1 and 4 have a document in common, 2 asks for what 3 is; they lie with different processes. The second
    # hard negative is what answers the first pair.
    keys = torch.tensor([[0, 10], [1, 11], [2, 12], [12, 13], [4, 11]])
    rows = [{"text": f"Add {i // 2}.", "code": f"def add(a):\n    return a + {i * 37}"} for i in range(8)]
    given = {
        "model": tiny_model_folder,
        "sides": sides,
        "keys": keys,
        "negative_keys": torch.tensor([20, 10]),
        "pairs": load_pairs(datasets=[Dataset.from_list(rows)]),
    }
    torch.save(given, work / "given.pt")
    return find(given, work), run(work)


def test_gradients_of_every_parameter_are_those_of_one_process(found):
    """Five pairs, three and two; false negatives and hard ones across processes; the scale, too."""
    one, two = found
    assert one["gradients"]["similarity_scale"].abs() > 1e-4
    for rank in two:
        assert rank["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            torch.testing.assert_close(rank["gradients"][name], gradient, atol=1e-9, rtol=0, msg=name)


def test_a_step_of_the_trainer_is_that_of_one_process(found):
    one, two = found
    for rank in two:
        for name, value in one["parameters"].items():
            torch.testing.assert_close(
                rank["parameters"][name], value, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_the_log_is_that_of_one_process(found):
    one, two = found
    losses = [{k: v for k, v in line.items() if "loss" in k and k != "train_loss"} for line in one["log"]]
    assert {"loss", "contrastive_loss_exit_3", "distillation_loss_exit_0"} <= losses[0].keys()
    for key, value in losses[0].items():
        assert two[0]["log"][0][key] == pytest.approx(value, abs=1e-5), key
    assert any(key.startswith("eval_contrastive_loss") for key in two[0]["log"][-1])
