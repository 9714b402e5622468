import numpy as np
import pytest

from pellucid.xlm.sources import HiddenMarkovChain, MarkovChain, open_local


@pytest.mark.parametrize("n_states", [2, 5, 16])
def test_the_stationary_distribution_stays(n_states) -> None:
    chain = MarkovChain.random(n_states, seed=3)
    assert chain.transition.shape == (n_states, n_states)
    np.testing.assert_allclose(chain.transition.sum(axis=1), 1)
    np.testing.assert_allclose(chain.stationary @ chain.transition, chain.stationary, atol=1e-12)
    assert chain.stationary.sum() == pytest.approx(1)


def test_the_entropy_rate_is_that_of_two_states() -> None:
    leave, back = 0.2, 0.4
    chain = MarkovChain(np.array([[1 - leave, leave], [back, 1 - back]]))

    def binary(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    expected = back / (leave + back) * binary(leave) + leave / (leave + back) * binary(back)
    assert chain.entropy_rate() == pytest.approx(expected)
    uniform = MarkovChain(np.full((4, 4), 1 / 4))
    assert uniform.entropy_rate() == pytest.approx(np.log(4))
    assert uniform.sequence_entropy(5) == pytest.approx(5 * np.log(4))


def test_sequences_cost_their_entropy_on_average() -> None:
    chain = MarkovChain.random(6, seed=0)
    states = chain.sample(np.random.default_rng(0), 4_000, 50)
    nats = chain.nll(states)
    error = nats.std() / len(nats) ** 0.5
    assert abs(nats.mean() - chain.sequence_entropy(50)) < 4 * error
    assert error < 0.01 * nats.mean()


def test_samples_have_the_transitions_of_the_chain() -> None:
    chain = MarkovChain.random(4, seed=1)
    states = chain.sample(np.random.default_rng(0), 2_000, 100)
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (states[:, :-1], states[:, 1:]), 1)
    np.testing.assert_allclose(pairs / pairs.sum(1, keepdims=True), chain.transition, atol=0.02)
    np.testing.assert_allclose(np.bincount(states[:, 0]) / 2_000, chain.stationary, atol=0.05)


def naive_likelihood(hidden: HiddenMarkovChain, symbols: list[int]) -> float:
    """The sum over every path of hidden states."""
    n_states = len(hidden.emission)
    total = 0.0
    for path in np.ndindex(*(n_states,) * len(symbols)):
        p = hidden.chain.stationary[path[0]] * hidden.emission[path[0], symbols[0]]
        for at in range(1, len(symbols)):
            p *= hidden.chain.transition[path[at - 1], path[at]]
            p *= hidden.emission[path[at], symbols[at]]
        total += p
    return total


def test_the_forward_algorithm_sums_over_all_paths() -> None:
    hidden = HiddenMarkovChain.random(3, 4, seed=5)
    symbols = hidden.sample(np.random.default_rng(0), 6, 5)
    expected = [-np.log(naive_likelihood(hidden, row)) for row in symbols.tolist()]
    np.testing.assert_allclose(hidden.nll(symbols), expected)


def test_a_hidden_chain_that_shows_its_state_has_the_entropy_of_the_chain() -> None:
    chain = MarkovChain.random(5, seed=2)
    hidden = HiddenMarkovChain(chain, np.eye(5))
    estimate = hidden.entropy_rate(n_rows=128, length=500, burn_in=10)
    assert abs(estimate.nats - chain.entropy_rate()) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.01 * estimate.nats


def test_a_hidden_chain_that_shows_nothing_has_the_entropy_of_its_symbols() -> None:
    chain = MarkovChain.random(5, seed=2)
    hidden = HiddenMarkovChain(chain, np.full((5, 8), 1 / 8))
    estimate = hidden.entropy_rate(n_rows=16, length=100, burn_in=10)
    assert estimate.nats == pytest.approx(np.log(8))


def test_estimates_from_other_sequences_agree_within_their_error() -> None:
    hidden = HiddenMarkovChain.random(8, 16, seed=0)
    first = hidden.entropy_rate(seed=0, n_rows=64, length=600)
    second = hidden.entropy_rate(seed=1, n_rows=64, length=600)
    assert first != second
    assert abs(first.nats - second.nats) < 4 * (first.standard_error + second.standard_error)


@pytest.mark.parametrize("name", ["markov", "hmm"])
def test_a_source_is_drawn_from_its_process(name) -> None:
    source = open_local(f"local://{name}?size=2000&length=40&states=4&chain=3")
    rows = np.array([[int(word) for word in text.split()] for text in source.columns()["text"]])
    process = source.process
    nats = process.nll(rows)
    if name == "markov":
        expected = process.sequence_entropy(40)
    else:
        fresh = process.nll(process.sample(np.random.default_rng(9), 4_000, 40))
        expected = fresh.mean()
    assert abs(nats.mean() - expected) < 5 * nats.std() / len(nats) ** 0.5
    other = open_local(f"local://{name}?size=2000&length=40&states=4&chain=4").process
    assert other.nll(rows).mean() > nats.mean() + 1
