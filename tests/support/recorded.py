"""Modules that have exactly the names of a recorded version of TensorRT, so that code which uses another fails.

`data/tensorrt-VERSION.json` lists every class of the module `tensorrt` and every attribute of it, as `dir` gave them.
The library itself needs an NVIDIA driver; what its classes do here is what a test gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

VERSIONS = ("10.16.1", "11.4.0")


class Member(int):
    """An attribute of which no more is known than that it is there: the value of an enumeration, mostly."""

    name: str

    @classmethod
    def of(cls, index: int, name: str) -> Member:
        member = cls(index)
        member.name = name
        return member


@cache
def names(version: str) -> Mapping[str, Any]:
    """The attributes of each class, and `__version__`."""
    content: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / f"tensorrt-{version}.json").read_text())
    return content


def module(version: str, behaviour: Mapping[str, type]) -> ModuleType:
    """A module `tensorrt`.

    Args:
        version: one of `VERSIONS`.
        behaviour: what the classes do, by their names. Attributes that begin with an underscore are their own
            business; the module itself is their attribute `_trt`.
    """
    made = ModuleType("tensorrt")
    recorded = dict(names(version))
    made.__dict__["__version__"] = recorded.pop("__version__")
    invented = behaviour.keys() - recorded.keys()
    assert not invented, f"TensorRT {version} has no {invented}"
    for name, attributes in recorded.items():
        setattr(made, name, _class(made, name, frozenset(attributes), behaviour.get(name, object)))
    return made


def _class(trt: ModuleType, name: str, attributes: frozenset[str], behaviour: type) -> type:
    invented = {own for own in vars(behaviour) if not own.startswith("_")} - attributes
    assert not invented or behaviour is object, f"TensorRT {trt.__version__} has no {name}.{invented}"

    def check(self: object, attribute: str) -> None:
        # A subclass of one of the classes, a logger for example, may have attributes of its own.
        if type(self) is cls and not attribute.startswith("_") and attribute not in attributes:
            raise AttributeError(f"TensorRT {trt.__version__} has no {name}.{attribute}")

    def get(self: object, attribute: str) -> Any:
        check(self, attribute)
        return object.__getattribute__(self, attribute)

    def set_(self: object, attribute: str, value: object) -> None:
        check(self, attribute)
        object.__setattr__(self, attribute, value)

    members = {
        each: Member.of(index, each) for index, each in enumerate(sorted(attributes)) if not hasattr(behaviour, each)
    }
    cls: type = type(name, (behaviour,), {**members, "_trt": trt, "__getattribute__": get, "__setattr__": set_})
    return cls
