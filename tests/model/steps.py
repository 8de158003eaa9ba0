"""alf's functions with a step of the scheduler before each statement, to interleave any of them.

The code is that of alf's own source files. Only a call is added before each statement, before each
element of a comprehension, and between the reading and the writing of ``x.y += z``.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["Steps"]

_NAME = "_a_step_of_the_model"


class Steps:
    """The functions of some modules, each with and without steps."""

    def __init__(self, modules: list[ModuleType]) -> None:
        self._modules = modules
        self._functions: list[tuple[FunctionType, CodeType, CodeType]] = []
        for module in modules:
            made = {(code.co_name, code.co_firstlineno): code for code in _codes(_compile(module))}
            for function in _functions(module):
                code = function.__code__
                stepping = made[code.co_name, code.co_firstlineno]
                self._functions.append((function, code, stepping))

    def put_in(self, step: Callable[[], None]) -> None:
        """Have the functions call this before each statement."""
        for module in self._modules:
            setattr(module, _NAME, step)
        for function, _, stepping in self._functions:
            function.__code__ = stepping

    def take_out(self) -> None:
        """Make the functions what they were."""
        for function, code, _ in self._functions:
            function.__code__ = code
        for module in self._modules:
            delattr(module, _NAME)


def _add_steps(function: ast.FunctionDef) -> None:
    for node in ast.walk(function):
        if isinstance(node, (ast.GeneratorExp, ast.ListComp, ast.SetComp)):
            step = ast.copy_location(ast.Call(ast.Name(_NAME, ast.Load()), [], []), node.elt)
            node.elt = ast.copy_location(ast.BoolOp(ast.Or(), [step, node.elt]), node.elt)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                setattr(node, name, [new for old in block for new in _with_step(old)])


def _with_step(node: ast.stmt) -> Iterator[ast.stmt]:
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if is_docstring or isinstance(node, (ast.Global, ast.Nonlocal)):
        yield node
        return
    yield _call(node)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute):
        read = ast.Attribute(node.target.value, node.target.attr, ast.Load())
        yield ast.copy_location(ast.Assign([ast.Name("_read", ast.Store())], read), node)
        yield _call(node)
        value = ast.BinOp(ast.Name("_read", ast.Load()), node.op, node.value)
        yield ast.copy_location(ast.Assign([node.target], value), node)
    else:
        yield node


def _call(node: ast.stmt) -> ast.stmt:
    call = ast.Call(ast.Name(_NAME, ast.Load()), [], [])
    return ast.copy_location(ast.Expr(call), node)


def _compile(module: ModuleType) -> CodeType:
    path = str(module.__file__)
    tree = ast.parse(Path(path).read_text(encoding="utf-8"), path)
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.Module)):
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    _add_steps(each)
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Functions and methods that are written in the module's file."""
    owners: list[Any] = [module]
    owners += [kind for kind in vars(module).values() if inspect.isclass(kind)]
    seen: set[int] = set()
    for owner in owners:
        for value in list(vars(owner).values()):
            if isinstance(value, property):
                function: Any = value.fget
            else:
                function = getattr(value, "__func__", value)
            function = inspect.unwrap(function) if callable(function) else function
            is_ours = isinstance(function, FunctionType) and id(function) not in seen
            if is_ours and function.__code__.co_filename == module.__file__:
                seen.add(id(function))
                yield function
