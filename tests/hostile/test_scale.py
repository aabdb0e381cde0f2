"""A Ray cluster of two raylets on this machine that loses workers and machines."""

import json
import os
import signal
import threading
import time

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster

from mose.inference.encoders import MoSEEncoder
from mose.inference.loading import load_model
from mose.scale.encode import main
from mose.utils.locations import package_folder

MODEL = str(package_folder())
ROWS = [
    {"id": number, "text": f"def function_{number}(value):\n" + f"    value += {number}\n" * (number % 20)}
    for number in range(1_500)
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(30):
        lines = "".join(json.dumps(row) + "\n" for row in ROWS[number::30])
        (folder / f"{number:02d}.jsonl").write_text(lines)
    (folder / "bad.parquet").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def expected():
    model, tokenizer, exits = load_model(MODEL, [0, 2], "cpu", False)
    vectors = MoSEEncoder(model, tokenizer, exits).encode([row["text"] for row in ROWS], [""] * len(ROWS), False)
    return {int(exit_layer): values for exit_layer, values in vectors.items()}


@pytest.fixture
def cluster():
    """Two raylets of one CPU each, beside a head that runs no work."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def start(corpus, output, *flags: str) -> tuple[threading.Thread, list[int]]:
    """Start `mose encode` in a thread."""
    codes: list[int] = []
    command = [str(corpus), "--output-dir", str(output), "--model", MODEL, "--exit-layers", "0", "2"]
    command += ["--keep", "id", "--engine", "ray", "--cpus", "1", "--device", "cpu", *flags]
    thread = threading.Thread(target=lambda: codes.append(main(command)))
    thread.start()
    return thread, codes


def wait_for_parts(output, count: int) -> None:
    deadline = time.monotonic() + 300
    while len(list(output.glob("part-*"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_nothing_is_lost(output, expected) -> None:
    table = pq.read_table(output)
    ids = [int(value) for value in table["id"].to_pylist()]
    assert sorted(ids) == list(range(len(ROWS)))
    for exit_layer, vectors in expected.items():
        stored = np.stack(table[f"exit_{exit_layer}"].to_numpy())
        np.testing.assert_allclose(stored, vectors[ids], atol=1e-6)


def test_two_workers_and_one_are_equal(cluster, corpus, expected, tmp_path, tries):
    seconds = []
    for workers in ("1", "2"):
        begin = time.monotonic()
        thread, codes = start(corpus, tmp_path / workers, "--workers", workers)
        thread.join()
        seconds.append(time.monotonic() - begin)
        assert codes == [1]  # the bad file is named, and everything else is there
        check_nothing_is_lost(tmp_path / workers, expected)
    print(f"one worker {seconds[0]:.1f} s, two {seconds[1]:.1f} s")
    tries.record("embedding with one and with two workers, one bad file", "same vectors as without Ray")


def test_a_worker_is_killed_in_the_middle(cluster, corpus, expected, tmp_path, tries):
    thread, codes = start(corpus, tmp_path / "out", "--workers", "2")
    wait_for_parts(tmp_path / "out", 4)
    workers = [process for process in psutil.process_iter() if "MapWorker" in " ".join(process.cmdline())]
    assert workers
    os.kill(workers[0].pid, signal.SIGKILL)
    thread.join()
    assert codes == [1]
    check_nothing_is_lost(tmp_path / "out", expected)
    tries.record("kill -9 of a worker", "nothing lost")


def test_a_machine_is_lost_in_the_middle(cluster, corpus, expected, tmp_path, tries):
    thread, codes = start(corpus, tmp_path / "out", "--workers", "2")
    wait_for_parts(tmp_path / "out", 4)
    cluster.remove_node(cluster.nodes[0], allow_graceful=False)
    thread.join()
    assert codes == [1]
    check_nothing_is_lost(tmp_path / "out", expected)
    tries.record("kill -9 of a raylet", "nothing lost")


def test_a_run_without_its_cluster_resumes(cluster, corpus, expected, tmp_path, capfd, tries):
    """The cluster dies with the run in the middle, and another one finishes it."""
    thread, codes = start(corpus, tmp_path / "out", "--workers", "2")
    wait_for_parts(tmp_path / "out", 4)
    for node in cluster.nodes:
        cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=2)
    thread.join()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("part-*")}
    thread, codes = start(corpus, tmp_path / "out", "--workers", "1")
    thread.join()
    check_nothing_is_lost(tmp_path / "out", expected)
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in before.items())
    tries.record("all machines lost, others take over", "resumed, nothing encoded twice")
