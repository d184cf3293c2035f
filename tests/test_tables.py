"""Tables: what is read, how it is prepared, and what comes back."""

import numpy as np
import pytest

from gpubackprop import Network, Schema, tables
from gpubackprop.tables import Category, Number, Plan, Preprocessing, Target, open_table
from gpubackprop.tables.split import HeldOut

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")


def people(n: int = 500, seed: int = 0):
    """Return a table with numbers, categories, missing values and three kinds of targets."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 10, n).round(1),
            "children": rng.integers(0, 6, n),
            "colour": rng.choice(["red", "green", "blue, dark"], n).astype(object),
            "weight": rng.random(n).round(3),
            "floor": rng.integers(1, 4, n),
        }
    )
    frame["kind"] = np.where(frame.height + 5 * frame.children > 182, "tall", "small")
    frame["pay"] = (100 * frame.children + frame.height + rng.normal(size=n)).round(2)
    frame.loc[rng.random(n) < 0.1, "height"] = np.nan
    frame.loc[rng.random(n) < 0.1, "colour"] = None
    return frame


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "people.csv"
    people().to_csv(path, index=False)
    return path


def fitted(path, **plan):
    """Return table and what the first pass finds."""
    how = {name: plan.pop(name) for name in ("block_bytes", "missing_values") if name in plan}
    table = open_table(path, **how)
    return table, tables.fit(table, Plan(**plan))


# ---- the preparation against scikit-learn's ------------------------------------------------------


def transformed(frame, numbers, categories):
    """Return what scikit-learn makes of a table."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    parts = [
        (
            name,
            make_pipeline(StandardScaler(), SimpleImputer(strategy="constant", fill_value=0.0))
            if name in numbers
            else make_pipeline(
                SimpleImputer(missing_values=np.nan, strategy="constant", fill_value="~missing"),
                OneHotEncoder(sparse_output=False),
            ),
            [name],
        )
        for name in [*numbers, *categories]
    ]
    return ColumnTransformer(parts).fit_transform(frame)


def test_inputs_are_those_of_scikit_learn(csv):
    table, found = fitted(csv, target="kind", drop=("pay", "weight", "floor"))
    rows, held_out = tables.encode(table, found, dtype="float64")
    assert held_out is None
    expected = transformed(people(), ["height", "children"], ["colour"])
    np.testing.assert_allclose(rows.X, expected, rtol=1e-12, atol=1e-12)
    assert found.preprocessing.inputs == (
        "height", "children", "colour=blue, dark", "colour=green", "colour=red",
        "colour is missing",
    )  # fmt: skip
    assert found.labels == ["small", "tall"]
    np.testing.assert_array_equal(rows.Y, (people().kind == "tall").astype(int))


@pytest.mark.parametrize("folder", [False, True])
def test_small_chunks_and_files_hold_the_same_rows(csv, tmp_path, folder):
    plan = {"target": "pay", "weight": "weight", "validation": 0.25, "seed": 3}
    whole = tables.encode(*fitted(csv, **plan))
    table, found = fitted(csv, block_bytes=700, **plan)
    assert len(list(table.chunks(["pay"]))) > 20
    parts = tables.encode(table, found, folder=tmp_path if folder else None)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.X, other.X, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(one.Y, other.Y, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(one.weight, other.weight)
        assert isinstance(other.X, np.memmap) == folder
        assert other.X.dtype == np.float32


def test_parquet_and_arrays_hold_the_same_rows(csv, tmp_path):
    frame = people()
    frame.to_parquet(tmp_path / "people.parquet")
    drop = ("colour", "kind", "height")
    names = [name for name in frame if name not in (*drop, "pay")]
    arrays = {"X": frame[names].to_numpy(np.float64), "Y": frame.pay.to_numpy()}
    np.savez(tmp_path / "people.npz", **arrays)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    np.save(tmp_path / "people.npy", np.column_stack([arrays["X"], arrays["Y"]]))
    expected = tables.encode(*fitted(csv, target="pay", drop=drop))[0]
    for name, plan in (
        ("people.parquet", {"target": "pay", "drop": drop}),
        ("people.npz", {}),
        ("small.npz", {}),
        ("people.npy", {"target": str(len(names))}),
    ):
        rows = tables.encode(*fitted(tmp_path / name, **plan))[0]
        np.testing.assert_allclose(rows.X, expected.X, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rows.Y, expected.Y, rtol=1e-5, atol=1e-6)
    mapped = open_table(tmp_path / "people.npz")._X
    assert isinstance(mapped.base if mapped.base is not None else mapped, np.memmap)


def test_preprocessing_survives_json(csv):
    made = fitted(csv, target="pay")[1].preprocessing
    assert Preprocessing.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "is not one of gpubackprop.tables"),
        ("{}", "is not one of gpubackprop.tables"),
        ('{"tables": 9}', "version 9"),
        ('{"tables": 1, "columns": [{"kind": "number"}], "target": null}', "KeyError"),
        ('{"tables": 1, "columns": [{"kind": "number", "name": "a", "mean": 0, "scale": 0}], '
         '"target": null}', "scale 0"),
        ('{"tables": 1, "columns": [{"kind": "code", "name": "a"}], "target": null}', "'code'"),
    ],
)  # fmt: skip
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_json(text)


