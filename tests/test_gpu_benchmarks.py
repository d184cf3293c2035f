"""benchmarks/gpu_model.py and gpu_session.py, tried without a GPU."""

import json
import sys
import time
from pathlib import Path

import pytest
from conftest import require

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import gpu_model  # noqa: E402
import gpu_session  # noqa: E402
import networks  # noqa: E402


def test_the_model_counts_a_step_by_hand():
    # 784-30-10, 32 rows: forward and dW of both layers, one delta sent down, the update.
    layers = 2 * 32 * 784 * 30 + 2 * 32 * 30 * 10
    expected = 2 * layers + 2 * 32 * 30 * 10 + 2 * (784 * 30 + 30 + 30 * 10 + 10)
    assert sum(flops for flops, _ in gpu_model.kernels((784, 30, 10), 32)) == expected


def test_the_model_prefers_no_impossible_executor():
    device = gpu_model.DEVICES["H100"]
    small = gpu_model.expected((784, 30, 10), 1, device)
    assert small["roofline"] < small["block"] < small["graph"] < small["eager"] < small["plain"]
    assert gpu_model.expected((784, 30, 10), 32, device)["block"] is None
    assert gpu_model.expected((784, 256, 128, 10), 1, device)["block"] is None  # 0.9 MB
    # The largest products bound every executor alike, and TF32 helps them alone.
    large = gpu_model.expected((1024, 2048, 2048, 10), 4096, device)
    assert large["eager"] == pytest.approx(large["roofline"], rel=0.1)
    fast = gpu_model.expected((1024, 2048, 2048, 10), 4096, device, tf32=True)
    assert fast["eager"] < large["eager"] / 3


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(gpu_session, "NETWORKS", {"4-4-4-1": gpu_session.NETWORKS["4-4-4-1"]})
    monkeypatch.setattr(gpu_session, "MODES", {"mini-batch 32": 32})
    monkeypatch.setattr(gpu_session, "SECONDS", 1e-9)
    monkeypatch.setattr(
        gpu_session, "rows_for", lambda *_: [x[:96] for x in gpu_session.data("4-4-4-1")]
    )


def test_a_session_times_every_engine(tiny, monkeypatch, tmp_path, capsys):
    require("cupy")
    # The emulator's times mean nothing, but every line of code that a GPU will run runs.
    monkeypatch.setattr(networks, "emulated", lambda backend: False)
    session = gpu_session.Session(tmp_path, "no GPU")
    gpu_session.run_benchmark(session, time.monotonic() + 3600)
    gpu_session.plot(session)
    written = json.loads((tmp_path / "gpu_session.json").read_text())
    timed = {(row["engine"], row["executor"]) for row in written["rows"] if not row["note"]}
    assert {("numpy", "eager"), ("cupy", "eager"), ("cupy-plain", "eager")} <= timed
    assert all(row["error"] < 1e-3 for row in written["rows"] if not row["note"])
    for row in written["rows"]:
        assert row["note"] or row["samples_per_second"] == pytest.approx(
            32 / row["seconds_per_update"]
        )
    assert "cupy eager" in (tmp_path / "table.txt").read_text()
    assert (tmp_path / "mini-batch-32.png").stat().st_size > 5000
    device, measured = gpu_model.read_measured(tmp_path / "gpu_session.json")
    assert device == "no GPU"
    line = next(row for row in gpu_model.rows_of("H100", measured) if row["batch"] == "32")
    assert "/" in line["eager"]


def test_a_session_without_time_says_what_is_missing(tiny, tmp_path):
    session = gpu_session.Session(tmp_path, "no GPU")
    gpu_session.run_benchmark(session, time.monotonic() - 1)
    assert not session.rows
    assert "4-4-4-1 mini-batch 32 numpy eager" in session.content["left_out_for_time"]


def test_a_part_that_takes_too_long_is_stopped(tmp_path):
    words = [sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"]
    done = gpu_session.command(words, 5, tmp_path / "log.txt")
    assert done["exit"] == "stopped after 5 s"
    assert done["tail"] == ["begun"]
