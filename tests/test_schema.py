"""What inputs and outputs stand for: what is refused, and that JSON keeps the rest."""

import numpy as np
import pytest

import gpubackprop as gb

GOOD = {
    "nothing": {},
    "text": {"labels": ["no", "yes", "größer"]},
    "numbers": {"labels": [3, 1, -2]},
    "NumPy's numbers": {"labels": np.array([3, 1, 2], np.uint8)},
    "floats": {"labels": np.array([0.1, 1.5])},
    "booleans": {"labels": [False, True]},
    "names": {"feature_names": np.array(["a", "b"])},
    "preprocessing": {"preprocessing": '{"a": [1, 2]}'},
}


@pytest.mark.parametrize("what", GOOD)
def test_what_goes_in_comes_out_of_json(what):
    schema = gb.Schema(**GOOD[what])
    read = gb.Schema.from_json(schema.to_json())
    assert read == schema
    assert hash(read) == hash(schema)
    for name in ("labels", "feature_names"):
        given = GOOD[what].get(name)
        kinds = [type(value) for value in getattr(read, name) or ()]
        assert (
            kinds == [] if given is None else kinds == [type(v) for v in np.array(given).tolist()]
        )


BAD = {
    "a string": ({"labels": "abc"}, TypeError, "labels must be a sequence, got 'abc'"),
    "a number": ({"feature_names": 3}, TypeError, "feature_names must be a sequence, got 3"),
    "mixed": ({"labels": ["a", 1]}, TypeError, "all of one type, got 'a' and 1"),
    "true and one": ({"labels": [True, 1]}, TypeError, "all of one type"),
    "nothing": ({"labels": ["a", None]}, TypeError, r"labels\[1\] must be one of str, .*got None"),
    "numbered names": (
        {"feature_names": [1]},
        TypeError,
        r"feature_names\[0\] must be one of str,",
    ),
    "twice": ({"labels": ["a", "b", "a"]}, ValueError, r"labels\[2\] is 'a' again"),
    "not finite": ({"labels": [0.0, np.nan]}, ValueError, r"labels\[1\] must be finite, got nan"),
    "a dictionary": ({"preprocessing": {}}, TypeError, "must be text.*got dict; use json.dumps"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_refused(what):
    given, error, message = BAD[what]
    with pytest.raises(error, match=message):
        gb.Schema(**given)


def test_how_many_labels_there_must_be():
    one = gb.Network([2, 1], output="sigmoid", backend="numpy")
    one.schema = gb.Schema(labels=["no", "yes"])
    with pytest.raises(
        ValueError, match="labels must be 2, the two classes of its one output, got 1"
    ):
        one.schema = gb.Schema(labels=["yes"])
    number = gb.Network([2, 1], output="identity", backend="numpy")
    number.schema = gb.Schema(labels=["price"])
