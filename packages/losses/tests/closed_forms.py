"""Losses in closed form for one sample, one number at a time."""

import math


def log_sum(row):
    return math.log(sum(math.exp(z) for z in row))


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def norm(vector):
    return math.sqrt(sum(x * x for x in vector))


def dot(one, other):
    return sum(x * y for x, y in zip(one, other, strict=True))


def ce(rows, tokens):
    return mean(log_sum(row) - row[y] for row, y in zip(rows, tokens, strict=True))


def mellowmax(rows, tokens):
    return log_sum([-row[y] for row, y in zip(rows, tokens, strict=True)]) - math.log(len(tokens))


def cw(rows, tokens):
    pairs = list(zip(rows, tokens, strict=True))
    leads = [max(z for v, z in enumerate(row) if v != y) - row[y] for row, y in pairs]
    return mean(max(-0.5, lead) for lead in leads)


def distillation(rows, reference):
    return mean(
        -sum(
            math.exp(r - log_sum(wanted)) * (z - log_sum(row))
            for z, r in zip(row, wanted, strict=True)
        )
        for row, wanted in zip(rows, reference, strict=True)
    )
