import pytest

from mri_fm.errors import EXIT_RESUMABLE, EXIT_USER_ERROR, ResumableError, UserError, run_main


@pytest.mark.parametrize(("error", "code"), [(UserError("x y"), EXIT_USER_ERROR), (ResumableError("x y"), EXIT_RESUMABLE)])
def test_an_error_meant_for_the_user_is_one_line_and_its_code(error, code, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == code
    assert capsys.readouterr().err == "error: x y\n"


def test_main_ends_with_its_own_code():
    for returned, code in ((None, 0), (3, 3)):
        with pytest.raises(SystemExit) as caught:
            run_main(lambda returned=returned: returned)
        assert caught.value.code == code


def test_a_bug_is_not_hidden():
    with pytest.raises(KeyError):
        run_main(lambda: {}["x"])
