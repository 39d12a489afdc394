"""Compiles a template so that its environment sees each step and all that could grow."""

from collections.abc import Iterable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators


class LimitedCodeGenerator(CodeGenerator):
    """Compiles a step into each block, and what could grow into calls of the environment."""

    _outermost: nodes.Node | None = None  # what a loop goes over that is to be told of
    _num_outermost = 0

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("environment.step()")
        super().blockvisit(nodes, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        if node.test is not None:  # runs without the body's block where it is false
            step = nodes.EnvironmentAttribute("step", lineno=node.lineno)
            call = nodes.Call(step, [], [], None, None, lineno=node.lineno)
            node.test = nodes.And(call, node.test, lineno=node.lineno)
        # A loop that stands in nothing else, whose text goes straight to the rendering's.
        is_outermost = frame.symbols.level == 0 and frame.buffer is None and not self.blocks
        if is_outermost and node.test is None and not node.recursive:
            self._outermost = node.iter
        super().visit_For(node, frame)

    def get_visitor(self, node: nodes.Node) -> Any:
        return self._visit_outermost if node is self._outermost else super().get_visitor(node)

    def _visit_outermost(self, node: nodes.Expr, frame: Frame) -> None:
        self._outermost, self._num_outermost = None, self._num_outermost + 1
        self.write("environment.turns(")
        self.visit(node, frame)
        self.write(f", {self._num_outermost}, {self.dump_local_context(frame)})")

    def write(self, x: str) -> None:
        if self._outermost is not None and x.endswith(" in LoopContext("):
            x = x.replace("LoopContext(", "environment.turns_context(")
        super().write(x)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat(map(environment.text, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            return super().visit_Getitem(node, frame)
        self.write("environment.counted(")
        super().visit_Getitem(node, frame)
        self.write(")")

    def visit_Add(self, node: nodes.Add, frame: Frame) -> None:
        self.write("environment.counted(")
        self.visit(node.left, frame)
        self.write(" + ")
        self.visit(node.right, frame)
        self.write(")")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        self._bounded(node.expr, frame)
        for operand in node.ops:
            self.write(f" {operators[operand.op]} ")
            self._bounded(operand.expr, frame)
        self.write(")")

    def _bounded(self, node: nodes.Expr, frame: Frame) -> None:
        if isinstance(node, nodes.Const):
            return self.visit(node, frame)
        self.write("environment.bounded(")
        self.visit(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for item in node.items:
            self._bounded(item.key, frame)
            self.write(": ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("}")

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.text(")
