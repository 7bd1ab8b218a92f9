"""Field texts: the string literal below each field of a dataclass, as help and as comments."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap


def field_texts(kind: type) -> dict[str, str]:
    """Return the string literal below each field of a dataclass, as one line, by field."""
    body = vars(ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0])["body"]
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
