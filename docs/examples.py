"""An extension of griffe: the section "Example" of a docstring is code, as "Examples" is, and no note."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section before the docstring is parsed."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called for every object that is collected."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
