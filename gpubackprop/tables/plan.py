"""What a table is to be used for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What a table is to be used for.

    Attributes
    ----------
    target : str or None
        Column to be predicted. None is the table's own: Y of an .npz file.
    weight : str or None
        Column of sample weights.
    drop : tuple of str
        Columns that are left out.
    categorical : tuple of str
        Columns of numbers that stand for categories.
    task : {"auto", "classification", "regression"}
        "auto": classification if the target is text, booleans or at most 20 different whole
        numbers.
    validation : float
        Share of the rows that is held out, in 0..1, 1 excluded. Means and scales are those of the
        other rows.
    seed : int
        Of the rows that are held out.
    most_categories : int
        A column of text with more different ones is refused.
    scale_target : bool
        Whether to train on a quantity in units of its standard deviation, from its mean.
    """

    target: str | None = None
    weight: str | None = None
    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    task: str = "auto"
    validation: float = 0.0
    seed: int = 0
    most_categories: int = 100
    scale_target: bool = True

    def __post_init__(self) -> None:
        tasks = ("auto", "classification", "regression")
        if self.task not in tasks:
            raise ValueError(f"task must be one of {', '.join(tasks)}, got {self.task!r}")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation must lie in 0..1, 1 excluded, got {self.validation}")
        if self.most_categories < 1:
            raise ValueError(f"most_categories must be >= 1, got {self.most_categories}")
