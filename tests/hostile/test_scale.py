"""A Ray cluster of two raylets on this machine that loses workers and machines."""

import json
import os
import signal
import subprocess
import sys
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
from mose.scale.deduplicate import main as deduplicate
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


def arguments(corpus, output, *flags: str) -> list[str]:
    """Return the arguments of `mose encode`."""
    command = [str(corpus), "--output-dir", str(output), "--model", MODEL, "--exit-layers", "0", "2"]
    return [*command, "--keep", "id", "--engine", "ray", "--cpus", "1", "--device", "cpu", *flags]


def start(corpus, output, *flags: str) -> tuple[threading.Thread, list[int]]:
    """Start `mose encode` in a thread."""
    codes: list[int] = []
    command = arguments(corpus, output, *flags)
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


def parts_per_second(output) -> float:
    """Return the rate between the first finished part and the last: starting a worker takes longer than these."""
    times = sorted(file.stat().st_mtime for file in output.glob("part-*"))
    return (len(times) - 1) / (times[-1] - times[0])


def test_two_workers_and_one_are_equal(cluster, corpus, expected, tmp_path, tries):
    rates = {}
    for workers in ("1", "2"):
        thread, codes = start(corpus, tmp_path / workers, "--workers", workers)
        thread.join()
        assert codes == [1]  # the bad file is named, and everything else is there
        check_nothing_is_lost(tmp_path / workers, expected)
        rates[workers] = parts_per_second(tmp_path / workers)
    print(f"one worker {rates['1']:.2f} parts/s, two {rates['2']:.2f}, {rates['2'] / rates['1']:.2f} times")
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


def test_a_run_without_its_machines_is_finished_by_others(cluster, corpus, expected, tmp_path, tries):
    thread, codes = start(corpus, tmp_path / "out", "--workers", "2")
    wait_for_parts(tmp_path / "out", 4)
    for node in cluster.nodes:
        cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=2)
    thread.join()
    assert codes == [1]
    check_nothing_is_lost(tmp_path / "out", expected)
    tries.record("all machines lost, others take over", "nothing lost")


def test_a_killed_run_resumes(cluster, corpus, expected, tmp_path, tries):
    """The command itself dies in the middle. The same command does the rest, and nothing twice."""
    output = tmp_path / "out"
    flags = ("--workers", "2", "--address", cluster.address)
    command = [sys.executable, "-m", "mose", "encode", *arguments(corpus, output, *flags)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for_parts(output, 4)
        process.kill()
    # Workers end with the run, but what they are writing may still appear.
    time.sleep(5)
    before = {file: file.stat().st_mtime_ns for file in output.glob("part-*")}
    assert 4 <= len(before) < 30

    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 1 and f"{len(before)} of 30 parts are finished already" in finished.stderr
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in before.items())
    check_nothing_is_lost(output, expected)
    tries.record("kill -9 of the run", "resumed, nothing encoded twice")


def test_near_duplicates_on_a_cluster_are_those_of_this_machine(cluster, corpus, tmp_path, tries):
    remaining = []
    for executor in ("local", "ray"):
        command = [str(corpus), "--output-dir", str(tmp_path / executor), "--keep", "id", "--tasks", "2"]
        assert deduplicate([*command, "--executor", executor]) == 1  # the bad file is named
        remaining.append(pq.read_table(tmp_path / executor / "kept"))
    assert remaining[0] == remaining[1] and 0 < len(remaining[0]) < len(ROWS)
    tries.record("near-duplicates on Ray, one bad file", "same texts as without Ray")
