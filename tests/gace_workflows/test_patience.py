"""What is tried again, and for how long."""

import pytest

pytestmark = pytest.mark.aiida


@pytest.fixture(scope="module")
def profile():
    from aiida.manage.configuration import load_profile
    from aiida.storage.sqlite_temp import SqliteTempBackend

    return load_profile(SqliteTempBackend.create_profile("gace-patience-tests"), allow_switch=True)


@pytest.fixture
def ended(profile):
    """A process that ended with an exit status, or with an exception."""
    from aiida import orm
    from plumpy import ProcessState

    def make(status=None, exception=None):
        node = orm.CalcJobNode()
        node.set_process_state(ProcessState.EXCEPTED if exception else ProcessState.FINISHED)
        if exception:
            node.set_exception(exception)
        else:
            node.set_exit_status(status)
        return node

    return make


def test_first_try_is_always_made(profile):
    from gace_workflows.patience import wants_another_try

    assert wants_another_try(None)


@pytest.mark.parametrize("status", [100, 110, 120, 301, 310, 311])
def test_passing_failure_is_tried_again(ended, status):
    from gace_workflows.patience import wants_another_try

    assert wants_another_try([ended(status)])


@pytest.mark.parametrize("status", [0, 302, 303, 400, 401, 410, 420, 430])
def test_success_and_lasting_failure_are_not(ended, status):
    from gace_workflows.patience import wants_another_try

    assert not wants_another_try([ended(status)])


def test_exception_of_the_engine_is_tried_again(ended):
    from gace_workflows.patience import wants_another_try

    assert wants_another_try([ended(exception="OperationalError: database is locked")])


def test_patience_ends(ended):
    from gace_workflows.patience import MAX_TRIES, wants_another_try

    assert wants_another_try([ended(301)] * (MAX_TRIES - 1))
    assert not wants_another_try([ended(301)] * MAX_TRIES)


def test_verdict_names_step_and_reason(ended):
    from aiida.engine import ExitCode

    from gace_workflows.patience import verdict

    failed = ExitCode(400, "{step} failed: {reason}")
    assert verdict([ended(301), ended(0)], "explore", failed) is None
    found = verdict([ended(exception="ValueError: no")], "explore", failed)
    assert found.message.startswith("explore failed: ValueError: no")
