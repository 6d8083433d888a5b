from __future__ import annotations

import pytest

from spa import errors


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.SpaError, 1),
        (errors.NothingToPrune, 1),
        (errors.BudgetError, 1),
        (errors.VerificationError, 1),
        (errors.UsageError, 2),
        (errors.ModelError, 2),
        (errors.NoInputError, 2),
        (errors.DataError, 2),
        (errors.TeacherError, 2),
        (errors.MissingExtra, 2),
    ],
)
def test_exit_code(error: type[errors.SpaError], exit_code: int) -> None:
    assert error.exit_code == exit_code
    assert str(error("expected 1, found 2")) == "expected 1, found 2"


def test_one_base_catches_all() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) == 11
    assert all(issubclass(kind, errors.SpaError) for kind in kinds)
    assert issubclass(errors.NoInputError, errors.UsageError)
    assert issubclass(errors.DataError, errors.UsageError)
    assert issubclass(errors.TeacherError, errors.DataError)
    assert issubclass(errors.MissingExtra, errors.UsageError)
