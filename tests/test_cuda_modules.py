"""Sources of the CUDA kernels: how few there are, and what is printed into them."""

import re

import numpy as np
import pytest
from random_networks import random_network

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS, LEAKY_RELU, SOFTMAX, Activation
from gpubackprop.backends.cuda import functions, modules
from gpubackprop.losses import HUBER, Loss
from gpubackprop.optimizers import OPTIMIZERS, SGD, Adam

OPTIMIZER = SGD(0.1, momentum=0.9, l1=0.1, l2=0.1)


def model_of(*arguments, **options):
    return gb.Network(*arguments, backend="numpy", rng=0, **options).model


@pytest.mark.parametrize("unit", modules.UNITS)
def test_two_hundred_random_networks_need_a_handful_of_compiles(unit):
    """One for each loss at most, and one for each optimiser's formulas; block has both."""
    optimizers = [kind() for kind in OPTIMIZERS.values()]
    texts = set()
    for i in range(200):
        made_of = modules.formulas(random_network(i)[0].model, optimizers[i % len(optimizers)])
        texts.add(modules.source(unit, made_of))
    # Adam and AdamW have one formula.
    losses, steps = len(gb.LOSSES), len(OPTIMIZERS) - 1
    most = {"layers": 1, "gemm": 1, "output": losses, "update": steps, "block": losses * steps}
    assert len(texts) <= most[unit]
    assert (unit == "block") or len(texts) == most[unit]


def test_numbers_are_not_in_the_source():
    texts = set()
    for slope, limit, rate in ((0.1, 1.0, 0.5), (0.25, 3.0, 0.75)):
        model = model_of([2, 3, 1], LEAKY_RELU(slope=slope), "identity", HUBER(limit=limit))
        optimizer = Adam(rate, beta1=rate, l2=slope, weight_decay=limit)
        made_of = modules.formulas(model, optimizer)
        texts.add(tuple(modules.source(unit, made_of) for unit in modules.UNITS))
        values, first = functions.layer_constants(model)
        assert slope in values
        assert values[first[1] :].count(limit) >= 1
        assert rate in functions.optimizer_constants(optimizer)
    assert len(texts) == 1


def test_an_activation_of_ones_own_joins_the_table():
    softsign = Activation("softsign", f="z / (1 + fabs(z))", df="(1 - fabs(a)) ** 2")
    model = model_of([2, 3, 1], softsign, "identity")
    known = functions.kinds(model)
    assert known[:-1] == tuple(ACTIVATIONS.values())
    assert functions.kind(softsign, known) == len(ACTIVATIONS)
    assert "softsign" in functions.activation_functions(known)
    assert known[functions.kind(SOFTMAX, known)] == SOFTMAX


def test_a_loss_of_ones_own():
    quartic = Loss(
        "quartic", f="strength * (o - y) ** 4", df="4 * strength * (o - y) ** 3", strength=2
    )
    model = model_of([2, 1], output="identity", loss=quartic)
    text = modules.source("output", modules.formulas(model))
    assert "const T strength = _C[0];" in text
    assert functions.layer_constants(model)[0] == [2.0, 8.0]  # of the loss, and 4 * strength


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unit", modules.UNITS)
def test_every_number_has_the_arrays_type(unit, dtype):
    model = model_of([2, 3], dtype=dtype)
    made_of = modules.formulas(model, OPTIMIZER)
    text = modules.source(unit, made_of)
    assert f"typedef {'float' if dtype == 'float32' else 'double'} T;" in text
    printed = text.split("typedef T real;")[0]
    bare = re.sub(r"T\(-?[\d.e+-]+\)|record_loss.*?\n}", "", printed, flags=re.DOTALL)
    assert not re.search(r"\d\.\d|\de-?\d", bare)


def test_kernel_files_hold_no_formulas():
    """They call the printed functions; softmax's shift and the gradient's norm are structure."""
    for unit in ("common", "rows", *modules.UNITS):
        code = re.sub(r"//.*", "", modules.read(f"{unit}.cu"))
        used = set(re.findall(r"\b(exp|expm1|log|log1p|tanh|erf|sqrt|fabs|fmax|fmin)\(", code))
        norms = {"update": {"sqrt"}, "block": {"sqrt"}}
        assert used <= {"rows": {"log"}, **norms}.get(unit, set()), unit


@pytest.mark.parametrize("unit", modules.UNITS)
def test_the_kernels_are_where_they_are_said_to_be(unit):
    found = re.findall(r"__launch_bounds__\(\d+, \d\)\s+(\w+)\(", modules.read(f"{unit}.cu"))
    assert tuple(found) == modules.KERNELS[unit]


def test_rows_of_scalars():
    assert functions.row_length(SGD(0.1)) == 2
    assert functions.row_length(Adam()) == 3
    assert functions.row_length(OPTIMIZER) == 4
    assert "const T l2 = _S[1];" in functions.optimizer_functions(OPTIMIZER)
    assert "const T learning_rate = _S[3];" in functions.optimizer_functions(OPTIMIZER)


def test_layouts_are_those_of_the_sources():
    common = modules.read("common.cu")
    assert f"sizeof(State) == {modules.STATE.itemsize}" in common
    names = re.search(r"struct State \{(.*?)\};", common, re.DOTALL)[1]
    assert tuple(re.findall(r"long long (\w+);", names)) == modules.STATE.names
    for dtype, layout in modules.DROPOUT.items():
        assert layout.itemsize == 32
        assert layout["scale"] == np.dtype(dtype)
