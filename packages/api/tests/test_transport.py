"""Laws of the transport, on scripted attempts: nothing here touches a network."""

import asyncio
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.api import RequestError, RetryPolicy, SpendingLimitError
from pellucid.api._failures import ReplyError
from pellucid.api._secrets import Scrubber
from pellucid.api._spending import Cost, Spending
from pellucid.api._transport import Reply, Transport

ONE = Cost(prompt_tokens=1)
PASSING = st.sampled_from(["429", "500", "503", "timeout", "dropped", "malformed"])
LASTING = st.sampled_from(["400", "403", "404", "422", "501", "no-money"])


def make_transport(policy=None, *, concurrent=4, timeout_s=5.0, tokens=None, usd=None):
    return Transport(
        policy or RetryPolicy(max_attempts=4, first_delay_s=0.0005, longest_delay_s=0.001),
        max_concurrent_requests=concurrent,
        timeout_s=timeout_s,
        spending=Spending(tokens, usd),
        scrubber=Scrubber(),
        provider="a test",
    )


def fail(kind):
    if kind == "timeout":
        raise TimeoutError
    if kind == "dropped":
        raise ConnectionResetError("gone")
    if kind == "malformed":
        raise ReplyError("no JSON", is_transient=True)
    if kind == "no-money":
        raise ReplyError("insufficient_quota", status=429)
    raise ReplyError("refused", status=int(kind), headers={})


class Script:
    """Fails each item in a given way for each of its attempts, then answers."""

    def __init__(self, plan, reply=None):
        self.plan, self.sent = plan, [0] * len(plan)
        self.in_flight = self.most_in_flight = 0
        self.reply = reply or (lambda i: Reply(answers=[i], cost=ONE))

    async def __call__(self, i):
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            self.sent[i] += 1
            if self.sent[i] <= len(self.plan[i]):
                fail(self.plan[i][self.sent[i] - 1])
            return self.reply(i)
        finally:
            self.in_flight -= 1


def play(transport, script, cost=ONE):
    items = range(len(script.plan))
    return asyncio.run(transport.run(items, script, lambda i: cost))


@settings(max_examples=30)
@given(
    plan=st.lists(st.lists(PASSING, max_size=5), max_size=12),
    concurrent=st.integers(1, 5),
)
def test_each_item_has_one_outcome_in_order_and_no_attempt_too_many(plan, concurrent):
    transport, script = make_transport(concurrent=concurrent), Script(plan)
    outcomes = play(transport, script)
    assert script.most_in_flight <= concurrent
    for i, (faults, outcome) in enumerate(zip(plan, outcomes, strict=True)):
        assert script.sent[i] == min(len(faults) + 1, 4)
        if len(faults) < 4:
            assert outcome.answers == [i]
        else:
            assert isinstance(outcome, RequestError)
            assert (outcome.n_attempts, outcome.is_transient) == (4, True)
    assert transport.stats.requests == sum(script.sent)
    assert transport.stats.retries == sum(script.sent) - len(plan)
    assert transport.spending.spent_tokens == sum(len(faults) < 4 for faults in plan)


@given(kinds=st.lists(LASTING, min_size=1, max_size=6))
def test_what_cannot_succeed_is_sent_once(kinds):
    transport, script = make_transport(), Script([[kind] for kind in kinds])
    outcomes = play(transport, script)
    assert script.sent == [1] * len(kinds)
    assert not any(outcome.is_transient for outcome in outcomes)


def test_a_key_that_is_not_accepted_ends_the_batch():
    transport, script = make_transport(concurrent=2), Script([["401"]] * 50)
    outcomes = play(transport, script)
    assert sum(script.sent) <= 2
    assert {outcome.status for outcome in outcomes} == {401}


def test_an_attempt_that_takes_too_long_is_ended():
    async def hang(i):
        if i == 0:
            await asyncio.sleep(60)
        return Reply(answers=[i], cost=ONE)

    transport = make_transport(RetryPolicy(max_attempts=1), timeout_s=0.05)
    late, good = asyncio.run(transport.run([0, 1], hang, lambda i: ONE))
    assert good.answers == [1]
    assert "no answer in time" in str(late)


