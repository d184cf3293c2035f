"""The equations of a step: each is an expression of Python whose value is the step's number."""

import json
import math
import re
from html import unescape

import numpy as np
import pytest
from conftest import close
from random_networks import allowed_pairs, random_network

import gpubackprop as gb
from gpubackprop.diagram import columns
from gpubackprop.expressions import parse
from gpubackprop.worked.equations import Equations
from gpubackprop.worked.formulas import Number, evaluate, fill, product
from gpubackprop.worked.page import content
from gpubackprop.worked.update import UpdateEquations

#: What formulas may call, from Python's own mathematics.
FUNCTIONS = {
    "exp": math.exp, "expm1": math.expm1, "log1p": math.log1p, "tanh": math.tanh, "erf": math.erf,
    "sqrt": math.sqrt, "fabs": abs, "fmax": max, "fmin": min,
    "log": lambda x: math.log(x) if x > 0 else -math.inf,
    "where": lambda condition, x, y: x if condition else y,
}  # fmt: skip
RNG = np.random.default_rng(12)


def value_of(tokens) -> float:
    """Let Python compute a right side."""
    text = "".join(t if isinstance(t, str) else f"({t.value!r})" for t in tokens)
    return eval(text, {"__builtins__": {}, **FUNCTIONS})


def numbers_of(step, name: str, s: int = 0) -> float:
    """Return what an equation's left side names, from the arrays of the trace."""
    if name == "loss":
        return step.loss
    new, array, l, index = re.fullmatch(r"(new )?(\w+)\[(\d+)\]\[([\d, ]+)\]", name).groups()
    found = getattr(step, ("new_" if new else "") + array)[int(l)]
    index = tuple(map(int, index.split(",")))
    return found[(0, *index) if len(index) < found.ndim else index]


def every_equation(step):
    """Return every equation of a step whose left side is one of the trace's numbers, and others."""
    equations, n = Equations(step), len(step.Y)
    found = []
    for l, W in enumerate(step.W):
        for j, i in np.ndindex(W.shape):
            found.append(equations.weight_gradient(l, j, i))
        for j in range(len(W)):
            for s in range(n):
                found += equations.forward(l, s, j) + equations.delta(l, s, j)
            if step.b[l] is not None:
                found.append(equations.bias_gradient(l, j))
    for s in range(n):
        found += equations.loss(s)
    if step.update is not None:
        update = UpdateEquations(step, step.update)
        for l, W in enumerate(step.W):
            for j, i in np.ndindex(W.shape):
                found += update.weight(l, j, i)
            for j in range(len(W) if step.b[l] is not None else 0):
                found += update.bias(l, j)
    return found


def check(step, dtype="float64", factor=1.0):
    """Compare right sides with values, and values with the trace; return the left sides."""
    named = set()
    for equation in every_equation(step):
        close(value_of(equation.tokens), equation.value, dtype, factor=factor)
        if equation.name == "loss" or re.match(r"(new )?(z|a|delta|dW|db|W|b)\[", equation.name):
            named.add(equation.name)
            close(equation.value, numbers_of(step, equation.name), dtype)
    return named


@pytest.mark.parametrize("i", range(len(allowed_pairs())))
def test_every_equation_of_every_pair(i):
    net, data = random_network(i)
    step = net.trace(**data)
    named = check(step, factor=100)
    n = len(step.Y)
    units = sum(net.model.sizes[1:])
    per_unit = [name for name in named if re.match(r"(z|a|delta)\[", name)]
    assert len(per_unit) == 3 * units * n
    assert len([name for name in named if name.startswith("dW")]) == sum(W.size for W in step.W)
    assert "loss" in named


def test_on_every_backend(backend):
    """With dropout, weights, frozen entries and slots that hold something."""
    net, data = random_network(9, backend)
    assert any(net.model.dropout)
    optimizer = gb.Adam(0.01)
    trainable = [np.arange(W.size).reshape(W.shape) % 2 == 0 for W in net.weights], None
    net.step(**data, optimizer=optimizer, trainable=trainable)
    check(net.trace(**data, optimizer=optimizer, trainable=trainable), factor=1000)


OPTIMIZERS = [
    gb.SGD(0.1), gb.SGD(0.1, momentum=0.9), gb.SGD(0.1, momentum=0.9, nesterov=True),
    gb.RMSprop(0.01), gb.Adam(0.01), gb.AdamW(0.01, weight_decay=0.1), gb.Rprop(),
    gb.SGD(0.1, l1=0.01, l2=0.1), gb.SGD(0.1, clip_norm=1e-3, l2=0.1, weight_decay=0.2),
]  # fmt: skip