# ---- what is held out ----------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "n"), [(0.2, 150), (0.1, 1000), (0.3, 77), (0.0, 50)])
def test_held_out_rows_are_spread_and_do_not_depend_on_chunks(share, n):
    whole = HeldOut(share, 1).mask(n)
    draw = HeldOut(share, 1)
    cut = np.concatenate([draw.mask(size) for size in (1, 6, 0, n - 17, 10)])
    np.testing.assert_array_equal(whole, cut)
    assert abs(whole.sum() - share * n) <= max(2, 0.1 * share * n)
    if share:
        gaps = np.diff(np.flatnonzero(whole))
        assert gaps.max() <= 2 / share + 1
        assert (HeldOut(share, 2).mask(n) != whole).any()


def test_means_are_those_of_the_training_rows(csv):
    table, found = fitted(csv, target="kind", validation=0.2)
    rows, held_out = tables.encode(table, found, dtype="float64")
    place = found.preprocessing.inputs.index("pay")
    np.testing.assert_allclose(rows.X[:, place].mean(), 0, atol=1e-12)
    np.testing.assert_allclose(rows.X[:, place].std(), 1, rtol=1e-12)
    assert abs(held_out.X[:, place].mean()) > 1e-6
    assert len(rows.X) == found.n_training
    assert len(held_out.X) == found.n_validation
    assert found.n_training + found.n_validation == 500


# ---- kinds of columns and targets ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["b", "a", "b", "c"], ["a", "b", "c"]),
        ([3, 1, 3, 1], [1, 3]),
        ([2.0, 1.0, 2.0, 2.0], [1.0, 2.0]),
        ([True, False, True, True], [False, True]),
        ([1.5, 2.0, 3.0, 2.5], None),
        (list(range(30)), None),
    ],
)
def test_the_target_says_which_task_it_is_and_labels_keep_their_type(tmp_path, values, labels):
    frame = pd.DataFrame({"x": np.arange(len(values), dtype=float), "y": values})
    frame.to_parquet(tmp_path / "t.parquet")
    found = fitted(tmp_path / "t.parquet", target="y")[1]
    assert found.labels == labels
    if labels:
        assert type(found.labels[0]) is type(labels[0])
    frame.to_csv(tmp_path / "t.csv", index=False)
    text = fitted(tmp_path / "t.csv", target="y")[1].labels
    assert text == ([str(label) for label in labels] if labels == [False, True] else labels)


def test_a_task_can_be_chosen(csv):
    assert fitted(csv, target="children", task="regression")[1].labels is None
    assert fitted(csv, target="floor")[1].labels == [1, 2, 3]
    with pytest.raises(ValueError, match="target must hold numbers, and 'kind' holds text"):
        fitted(csv, target="kind", task="regression")


