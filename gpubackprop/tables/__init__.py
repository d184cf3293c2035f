"""Tables of data: files of rows with named columns, read in chunks, made into what a network trains
on.

    table = open_table("rows.csv")
    fitted = fit(table, Plan(target="price", validation=0.1))    # first pass: means, categories
    training, held_out = encode(table, fitted)                   # second pass: arrays

`Preprocessing` is what a network's file keeps of it (`Schema.preprocessing`), and `Predictor`
applies it to another file.
"""

from gpubackprop.tables.chunks import Chunk, Table
from gpubackprop.tables.files import ENDINGS, open_table
from gpubackprop.tables.fitting import Fitted, fit
from gpubackprop.tables.plan import Plan
from gpubackprop.tables.prediction import Prediction, Predictor
from gpubackprop.tables.preprocessing import Category, Number, Preprocessing, Target
from gpubackprop.tables.rows import Rows, balanced, encode, size_of
from gpubackprop.tables.target import targets

__all__ = [
    "ENDINGS",
    "Category",
    "Chunk",
    "Fitted",
    "Number",
    "Plan",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "Rows",
    "Table",
    "Target",
    "balanced",
    "encode",
    "fit",
    "open_table",
    "size_of",
    "targets",
]
