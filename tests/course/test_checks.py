"""The visible checks pass what is right, and refuse what is wrong with a message that helps."""

import ast
import re

import pytest

from helpers.course import check
from helpers.course.expect import CheckFailed
from staff.grading.authoring import read_course
from tests.support.answers import answers_of, changed, namespace_of

EXERCISES = {
    exercise.item: (lesson, exercise, below)
    for lesson in read_course()
    for exercise, below in zip(lesson.exercises, lesson.of_kind("check"), strict=True)
}


@pytest.mark.parametrize("item", EXERCISES)
def test_a_check_tells_right_from_wrong_and_says_why(item, capsys):
    lesson, exercise, below = EXERCISES[item]
    assert exercise.source.count("### BEGIN SOLUTION") == exercise.source.count("### END SOLUTION") == 1
    call, namespace, off = ast.parse(below.source).body[0].value, namespace_of(lesson), []
    assert below.source.startswith("check.") and call.args[0].id == exercise.name
    namespace["tqdm"] = lambda iterable, **_: iterable
    for *_, changes, expected in answers_of(item):
        scope = dict(namespace)
        exec(compile(changed(exercise.source, changes), item, "exec"), scope)
        try:
            getattr(check, call.func.attr)(scope[exercise.name])
            said = ""
        except (CheckFailed, TypeError) as error:  # the latter where a mistake ends an answer itself
            said = str(error)
        if bool(said) != bool(expected) or not re.search(expected, said):
            off.append((changes, said, expected))
    assert not off, "\n".join(map(str, off))
    assert set(capsys.readouterr().out.splitlines()) == {f"{call.func.attr}: passed"}


def test_a_check_that_is_not_there_names_those_that_are():
    with pytest.raises(AttributeError, match="no check 'gram'; the checks are sample_noise, .*transfer"):
        check.gram  # noqa: B018
