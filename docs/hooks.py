"""What the documentation's build adds: the pages of the worked steps, made by the examples."""

import importlib.util
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

EXAMPLES = Path(__file__).parents[1] / "examples"
#: By example: how its `run` is called, and which of its results is the trace.
STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "one_weight": ({}, "trace"),
    "four_layers": ({}, "trace"),
    "two_hidden_layers": ({}, "trace"),
    "mazur": ({"rounds": 2}, "trace"),
    "saturation": ({"w": 2.0, "b": 2.0}, "first"),
    "xor": ({}, "trace"),
}


def on_files(files: Any, config: Any) -> Any:
    """Write each worked step's page, as ``worked/<example>.html``."""
    for name in (*STEPS, "digits"):
        trace = digits() if name == "digits" else step(name)
        file = File.generated(config, f"worked/{name}.html", content=trace.to_html())
        files.append(file)
    return files


def step(name: str) -> Any:
    """Run an example and return its trace."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options, result = STEPS[name]
    return module.run(**options)[result]


def digits() -> Any:
    """Return a step of a 64-32-10 network on four images of digits."""
    from sklearn.datasets import load_digits

    import gpubackprop as gb

    X, Y = load_digits(return_X_y=True)
    net = gb.Network([64, 32, 10], hidden="sigmoid", backend="numpy", rng=0)
    net.fit(X[:1400] / 16, Y[:1400], epochs=3, optimizer=gb.SGD(1.0), executor="eager")
    return net.trace(X[1400:1404] / 16, Y[1400:1404], gb.SGD(0.1))