@pytest.mark.parametrize("trainable", [None, ([True, False, True], None)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_update(optimizer, trainable):
    net = gb.Network([2, 2, 1, 3], ["tanh", "silu"], rng=11, dtype="float64", backend="numpy")
    X, Y = RNG.normal(size=(2, 2)), RNG.integers(3, size=2)
    for _ in range(2):  # the second time the slots hold something
        step = net.trace(X, Y, optimizer, trainable=trainable)
        named = check(step, factor=1000)
        assert len([n for n in named if n.startswith("new W")]) == sum(W.size for W in step.W)
        assert len([n for n in named if n.startswith("new b")]) == sum(b.size for b in step.b)
        net.step(X, Y, optimizer, trainable=trainable)


def test_the_stages_of_an_update_stand_in_order():
    net = gb.Network([2, 2], output="softmax", backend="numpy", rng=0, dtype="float64")
    frozen = [np.array([[True, False], [True, True]])]
    optimizer = gb.SGD(0.1, l2=0.5, clip_norm=1e-3, weight_decay=0.2)
    step = net.trace([[1.0, 2.0]], [0], optimizer, trainable=(frozen, None))
    update = UpdateEquations(step, step.update)
    found = [(e.name, e.symbols()) for e in update.weight(0, 0, 1)]
    assert found == [
        ("g", "dW[0][0, 1] + l2 * W[0][0, 1]"),
        ("g", "g * trainable"),
        ("g", "g * (clip_norm / norm)"),
        ("w", "W[0][0, 1] - trainable * rate * W[0][0, 1]"),
        ("new W[0][0, 1]", "w - learning_rate * g"),
    ]
    assert len(update.weight(0, 0, 0)) == 4  # it may move: nothing to say about that
    assert [e.name for e in update.bias(0, 1)] == ["g", "new b[0][1]"]


def test_float32_and_its_short_numbers():
    net = gb.Network([2, 2, 1], "sigmoid", "sigmoid", "log_loss", backend="numpy", rng=0)
    net.weights[0][...] = [[0.15, 0.2], [0.25, 0.3]]
    step = net.trace([[0.05, 0.1]], [1], gb.SGD(0.5))
    check(step, "float32", factor=10)
    tokens = Equations(step).forward(0, 0, 0)[0].tokens
    assert [t.value for t in tokens if isinstance(t, Number)][:4] == [0.15, 0.05, 0.2, 0.1]


def test_the_words_of_the_chain_rule():
    """delta of a hidden unit as it is written by hand."""
    net = gb.Network([4, 2, 2, 1], "sigmoid", "identity", "squared", backend="numpy", rng=0)
    equations = Equations(net.trace(np.ones((1, 4)), [1.0]))
    (delta,) = equations.delta(1, 0, 0)
    assert delta.name == "delta[1][0]"
    assert delta.symbols() == "(delta[2][0] * W[2][0, 0]) * a[2][0] * (1 - a[2][0])"
    elements = [t.element for t in delta.tokens if isinstance(t, Number)]
    assert elements == ["n3_0", "e2_0_0", "n2_0", "n2_0"]
    (delta,) = equations.delta(2, 0, 0)
    assert delta.symbols() == "a[3][0] - Y[0]"
    assert equations.weight_gradient(0, 1, 3).symbols() == "delta[0][1] * a[0][3]"
    z, a = equations.forward(1, 0, 1)
    assert z.symbols() == "W[1][1, 0] * a[1][0] + W[1][1, 1] * a[1][1] + b[1][1]"
    assert a.symbols() == "1 / (1 + exp(-z[1][1]))"


def test_formulas_are_the_tables_own():
    """A formula of one's own is printed, with its parameters."""
    steep = gb.Activation("steep", f="tanh(k * z)", df="k * (1 - a * a)", k=2.0)
    absolute = gb.Loss("fourth", f="(o - y) ** 4", df="4 * (o - y) ** 3")
    net = gb.Network([2, 2, 1], steep, steep, absolute, backend="numpy", rng=0, dtype="float64")
    step = net.trace([[1.0, -2.0]], [0.3], "sgd")
    check(step)
    equations = Equations(step)
    assert equations.forward(0, 0, 0)[1].symbols() == "tanh(k * z[0][0])"
    assert equations.delta(0, 0, 1)[0].symbols() == (
        "(delta[1][0] * W[1][0, 1]) * k * (1 - a[1][1] * a[1][1])"
    )


def test_saturated_softmax_is_written_without_overflow():
    net = gb.Network([1, 3], output="softmax", backend="numpy", rng=0, dtype="float64")
    net.weights[0][...] = [[1000.0], [999.0], [-1000.0]]
    step = net.trace([[1.0]], [0])
    a = Equations(step).forward(0, 0, 1)[1]
    close(value_of(a.tokens), 1 / (1 + math.e), "float64", factor=10)


def test_large_layers_and_batches_are_summed_at_once():
    net = gb.Network([64, 32, 10], backend="numpy", rng=0, dtype="float64", hidden="tanh")
    step = net.trace(RNG.normal(size=(20, 64)), RNG.integers(10, size=20), "sgd")
    equations = Equations(step)
    assert [(len(c.units), c.folded) for c in equations.columns] == [(8, 56), (8, 24), (10, 0)]
    z = equations.forward(0, 3, equations.columns[1].units[0])[0]
    assert "(56 more)" in z.symbols()
    gradient = equations.weight_gradient(1, 9, equations.columns[1].units[2])
    assert "(13 more samples)" in gradient.symbols()
    hidden = equations.columns[1].units[2]
    for equation in (z, gradient, *equations.delta(0, 19, hidden), *equations.loss(2)):
        close(value_of(equation.tokens), equation.value, "float64", factor=100)
    outputs = gb.Network([4, 20], "sigmoid", "sigmoid", "log_loss", backend="numpy", rng=0,
                         dtype="float64")  # fmt: skip
    step = outputs.trace(RNG.normal(size=(1, 4)), RNG.integers(2, size=(1, 20)))
    (loss,) = Equations(step).loss(0)
    assert "(the others)" in loss.symbols()
    close(value_of(loss.tokens), step.loss, "float64", factor=10)


def test_products_lose_their_brackets_and_nothing_else():
    text = "x * (y * (z * 2)) * (1 + x * (y * z))"
    values = {"x": 1.5, "y": -2.0, "z": 0.25}
    node = product(parse(text))
    assert value_of(fill(node, {k: Number(v) for k, v in values.items()})) == eval(text, {}, values)
    assert "".join(fill(node, {k: k for k in values})) == "x * y * z * 2 * (1 + x * (y * z))"


@pytest.mark.parametrize("text", ["where(x < 0, exp(x), erf(y))", "fmax(x, y) / -y", "x ** 3 - 1"])
def test_evaluate(text):
    for x, y in ((-0.5, 2.0), (0.5, -1.0)):
        expected = eval(text, {"__builtins__": {}, **FUNCTIONS}, {"x": x, "y": y})
        assert evaluate(parse(text), {"x": x, "y": y}) == pytest.approx(expected, rel=1e-14)


def test_columns_keep_what_matters():
    W = [np.array([[0.0, 3.0, 0.0, 1.0, 2.0]])]
    (inputs, output) = columns(W, most=4)
    assert (inputs.units, inputs.folded) == ((1, 4), 3)
    assert (output.units, output.folded) == ((0,), 0)
    assert inputs.heights(5) == [1.0, 2.0, 3.0]
    (inputs, _) = columns(W, [np.array([1.0, 0.1, 9.0, 9.0, 1.0]), np.ones(1)], most=4)
    assert inputs.units == (3, 4)


# ---- the page ------------------------------------------------------------------------------------


def make_page():
    net = gb.Network([3, 2, 2], "tanh", backend="numpy", rng=0, dtype="float64")
    return net.trace(RNG.normal(size=(3, 3)), [0, 1, 1], gb.SGD(0.1, momentum=0.9))


def test_the_page_holds_every_equation_and_loads_nothing():
    pytest.importorskip("jinja2")
    step = make_page()
    text = step.to_html()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|@import|url\(|fetch\(|XMLHttp""", text)
    assert "default-src 'none'" in text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert json.loads(data) == json.loads(json.dumps(content(step)))
    shown = json.loads(data)
    assert [stage["title"] for stage in shown["stages"]] == [
        "Input", "Forward 0", "Forward 1", "Loss", "Back 1", "Back 0", "Update",
    ]  # fmt: skip
    for elements in [shown["elements"], *shown["samples"]]:
        for element in elements.values():
            for _, _, tokens, value, _ in element["equations"]:
                known = [t[2] for t in tokens if not isinstance(t, str) and t[2]]
                assert set(known) <= set(shown["elements"])
                if tokens:
                    right = [t if isinstance(t, str) else Number(t[0]) for t in tokens]
                    close(value_of(right), value, "float64", factor=100)
    assert str(step).splitlines()[4] in unescape(text)


def test_samples_are_as_many_as_asked_for():
    pytest.importorskip("jinja2")
    step = make_page()
    assert len(content(step, 2)["samples"]) == 2
    with pytest.raises(ValueError, match="samples must be an integer >= 1, got 0"):
        step.to_html(samples=0)


def test_text_of_the_users_cannot_end_the_script():
    pytest.importorskip("jinja2")
    mine = gb.Activation("bent", f="where(z < 0, tanh(z), tanh(z))", df="1 - a * a")
    text = (
        gb.Network([1, 1], mine, mine, "squared", backend="numpy").trace([[1.0]], [1.0]).to_html()
    )
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert "<" not in data
    assert "where(" in json.dumps(json.loads(data))


def test_a_step_that_diverged_has_a_page():
    pytest.importorskip("jinja2")
    net = gb.Network([1, 2], "relu", "identity", "squared", backend="numpy", dtype="float32")
    net.weights[0][...] = 1e30
    step = net.trace([[1e30]], [[1.0, 1.0]], "sgd")
    assert '"inf"' in step.to_html()


def test_a_notebook_gets_a_frame_of_its_own():
    pytest.importorskip("jinja2")
    step = make_page()
    frame = step._repr_html_()
    assert frame.startswith("<iframe ")
    assert 'sandbox="allow-scripts"' in frame
    (page,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert unescape(page) == step.to_html()


def test_without_jinja2_a_notebook_shows_text(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    step = make_page()
    assert step._repr_html_() is None
    with pytest.raises(ImportError, match=r"jinja2 is not installed.*gpubackprop\[plot\]"):
        step.to_html()
