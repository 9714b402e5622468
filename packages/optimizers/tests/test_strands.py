"""Calls that take turns: order, what they see, and what is left when one of them, or all, end."""

import _thread
import contextvars
import inspect
import signal
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.optimizers._questions import Question
from pellucid.optimizers._strands import Abandoned, Strand, weave

WHO = contextvars.ContextVar("who", default="nobody")


def make_question(text, *, can_wait=False):
    signature = inspect.signature(lambda problem, rows: None)
    bound = signature.bind(text, torch.zeros(1))
    return Question(lambda *_: None, bound, None, is_alone=False, can_wait=can_wait)


def texts(questions):
    return [question.problem for question in questions]


def weave_calls(make_calls, answer=texts):
    """Weave calls, each made of the strand that it is to ask through."""
    strands = [Strand() for _ in make_calls]
    n_threads = threading.active_count()
    try:
        return weave(
            strands,
            [
                lambda make=make, s=s: make(s.ask)
                for make, s in zip(make_calls, strands, strict=True)
            ],
            answer,
        )
    finally:
        assert threading.active_count() == n_threads


programs = st.lists(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.0, 1e-3])), max_size=4),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25, deadline=None)
@given(programs)
def test_order_is_that_of_the_calls_whatever_time_they_take(program):
    def transcribe(pause):
        log, at_work = [], []

        def make(i):
            def call(ask):
                for n, (can_wait, seconds) in enumerate(program[i]):
                    at_work.append(i)
                    time.sleep(seconds * pause)
                    assert at_work == [i]
                    at_work.remove(i)
                    assert ask(make_question((i, n), can_wait=can_wait)) == (i, n)
                return i

            return call

        def answer(questions):
            log.append(texts(questions))
            return texts(questions)

        assert weave_calls([make(i) for i in range(len(program))], answer) == [*range(len(program))]
        return log

    log = transcribe(0)
    assert log == transcribe(1)
    asked = [one for turn in log for one in turn]
    assert sorted(asked) == [(i, n) for i, own in enumerate(program) for n in range(len(own))]
    assert all(turn == sorted(turn) for turn in log)
    for i in range(len(program)):
        assert [one for one in asked if one[0] == i] == [(i, n) for n in range(len(program[i]))]


def test_what_can_wait_is_put_off_until_all_ask_it():
    def late(ask):
        ask(make_question("gradient"))
        return ask(make_question("loss b", can_wait=True))

    log = []

    def answer(questions):
        log.append(texts(questions))
        return texts(questions)

    weave_calls([lambda ask: ask(make_question("loss a", can_wait=True)), late], answer)
    assert log == [["gradient"], ["loss a", "loss b"]]


def test_questions_are_answered_on_the_thread_that_drives():
    seen = []

    def answer(questions):
        seen.append(threading.current_thread())
        return texts(questions)

    def call(ask):
        assert threading.current_thread() is not driver
        return ask(make_question("a"))

    driver = threading.current_thread()
    assert weave_calls([call, call], answer) == ["a", "a"]
    assert seen == [driver]


def hold(log, name):
    """Return a call that asks twice, and releases something at its end, as a step's moves do."""

    def moves(ask):
        try:
            yield ask(make_question(f"{name}1"))
            yield ask(make_question(f"{name}2"))
        finally:
            log.append(name)

    def call(ask):
        generator = moves(ask)
        try:
            return [*generator]
        finally:
            generator.close()

    return call


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("where", ["call", "answer"])
def test_an_error_reaches_the_caller_and_ends_all_calls_at_their_questions(error, where):
    released = []
    raised = error("enough")

    def failing(ask):
        ask(make_question("x"))
        raise raised

    def answer(questions):
        if where == "answer" and "b2" in texts(questions):
            raise raised
        return texts(questions)

    calls = [hold(released, "a"), hold(released, "b"), *([failing] if where == "call" else [])]
    with pytest.raises(error) as caught:
        weave_calls(calls, answer)
    assert caught.value is raised
    assert sorted(released) == ["a", "b"]


def test_calls_that_have_returned_are_left_alone_when_another_fails():
    def failing(ask):
        ask(make_question("x"))
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        weave_calls([lambda ask: 1, failing, lambda ask: 2])


def test_a_call_that_will_not_end_is_told_again():
    told = []

    def stubborn(ask):
        for n in range(3):
            try:
                ask(make_question(n))
            except Abandoned:
                told.append(n)
        return "done"

    def answer(questions):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        weave_calls([stubborn], answer)
    assert told == [0, 1, 2]


def test_abandonment_is_not_caught_by_mistake():
    caught = []

    def careful(ask):
        try:
            ask(make_question("a"))
        except Exception as error:
            caught.append(error)

    def answer(questions):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        weave_calls([careful], answer)
    assert caught == []


@pytest.fixture
def heeds_interrupts():
    """Processes that a shell starts in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupt_while_a_call_computes_ends_all():
    released = []

    def working(ask):
        ask(make_question("x"))
        _thread.interrupt_main()
        time.sleep(0.05)
        return hold(released, "late")(ask)

    with pytest.raises(KeyboardInterrupt):
        weave_calls([hold(released, "a"), working])
    assert sorted(released) == ["a", "late"]


@pytest.mark.parametrize("method", ["start", "resume", "_listen", "ask"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_interrupt_at_any_moment_leaves_nothing_behind(monkeypatch, method, when, nth):
    own, n_calls = getattr(Strand, method), 0

    def interrupted(self, *args):
        nonlocal n_calls
        n_calls += 1
        is_now = n_calls == nth
        if is_now and when == "before":
            raise KeyboardInterrupt
        found = own(self, *args)
        if is_now:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Strand, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        weave_calls([hold([], "a"), hold([], "b"), hold([], "c")])


@pytest.mark.parametrize("has_grad", [True, False])
@pytest.mark.parametrize("is_inference", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_calls_compute_with_the_settings_of_their_caller(has_grad, is_inference, dtype):
    a = torch.rand(3, 3)

    def look(ask=None):
        if ask is not None:
            ask(make_question("a"))
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            (a @ a).dtype,
            WHO.get(),
        )

    token = WHO.set("the caller")
    try:
        with (
            torch.inference_mode(is_inference),
            torch.set_grad_enabled(has_grad),
            torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None),
        ):
            expected = look()
            assert weave_calls([look, look]) == [expected, expected]
    finally:
        WHO.reset(token)
    assert look() == (True, False, False, torch.float32, "nobody")
