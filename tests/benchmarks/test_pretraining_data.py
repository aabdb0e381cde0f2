import json

import pretraining_data


def test_lengths_speed_and_leaks_are_reported_for_each_objective(tiny_model_folder, tmp_path, capsys):
    for r in range(4):
        (tmp_path / "tree" / f"r{r}").mkdir(parents=True)
        for f in range(5):
            (tmp_path / "tree" / f"r{r}" / f"{f}.py").write_text(f"value_{r} = {f} + x\n" * (3 + 2 * f + r))
    arguments = ["--tokenizer", tiny_model_folder, "--source-tree", str(tmp_path / "tree"), "--max-length", "48"]
    report = tmp_path / "report.json"
    assert pretraining_data.main([*arguments, "--examples", "90", "--json", str(report)]) == 0
    rows = json.loads(report.read_text())["objectives"]
    assert set(rows) == {"icc", "nsp", "none"}
    for row in rows.values():
        assert 3 <= row["mean_length"] <= 48 and row["tokens_per_second"] > row["examples_per_second"] > 0
    assert rows["icc"]["mean_snippets"] >= 2 == rows["nsp"]["mean_snippets"]
    assert rows["none"]["mean_snippets"] == 1 and rows["none"]["label_from_lengths"] is None
    assert 0.2 < rows["icc"]["label_from_lengths"] < 0.8
    assert "label from lengths" in capsys.readouterr().out
