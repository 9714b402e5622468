"""Arithmetic in configurations, and nothing else: no expression can name or call a thing."""

import ast
import operator
from collections.abc import Callable
from typing import Any

from pellucid.core import ArgumentError

Number = int | float | bool

_LONGEST = 200
_LARGEST_EXPONENT = 64

_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_UNARY: dict[type[ast.AST], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}


def evaluate(expression: str) -> Number:
    """Compute an expression of numbers.

    Args:
        expression: Numbers, parentheses, `+ - * / // % **`, comparisons and `a if c else b`.

    Raises:
        ArgumentError: It holds anything else, or has no value.
    """
    try:
        if len(expression) > _LONGEST:
            raise SyntaxError
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        message = f"{expression[:_LONGEST]!r} is not an expression; write numbers and operators"
        raise ArgumentError(message) from error
    try:
        return _value(tree.body, expression)
    except (ArithmeticError, TypeError) as error:
        raise ArgumentError(f"{expression!r} has no value: {error}; correct it") from error


def _value(node: ast.expr, expression: str) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _apply(op, _value(left, expression), _value(right, expression))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _BINARY:
            return _apply(op, _value(left, expression), _value(right, expression))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand, expression))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _value(body if _value(test, expression) else orelse, expression)
        case _:
            message = (
                f"{ast.unparse(node)!r} in {expression!r} is not arithmetic; "
                "use numbers and operators alone"
            )
            raise ArgumentError(message)


def _apply(op: ast.AST, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Pow) and abs(right) > _LARGEST_EXPONENT:
        raise ArithmeticError(f"the exponent {right!r} is beyond {_LARGEST_EXPONENT}")
    return _BINARY[type(op)](left, right)


__all__ = ["Number", "evaluate"]
