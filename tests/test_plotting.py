"""Pictures: what is drawn is what was given."""

import numpy as np
import pytest

from gpubackprop import plotting
from gpubackprop.compare import Result
from gpubackprop.history import History

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure


def history(loss: list[float], each: float = 0.5) -> History:
    n = len(loss)
    return History(
        epoch=list(range(n)), loss=loss, seconds=[each * (k + 1) for k in range(n)], backend="numpy"
    )


def result(mode: str, seconds: float | None = 2.0) -> Result:
    curve = {"epoch": [1, 2, 3], "loss": [2.0, 0.5, 0.1]}
    return Result(
        mode=mode, backend="numpy", executor="eager", device="numpy", batch_size=1,
        learning_rate=0.1, momentum=0.0, threads=1, epochs=3, updates=3, reached=None,
        samples_per_second=None, seconds=seconds, epoch_seconds=None, spread=None,
        loss=0.1, accuracy=0.9,
        curve=curve | ({} if seconds is None else {"seconds": [0.1, 1.0, 2.0]}),
    )  # fmt: skip


def test_axes_in_axes_out():
    axes = Figure().add_subplot()
    assert plotting.loss_curves({"a": history([1.0, 0.5])}, axes) is axes


def test_lines_hold_the_history():
    runs = {"first": history([1.0, 0.5, 0.4]), "second": history([3.0, 2.0], each=2.0)}
    axes = plotting.loss_curves(runs, against="seconds")
    first, second = axes.get_lines()
    np.testing.assert_array_equal(first.get_xdata(), [0.5, 1.0, 1.5])
    np.testing.assert_array_equal(first.get_ydata(), [1.0, 0.5, 0.4])
    np.testing.assert_array_equal(second.get_xdata(), [2.0, 4.0])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second"]
    assert axes.get_xlabel() == "seconds of training"


def test_epochs_are_counted_from_one():
    (line,) = plotting.loss_curves({"a": history([1.0, 0.5])}).get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [1, 2])


def test_scales_are_logarithmic_where_values_span_decades():
    wide = plotting.loss_curves({"a": history([10.0, 0.1])})
    assert (wide.get_xscale(), wide.get_yscale()) == ("linear", "log")
    narrow = plotting.loss_curves({"a": history([0.2, 0.1])})
    assert narrow.get_yscale() == "linear"
    with_zero = plotting.loss_curves({"a": history([10.0, 0.0])})
    assert with_zero.get_yscale() == "linear"


def test_one_epoch_is_a_visible_point():
    (line,) = plotting.loss_curves({"a": history([1.0])}).get_lines()
    assert line.get_marker() == "o"


def test_styles():
    axes = plotting.loss_curves({"a": history([1.0, 0.5])}, styles={"a": {"color": "#123456"}})
    assert axes.get_lines()[0].get_color() == "#123456"


def test_bad_arguments():
    with pytest.raises(ValueError, match="against must be one of epochs, seconds, got 'time'"):
        plotting.loss_curves({"a": history([1.0])}, against="time")
    with pytest.raises(ValueError, match="runs must hold one training"):
        plotting.loss_curves({"a": History()})


def test_comparison_has_both_panels(tmp_path):
    drawing = plotting.comparison([result("sgd"), result("batch")], "a title")
    by_time, by_epoch = drawing.axes
    assert by_time.get_xlabel() == "seconds of training"
    assert by_epoch.get_xlabel() == "epoch"
    assert len(by_time.get_lines()) == len(by_epoch.get_lines()) == 2
    drawing.savefig(tmp_path / "drawing.png")
    assert (tmp_path / "drawing.png").read_bytes().startswith(b"\x89PNG")


def test_comparison_shows_no_time_that_means_nothing():
    drawing = plotting.comparison([result("sgd", seconds=None)])
    assert [axes.get_xlabel() for axes in drawing.axes] == ["epoch"]