def test_all_requests_wait_when_the_server_refuses_several_in_a_row():
    began, sent = time.monotonic(), []

    async def refuse_at_first(i):
        sent.append(time.monotonic() - began)
        if len(sent) <= 4:
            raise ReplyError("slow down", status=429, headers={"retry-after": "0.3"})
        return Reply(answers=[i], cost=ONE)

    outcomes = asyncio.run(make_transport().run(range(8), refuse_at_first, lambda i: ONE))
    assert [outcome.answers for outcome in outcomes] == [[i] for i in range(8)]
    assert not [at for at in sent[6:] if at < 0.29], sent


def test_a_wait_that_is_too_long_is_not_waited_for():
    async def refuse(i):
        raise ReplyError("come back tomorrow", status=429, headers={"retry-after": "86400"})

    (error,) = asyncio.run(make_transport().run([0], refuse, lambda i: ONE))
    assert (error.n_attempts, error.status) == (1, 429)
    assert "asks to wait 86400 s" in str(error)


@settings(max_examples=30)
@given(
    n_items=st.integers(1, 30), limit=st.integers(1, 100), most=st.integers(1, 9), data=st.data()
)
def test_a_budget_is_never_exceeded_and_used_as_far_as_it_goes(n_items, limit, most, data):
    used = [data.draw(st.integers(1, most)) for _ in range(n_items)]
    script = Script([[]] * n_items)
    script.reply = lambda i: Reply(answers=[i], cost=Cost(prompt_tokens=used[i]))
    transport = make_transport(tokens=limit)
    outcomes = play(transport, script, Cost(prompt_tokens=most))
    assert transport.spending.spent_tokens <= limit
    refused = [outcome for outcome in outcomes if isinstance(outcome, SpendingLimitError)]
    assert sum(script.sent) == n_items - len(refused)
    if refused:
        assert transport.spending.spent_tokens + most > limit


def test_a_budget_in_money_is_kept():
    cost = Cost(prompt_tokens=1, usd=0.4)
    script = Script([[]] * 5)
    script.reply = lambda i: Reply(answers=[i], cost=cost)
    transport = make_transport(usd=1.0)
    outcomes = play(transport, script, cost)
    assert [isinstance(outcome, SpendingLimitError) for outcome in outcomes].count(True) == 3
    assert "raise budget_usd" in str(outcomes[-1]).lower()


def test_a_batch_can_be_cancelled():
    async def interrupt():
        transport = make_transport()
        task = asyncio.create_task(
            transport.run(range(9), Script([["500"] * 9] * 9), lambda i: ONE)
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return transport

    transport = asyncio.run(interrupt())
    assert asyncio.run(transport.run([0], Script([[]]), lambda i: ONE))[0].answers == [0]


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in which waiting takes no time: its clock jumps to what is due next."""

    _now = 0.0

    def time(self):
        return self._now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()


@pytest.mark.parametrize("share", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_the_schedule_is_near_the_ideal(seed, share):
    """1,000 requests with random faults end within 1.3 times what no schedule could undercut."""
    chance, n, concurrent, service_s = random.Random(seed), 1000, 20, 0.2
    kinds = ["429", "retry-after", "500", "dropped", "timeout", "malformed", "400"]
    busy_s = 0.0

    async def send(i):
        nonlocal busy_s
        kind = chance.choice(kinds) if chance.random() < share else None
        took = 1.0 if kind == "timeout" else service_s
        busy_s += took
        await asyncio.sleep(took)
        if kind == "retry-after":
            raise ReplyError("wait", status=429, headers={"retry-after": "1"})
        if kind is not None:
            fail(kind)
        return Reply(answers=[i], cost=ONE)

    async def run_all():
        outcomes = await transport.run(range(n), send, lambda i: ONE)
        return outcomes, asyncio.get_running_loop().time()

    transport = make_transport(RetryPolicy(), concurrent=concurrent)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        outcomes, took_s = runner.run(run_all())
    answered = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Reply)]
    assert [outcomes[i].answers for i in answered] == [[i] for i in answered]
    assert all(outcomes[i].status == 400 for i in set(range(n)) - set(answered))
    assert took_s <= 1.3 * busy_s / concurrent, (took_s, busy_s / concurrent)