def test_rows_without_a_target_are_left_out(tmp_path):
    frame = people()
    frame.loc[[3, 8, 400], "kind"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    table, found = fitted(tmp_path / "t.csv", target="kind", block_bytes=900, drop=("colour",))
    rows, _ = tables.encode(table, found, dtype="float64")
    assert (found.n_left_out, len(rows.X)) == (3, 497)
    known = frame[frame.kind.notna()]
    np.testing.assert_array_equal(rows.Y, (known.kind == "tall").astype(int))
    numbers = ["height", "children", "weight", "floor", "pay"]
    np.testing.assert_allclose(rows.X, transformed(known, numbers, []), rtol=1e-9, atol=1e-9)


def test_numbers_can_be_categories(csv):
    found = fitted(csv, target="kind", categorical=("floor",))[1]
    assert Category("floor", ("1", "2", "3")) in found.preprocessing.columns


def test_later_fractions_and_later_values_widen_a_column(tmp_path):
    lines = ["i,late,y"] + [f"{i},,{i % 2}" for i in range(200)] + ["7,red,0", "8,,0.5"]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    found = fitted(tmp_path / "t.csv", target="y", block_bytes=256)[1]
    assert found.labels is None  # because of the last row's half
    assert Category("late", ("red",), missing=True) in found.preprocessing.columns
    assert found.n_training == 202


def test_separators_names_and_missing_values(tmp_path):
    (tmp_path / "t.csv").write_text("a;b;y\n1;?;no\n2;3;yes\n?;5;no\n")
    found = fitted(tmp_path / "t.csv", target="y", missing_values=("?",))[1]
    assert found.preprocessing.columns[1] == Number("b", 4.0, 1.0)
    (tmp_path / "u.tsv").write_text("1\t2\tno\n3\t2\tyes\n")
    table = open_table(tmp_path / "u.tsv", header=False)
    assert table.names == ("0", "1", "2")
    assert tables.fit(table, Plan(target="2")).n_training == 2


def test_balanced_weights_count_each_class_the_same():
    assert tables.balanced([10, 30, 0]) == [2.0, 2 / 3, 1.0]


@pytest.mark.parametrize(
    ("text", "plan", "message"),
    [
        ("a,y\n1,0\n2,1\n", {"target": "z"}, "target must name a column of .* one of a, y, got"),
        ("a,y\n1,0\n2,1\n", {}, "target must name the column to predict, one of a, y"),
        ("a,y\n1,0\n2,1\n", {"target": "y", "drop": ("b",)}, "drop must name a column"),
        ("a,y\n1,0\n2,1\n", {"target": "y", "drop": ("a",)}, "must have a column besides target"),
        ("a,y\n1,0\n2,0\n", {"target": "y"}, "two classes at least, and 'y' is 0 in all rows"),
        ("a,y\n1,0\ninf,1\n", {"target": "y"}, "'a' must hold finite numbers, got inf in row 2"),
        ("a,y\n1,0.5\n1,inf\n", {"target": "y"}, "'y' must hold finite numbers, got inf in row 2"),
        ("a,y\n1,0\n", {"target": "y", "task": "both"}, "task must be one of auto"),
        ("a,y\n1,0\n", {"target": "y", "validation": 1.0}, "validation must lie in 0..1"),
        ("a,y\n1,0\n2,1\n", {"target": "y", "validation": 1e-9}, "holds out none of 2 rows"),
        ("a,y\n1,\n2,\n", {"target": "y"}, "a training row, got 0 rows"),
        ("a,a\n1,0\n", {"target": "a"}, "must differ in name, 'a' is there twice"),
        ("a,y\n1,0\n2\n", {"target": "y"}, "cannot be read: CSV parse error: .*Expected 2 columns"),
        ("a,y\n2020-01-01,0\n2020-01-02,1\n", {"target": "y"}, "'a' holds date32.*--drop a"),
        ("a,y\n1,0\n2,1\n?,0\n3,1\n", {"target": "y"}, r"'a' holds numbers, but also '\?'"),
        ("a,y\n" + "".join(f"t{i},{i % 2}\n" for i in range(101)), {"target": "y"},
         "'a' has more than 100 different texts"),
        ("", {"target": "y"}, "cannot be read: Empty CSV file"),
        ("a,b,y\n,1,0\n,2,1\n", {"target": "y"}, "'a' holds nothing in any training row.*--drop a"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_way_out(tmp_path, text, plan, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        tables.encode(*fitted(tmp_path / "t.csv", **plan))


def test_a_strange_value_far_down_is_named(tmp_path):
    lines = ["a,y"] + [f"{i}.5,{i % 2}" for i in range(300)] + ["n.a.,1"]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"'a' of .* must hold numbers, got 'n\.a\.'; .*--missing"):
        fitted(tmp_path / "t.csv", target="y", block_bytes=512)


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.xlsx", "must end in one of .csv"), ("a.csv", "must be a file that exists")],
)
def test_no_such_file(tmp_path, name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_table(tmp_path / name)


def test_a_file_that_changes_in_between(csv):
    table, found = fitted(csv, target="kind")
    with open(csv, "a") as file:
        file.write(csv.read_text().splitlines()[-1] + "\n")
    with pytest.raises(ValueError, match="must not change while it is read"):
        tables.encode(table, found)


# ---- prediction ----------------------------------------------------------------------------------


def predictor(made: Preprocessing, labels=None, n_out: int = 1) -> tables.Predictor:
    """Return an untrained network for a preprocessing."""
    output = ("sigmoid" if n_out == 1 else "softmax") if labels else "identity"
    net = Network([len(made.inputs), 4, n_out], output=output, backend="numpy", rng=0)
    net.schema = Schema(labels, made.inputs, made.to_json())
    return tables.Predictor(net)


@pytest.mark.parametrize("labels", [["no", "yes"], [3, 7], [False, True], [0.5, 2.5]])
def test_labels_come_back_as_they_were(csv, labels):
    found = fitted(csv, target="kind")[1]
    (answer,) = predictor(found.preprocessing, labels).predict(open_table(csv))
    assert set(answer.values.tolist()) <= set(labels)
    assert type(answer.values.tolist()[0]) is type(labels[0])
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1, rtol=1e-6)
    second = answer.probabilities[:, 1] >= 0.5
    np.testing.assert_array_equal(answer.values == labels[1], second)


def test_quantities_come_back_in_their_units(csv):
    found = fitted(csv, target="pay")[1]
    asked = predictor(found.preprocessing)
    target = found.preprocessing.target
    (answer,) = asked.predict(open_table(csv))
    np.testing.assert_allclose(
        answer.values, target.mean + target.scale * answer.outputs[:, 0].astype(float)
    )
    rows = tables.encode(open_table(csv), found)[0]
    score = asked.score(rows)
    error = answer.values - people().pay
    assert score["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    spread = ((people().pay - people().pay.mean()) ** 2).sum()
    assert score["r2"] == pytest.approx(1 - (error**2).sum() / spread, rel=1e-5)


def test_columns_are_found_by_name_in_any_order_and_chunk(csv, tmp_path):
    asked = predictor(fitted(csv, target="kind")[1].preprocessing, ["no", "yes"])
    frame = people()
    (expected,) = asked.predict(open_table(csv))
    frame["more"] = 1
    frame[sorted(frame)].to_csv(tmp_path / "other.csv", index=False)
    parts = list(asked.predict(open_table(tmp_path / "other.csv", block_bytes=800)))
    assert len(parts) > 10
    outputs = np.concatenate([part.outputs for part in parts])
    np.testing.assert_allclose(outputs, expected.outputs, rtol=1e-5)


def test_columns_that_are_missing_are_named(csv, tmp_path):
    asked = predictor(fitted(csv, target="kind")[1].preprocessing, ["no", "yes"])
    people().drop(columns=["height", "colour"]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"lacks 'height', 'colour'"):
        list(asked.predict(open_table(tmp_path / "t.csv")))


def test_unknown_categories_are_refused_or_none_of_them(csv, tmp_path):
    made = Preprocessing((Category("colour", ("blue", "red")), Number("n", 1.0, 2.0)))
    (tmp_path / "t.csv").write_text("n,colour\n3,red\n1,pink\n")
    asked = predictor(made, ["no", "yes"])
    with pytest.raises(ValueError, match=r"'pink' in row 2.*'blue', 'red'; --unknown"):
        list(asked.predict(open_table(tmp_path / "t.csv")))
    ((_, X),) = asked.inputs(open_table(tmp_path / "t.csv"), "zero")
    np.testing.assert_array_equal(X, [[0, 1, 1], [0, 0, 0]])
    (tmp_path / "t.csv").write_text("n,colour\n3,\n")
    with pytest.raises(ValueError, match="'colour' holds nothing in row 1"):
        list(asked.predict(open_table(tmp_path / "t.csv")))
    (tmp_path / "t.csv").write_text("n,colour\nthree,red\n")
    with pytest.raises(ValueError, match=r"'n' of .* must hold numbers, got 'three'"):
        list(asked.predict(open_table(tmp_path / "t.csv")))


def test_a_network_without_preprocessing_takes_columns_by_order(tmp_path):
    net = Network([2, 3], backend="numpy", rng=0)
    X = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    np.save(tmp_path / "t.npy", X)
    (answer,) = tables.Predictor(net).predict(open_table(tmp_path / "t.npy"))
    np.testing.assert_array_equal(answer.outputs, net.predict(X))
    assert answer.values.tolist() == net.predict_classes(X).tolist()
    np.save(tmp_path / "t.npy", X[:, :1])
    with pytest.raises(ValueError, match="must have 2 columns"):
        list(tables.Predictor(net).predict(open_table(tmp_path / "t.npy")))


def test_a_preprocessing_of_another_width_is_refused():
    net = Network([2, 3], backend="numpy", rng=0)
    net.schema = Schema(preprocessing=Preprocessing.plain(["a"]).to_json())
    with pytest.raises(ValueError, match="makes 1 inputs, its network has 2"):
        tables.Predictor(net)


def test_targets_of_rows(csv):
    (chunk,) = open_table(csv).chunks(["kind", "pay"])
    np.testing.assert_allclose(
        tables.targets(chunk, Target("pay", "numbers", 2.0, 4.0), None), (people().pay - 2) / 4
    )
    with pytest.raises(ValueError, match="'kind' must be one of 'small', got 'tall' in row"):
        tables.targets(chunk, Target("kind", "classes"), ["small"])
