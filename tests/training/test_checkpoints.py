from mose.training.checkpoints import last_whole_checkpoint


def write(folder, name, state="{}"):
    (folder / name).mkdir(parents=True)
    if state is not None:
        (folder / name / "trainer_state.json").write_text(state)
    return folder / name


def test_the_newest_is_the_one_of_most_steps(tmp_path):
    for step in (10, 9, 100, 20):
        write(tmp_path, f"checkpoint-{step}")
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_half_written_ones_are_passed_over(tmp_path):
    whole = write(tmp_path, "checkpoint-5")
    write(tmp_path, "checkpoint-6", '{"global_step": 6, "log_hist')
    write(tmp_path, "checkpoint-7", "")
    write(tmp_path, "checkpoint-8", None)
    write(tmp_path, "checkpoint-best")
    (tmp_path / "checkpoint-9").write_text("a file")
    assert last_whole_checkpoint(tmp_path) == whole


def test_none_where_there_is_none(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "no such folder") is None
