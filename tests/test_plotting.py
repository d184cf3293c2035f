"""Pictures: what is drawn is what was given."""

import numpy as np
import pytest

import gpubackprop as gb
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
    assert plotting.loss_curves(history([1.0, 0.5]), ax=axes) is axes


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


def test_validation_is_a_dashed_line_and_its_best_epoch_a_ring():
    run = history([1.0, 0.5, 0.4])
    run.validation_loss, run.best_epoch = [1.2, 0.9, 1.1], 1
    training, validation, ring = plotting.loss_curves(run).get_lines()
    assert training.get_linestyle() == "-"
    assert validation.is_dashed()
    assert training.get_color() == validation.get_color()
    np.testing.assert_array_equal(validation.get_ydata(), [1.2, 0.9, 1.1])
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([2], [0.9])
    assert len(plotting.loss_curves(run, validation=False).get_lines()) == 1


# ---- throughput ----------------------------------------------------------------------------------


def test_bars_are_as_long_as_what_was_measured():
    results = [
        {"mode": mode, "backend": "numpy", "executor": executor, "samples_per_second": speed}
        for mode, executor, speed in (
            ("sgd", "eager", 1000.0), ("sgd", "compiled", 50_123.0), ("batch", "eager", 7.0e6),
            ("batch", "compiled", None),
        )
    ]  # fmt: skip
    ax = plotting.throughput(results)
    assert [bar.get_width() for bar in ax.patches] == [1000.0, 7.0e6, 50_123.0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["sgd", "batch"]
    assert [t.get_text() for t in ax.texts] == ["1,000", "7,000,000", "50,100"]
    # Each bar lies within its mode's group, and the two of one mode do not overlap.
    sgd_eager, batch, sgd_compiled = ax.patches
    assert sgd_eager.get_y() + sgd_eager.get_height() <= sgd_compiled.get_y()
    assert 0.5 < batch.get_y() < 1.5
    with pytest.raises(ValueError, match="results must hold one with samples_per_second"):
        plotting.throughput(results[-1:])


def test_results_of_compare_are_drawn():
    slow = result("sgd")
    object.__setattr__(slow, "samples_per_second", 123.0)
    assert plotting.throughput([slow]).patches[0].get_width() == 123.0


# ---- layers --------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)


def medians(ax):
    """Return the place of each layer's stroke."""
    return [c.get_segments()[0][0, 0] for c in ax.collections if hasattr(c, "get_segments")]


def test_weight_histograms_count_every_weight():
    W = [RNG.normal(size=(40, 30)), 3 * RNG.normal(size=(5, 40))]
    ax = plotting.weight_histograms(W)
    np.testing.assert_allclose(medians(ax), [np.median(W[0]), np.median(W[1])])
    for l, outline in enumerate(ax.patches[1::2]):
        heights, edges, floor = outline.get_data()
        counts = np.histogram(W[l], edges)[0]
        assert counts.sum() == W[l].size
        np.testing.assert_allclose(heights - floor, 0.85 * counts / counts.max(), atol=1e-12)
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "W[0]\n1,200 weights",
        "W[1]\n200 weights",
    ]
    with pytest.raises(ValueError, match="layer 1 does not"):
        plotting.weight_histograms([W[0], [[np.nan]]])


def test_vanishing_gradients_are_seen():
    """A quarter at each sigmoid layer at most: the medians move to the left layer by layer."""
    sizes = [16, *[12] * 5, 4]
    net = gb.Network(sizes, "sigmoid", "softmax", backend="numpy", rng=0)
    trace = net.trace(RNG.normal(size=(50, 16)), RNG.integers(4, size=50))
    ax = plotting.delta_histograms(trace)
    assert ax.get_xscale() == "log"
    found = medians(ax)
    np.testing.assert_allclose(found, [np.median(np.abs(d)) for d in trace.delta], rtol=1e-6)
    assert found == sorted(found)


def test_deltas_that_are_zero_are_counted():
    ax = plotting.delta_histograms([[[0.0, 0.5], [0.0, 0.2]], [[1e-3, 0.2]], [[0.0, 0.0]]])
    notes = [t.get_text() for t in ax.texts]
    assert notes == ["median 3.5e-01\n50% are 0", "median 1.0e-01", "all are 0"]
    with pytest.raises(ValueError, match="a delta other than 0"):
        plotting.delta_histograms([[[0.0]]])


# ---- images, boundaries, networks ----------------------------------------------------------------


def test_each_unit_is_an_image():
    W = RNG.normal(size=(7, 12))
    ax = plotting.first_layer_weights([W], (3, 4))
    sheet = np.asarray(ax.images[0].get_array().filled(np.nan))
    for k, text in enumerate(ax.texts):
        assert text.get_text() == str(k)
        x, y = round(text.get_position()[0] - 1.5), round(text.get_position()[1] + 0.7)
        np.testing.assert_array_equal(sheet[y : y + 3, x : x + 4], W[k].reshape(3, 4))
    low, high = ax.images[0].get_clim()
    assert low == -high
    with pytest.raises(ValueError, match="an image of 12 inputs, got \\(3, 3\\) by default"):
        plotting.first_layer_weights([W])


