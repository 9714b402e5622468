import asyncio
import email.utils
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.api._rate_limits import Gate, read_exhaustion, read_retry_after


def soon():
    return datetime.now(UTC) + timedelta(seconds=60)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"Retry-After": "3"}, 3),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_retry_after_is_read(headers, seconds):
    assert read_retry_after(headers) == seconds


def test_retry_after_may_be_a_date():
    found = read_retry_after({"retry-after": email.utils.format_datetime(soon(), usegmt=True)})
    assert 30 < found <= 61


@pytest.mark.parametrize(
    ("reset", "seconds"), [("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("4", 4)]
)
def test_nothing_left_means_to_wait_for_the_reset(reset, seconds):
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset}
    assert read_exhaustion(headers) == pytest.approx(seconds)
    assert read_exhaustion({**headers, "x-ratelimit-remaining-requests": "1"}) is None


def test_the_longest_of_several_resets_counts():
    headers = {
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": soon().isoformat(),
        "ratelimit-remaining": "0",
        "ratelimit-reset": str(time.time() + 10),
    }
    assert 30 < read_exhaustion(headers) <= 61


@given(st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset"]), st.text()))
def test_no_header_can_break_the_reader(headers):
    assert (read_retry_after(headers) or 0) >= 0
    read_exhaustion({"x-ratelimit-remaining": "0", **headers})


def wait_for(gate):
    began = time.monotonic()
    asyncio.run(gate.pass_through())
    return time.monotonic() - began


def test_one_refusal_is_about_its_request_and_two_in_a_row_are_about_all():
    gate = Gate(longest_wait_s=10)
    gate.refuse(0.2)
    assert wait_for(gate) < 0.1
    gate.answer({})
    gate.refuse(0.2)
    assert wait_for(gate) < 0.1
    gate.refuse(0.2)
    assert wait_for(gate) >= 0.19


def test_a_gate_believes_no_wait_beyond_the_longest():
    gate = Gate(longest_wait_s=10)
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "86400"}
    gate.answer(headers)
    assert wait_for(gate) < 0.1
    gate.answer({**headers, "x-ratelimit-reset": "0.2"})
    assert wait_for(gate) >= 0.19
