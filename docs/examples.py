"""An extension of griffe that lets pages of the API show docstrings as they are meant.

The section "Example" is code, as "Examples" is, and no note. What a line says of several arguments or errors is said of each. An
argument that a function checks by itself (`Given`) has the types of its overloads, or none.
"""

import re
from collections.abc import Iterator
from typing import Any

import griffe

SEVERAL = re.compile(r"(?m)^( {4})((?:\w+, )+\w+): (.*(?:\n {8}.*)*)$")
SECTION = re.compile(r"(?ms)^(Args|Raises|Attributes):\n.*?(?=^\S|\Z)")


class Examples(griffe.Extension):
    """Changes docstrings before they are parsed, and annotations once all of the package is there."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called for every object that is collected."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            obj.docstring.value = SECTION.sub(lambda section: SEVERAL.sub(_each, section[0]), text)

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        """Called once the package is loaded."""
        for function in _functions(pkg):
            for parameter in function.parameters:
                if str(parameter.annotation) == "Given":
                    parameter.annotation = _overloaded(function, parameter.name)


def _each(line: re.Match[str]) -> str:
    """One line for each of the names before the colon."""
    return "\n".join(f"{line[1]}{name}: {line[3]}" for name in line[2].split(", "))


def _functions(scope: Any) -> Iterator[Any]:
    """Every function of a module or class, and of those inside."""
    for member in scope.members.values():
        if not member.is_alias:
            if member.is_function:
                yield member
            elif member.is_module or member.is_class:
                yield from _functions(member)


def _overloaded(function: Any, name: str) -> str | None:
    """The types that the overloads of a function have for a parameter, joined; None where there is none."""
    given = [one.parameters[name].annotation for one in function.overloads or () if name in one.parameters]
    parts = dict.fromkeys(part for one in given for part in str(one).split(" | "))
    return " | ".join(sorted(parts, key=lambda part: part == "None")) or None