def test_of_many_units_the_largest_are_shown():
    W = np.ones((6, 4)) * np.array([[1], [5], [2], [7], [3], [0]])
    ax = plotting.first_layer_weights([W], most=3)
    assert [t.get_text() for t in ax.texts] == ["1", "3", "4"]
    assert "3 more are smaller" in ax.get_xlabel()


def test_the_boundary_is_where_the_network_is_undecided():
    """One sigmoid unit: a straight line, W @ x + b = 0."""
    net = gb.Network([2, 1], output="sigmoid", loss="log_loss", backend="numpy", rng=0)
    net.weights[0][...], net.biases[0][...] = [[2.0, -1.0]], [0.5]
    X = RNG.normal(size=(40, 2))
    y = (X @ [2.0, -1.0] + 0.5 > 0).astype(int)
    ax = plotting.decision_boundary(net, X, y, features=("u", "v"))
    lines = [path.vertices for c in ax.collections for path in c.get_paths() if len(path) > 50]
    assert lines
    for points in lines:
        np.testing.assert_allclose(points @ [2.0, -1.0] + 0.5, 0, atol=0.02)
    drawn = [c.get_offsets() for c in ax.collections if len(c.get_offsets()) > 1]
    np.testing.assert_array_equal(drawn[0], X[y == 0])
    np.testing.assert_array_equal(drawn[1], X[y == 1])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("u", "v")
    with pytest.raises(ValueError, match="two features"):
        plotting.decision_boundary(net, X[:, :1], y)


def test_regions_are_those_of_predict_proba():
    class Halves:
        classes_ = np.array(["no", "yes"])

        def predict_proba(self, X):
            yes = (X[:, 0] > 0).astype(float)
            return np.stack([1 - yes, yes], axis=1)

    ax = plotting.decision_boundary(Halves(), [[-1, 0], [1, 1]], ["no", "yes"])
    colors = np.asarray(ax.images[0].get_array())[..., :3]
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 2
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["no", "yes"]


def test_lines_of_a_network_follow_its_weights():
    W = [np.array([[1.0, -2.0], [0.5, 0.0]]), np.array([[-1.0, 4.0]])]
    ax = plotting.draw_network(W, inputs=["left", "right"], outputs=["o"])
    drawn = {(line.get_xdata()[0], line.get_gid()): line for line in ax.get_lines()}
    assert len(drawn) == 6
    start = sorted({x for x, _ in drawn})
    for l, layer in enumerate(W):
        widths = {
            (k, m): drawn[start[l], f"W[{k}, {m}]"]
            for k in range(len(layer)) for m in range(layer.shape[1])
        }  # fmt: skip
        for place, line in widths.items():
            assert line.is_dashed() == (layer[place] < 0)
            wider = 0.4 + 3.4 * abs(layer[place]) / np.abs(layer).max()
            assert line.get_linewidth() == pytest.approx(wider)
    words = [t.get_text() for t in ax.texts]
    assert {"left", "right", "o", "-2.00", "4.00"} <= set(words)
    with pytest.raises(ValueError, match="inputs must have 2 names, got 1"):
        plotting.draw_network(W, inputs=["left"])
    with pytest.raises(ValueError, match="most must be an integer >= 3, got 2"):
        plotting.draw_network(W, most=2)


def test_large_layers_are_folded():
    net = gb.Network([64, 32, 10], backend="numpy", rng=0)
    ax = plotting.draw_network(net)
    assert len(ax.patches) == 8 + 8 + 10
    assert len(ax.get_lines()) == 8 * 8 + 8 * 10
    words = [t.get_text() for t in ax.texts]
    assert "… 56 more" in words
    assert "… 24 more" in words
    norms = np.linalg.norm(net.weights[0], axis=0)
    shown = {int(word) for word in words[1:9]}  # below the title
    assert shown == set(np.argsort(-norms)[:8].tolist())


def test_what_has_coefs_is_an_estimator():
    class Fitted:
        coefs_ = np.zeros((3, 2)), np.ones((2, 1))

    assert len(plotting.draw_network(Fitted()).patches) == 3 + 2 + 1


def test_every_picture_without_axes_has_a_figure_of_its_own(tmp_path):
    net = gb.Network([4, 3, 2], backend="numpy", rng=0)
    pictures = [
        plotting.loss_curves(history([1.0, 0.5])), plotting.draw_network(net),
        plotting.weight_histograms(net), plotting.first_layer_weights(net),
        plotting.delta_histograms(net.trace([[1.0, 2.0, 3.0, 4.0]], [1])),
    ]  # fmt: skip
    for k, ax in enumerate(pictures):
        ax.figure.savefig(tmp_path / f"{k}.png")
        assert (tmp_path / f"{k}.png").read_bytes().startswith(b"\x89PNG")


def test_networks_of_every_backend_are_drawn(backend):
    net = gb.Network([2, 3, 1], output="sigmoid", loss="log_loss", backend=backend, rng=0)
    expected = [backend.to_numpy(W) for W in net.weights]
    widths = [line.get_linewidth() for line in plotting.draw_network(net).get_lines()]
    drawn = [line.get_linewidth() for line in plotting.draw_network(expected).get_lines()]
    assert widths == drawn
    ax = plotting.decision_boundary(net, [[0.0, 1.0], [1.0, 0.0]], [0, 1])
    assert ax.images[0].get_array().shape == (300, 300, 3)
