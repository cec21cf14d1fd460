"""tests/benchmarks/gpu.py: every line of it, with small models on what there is."""

import json
import subprocess
import sys

from conftest import ROOT


def test_the_benchmark_of_a_card_runs_on_anything(tmp_path):
    output = tmp_path / "gpu.json"
    command = [sys.executable, ROOT / "tests" / "benchmarks" / "gpu.py", "--tiny"]
    command += ["--parts", "bert", "resumed", "gpt", "--output", output]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    told = json.loads(output.read_text(encoding="utf-8"))
    assert told["found"]["bert_plain.py: resumed, scores differ by"] == 0
    for name, published in (("bert_plain.py: evaluation", 418), ("gpt: inference, bf16", 48)):
        assert told["found"][name] > 0
        assert f"published: {published}" in process.stdout
    assert told["found"]["gpt: batch of 16 against one, fp32"] < 1e-5
    assert told["about"]["torch"] in process.stdout
