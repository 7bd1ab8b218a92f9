"""Formulas as MathML, which browsers render without a script."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging


def _write(self: Any, node: nodes.Element, as_block: bool) -> None:
    try:
        self.body.append(tex2mathml(node.astext(), as_block=as_block))
    except MathError as error:
        logging.getLogger(__name__).warning("formula: %s", error, location=node)
    raise nodes.SkipNode


def _inline(self: Any, node: nodes.math) -> None:
    _write(self, node, as_block=False)


def _block(self: Any, node: nodes.math_block) -> None:
    _write(self, node, as_block=True)


def setup(app: Any) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
