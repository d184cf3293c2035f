"""What an estimator raises where scikit-learn's would go on with NaN."""

from gpubackprop.errors import DivergenceError


class DivergedError(DivergenceError, ValueError):
    """Training produced a loss or a parameter that is NaN or infinite.

    `coefs_` and `intercepts_` are as they were before that epoch. It is a ValueError too, which is
    what scikit-learn raises, with the same first sentences, where it notices.
    """

    def __str__(self) -> str:
        core = super().__str__()
        return (
            "Solver produced non-finite parameter weights. The input data may contain large values "
            f"and need to be preprocessed. {core[0].upper()}{core[1:]}"
        )
