"""Which parameter of the function each entry of `specs` and `kwargs` is for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from j2o.arguments import name_of
from j2o.calls import Static
from j2o.errors import SpecError, shortened, shown
from j2o.spec_forms import as_told, is_dtype_name, is_size

# how the text of a spec starts; any other text in `kwargs` is a value
TEXT_OF_SPEC = re.compile(r"\s*[\w<>]+\s*\[")
EXAMPLE = "{'mask': 'bool[B,T]', 'train': False}"


class Given(NamedTuple):
    """An entry of `specs`, or of `kwargs` where `is_keyword`, and the parameter that it is for."""

    parameter: str
    is_keyword: bool
    entry: Any

    def place(self, path: tuple[Any, ...] = (), name: str = "") -> str:
        """What a message calls a part of the entry: `spec of 'x/image'`, `kwargs['x']['image']`."""
        if self.is_keyword:
            return f"kwargs[{self.parameter!r}]{jax.tree_util.keystr(path)}"
        return f"spec of {self.name(name)!r}"

    def name(self, path: str) -> str:
        """The parameter and the path of a part of the entry."""
        return f"{self.parameter}/{path}" if path else self.parameter


def given_arguments(
    fn: Callable[..., Any], specs: Any, kwargs: Any, added: Mapping[str, Any]
) -> list[Given]:
    """The entries in the order of the model's inputs: those by place, then the keywords in their order.

    `added` has entries of keywords that are not the function's own. SpecError where they are no such
    entries, or where the function cannot be called with them.
    """
    _check_specs(specs)
    entries = _keyword_entries(kwargs)
    names = _parameters(fn, len(specs), entries)
    for keyword in added:
        if keyword in entries:
            what = f"the model takes this keyword for what {keyword}=… asks for"
            raise SpecError(f"kwargs[{keyword!r}]: {what}")
    entries.update(added)
    by_place = [Given(name, False, e) for name, e in zip(names, specs, strict=True)]
    return by_place + [Given(name, True, entries[name]) for name in sorted(entries)]


def _check_specs(specs: Any) -> None:
    """SpecError where `specs` is no sequence of entries, or one entry that should be in such a sequence."""
    if isinstance(specs, str | bytes) or not isinstance(specs, Sequence):
        needed = "a sequence with one entry for each positional argument is needed"
        raise SpecError(f"specs={as_told(specs)}: {needed}, as in ['f32[B,784]']")
    if not specs or not all(isinstance(d, str | int) and is_size(d) for d in specs):
        return
    if not any(isinstance(d, str) and is_dtype_name(d) for d in specs):
        one = shortened(repr(tuple(specs)), 80)
        needed = f"a sequence with one entry for each argument is needed: [{one}]"
        scalar = "a scalar input is 'f32[]' or 'i32[]'"
        raise SpecError(f"specs={as_told(specs)} is one shape, {needed}; {scalar}")


def _keyword_entries(kwargs: Any) -> dict[str, Any]:
    """`kwargs` with its plain Python values marked as such."""
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping):
        needed = "a mapping from keywords to entries is needed, as in"
        raise SpecError(f"kwargs={as_told(kwargs)}: {needed} {EXAMPLE}")
    for name in kwargs:
        if not isinstance(name, str):
            needed = "the name of a parameter is needed"
            raise SpecError(f"kwargs: the key {shown(name)} is no string; {needed}")
    return {name: _keyword_entry(entry) for name, entry in kwargs.items()}


def _keyword_entry(entry: Any) -> Any:
    is_text = isinstance(entry, str) and TEXT_OF_SPEC.match(entry) is None
    is_value = entry is None or isinstance(entry, bool) or is_text
    return Static(entry) if is_value else entry


def names_taken_for_sizes(kwargs: Mapping[str, Any] | None) -> str:
    """A hint for where a call failed: keywords whose entry is a list of names, which is a shape.

    `mutable=["batch_stats"]` of linen is such a one. "" where there are none.
    """
    hints = []
    for keyword, entry in (kwargs or {}).items():
        if type(entry) in (list, tuple) and entry and all(map(_is_a_name, entry)):
            told = as_told(entry)
            hints.append(
                f"; kwargs[{keyword!r}] is a shape: j2o.static({told}) hands over the list"
            )
    return "".join(hints)


def _is_a_name(value: Any) -> bool:
    """Return True for a text that is hardly meant as a size."""
    return isinstance(value, str) and len(value) > 2 and value.isidentifier()


# ------------------------------------------------------------------------------------ the signature


@dataclass
class _Signature:
    """The parameters of a function: those that a place can be for, and those that a keyword can be for.

    `needed` are those without a default, `rest` the name of `*args`; `takes_any` where there is `**kwargs`.
    """

    places: list[str]
    keywords: list[str]
    needed: list[str]
    rest: str | None = None
    takes_any: bool = False


def _signature(fn: Callable[..., Any]) -> _Signature | None:
    """None where a function does not tell its parameters."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return None
    made = _Signature([], [], [])
    for p in parameters:
        if p.kind == p.VAR_POSITIONAL:
            made.rest = p.name
        elif p.kind == p.VAR_KEYWORD:
            made.takes_any = True
        else:
            if p.kind != p.KEYWORD_ONLY:
                made.places.append(p.name)
            if p.kind != p.POSITIONAL_ONLY:
                made.keywords.append(p.name)
            if p.default is p.empty:
                made.needed.append(p.name)
    return made


def _parameters(
    fn: Callable[..., Any], count: int, keywords: Collection[str]
) -> list[str]:
    """Names for `count` positional arguments; SpecError where the function takes no such call."""
    signature = _signature(fn)
    if signature is None:
        return [f"arg_{i}" for i in range(count)]
    named = signature.places[:count]
    for keyword in keywords:
        _check_keyword(fn, signature, keyword, named)
    missing = [p for p in signature.needed if p not in named and p not in keywords]
    for parameter in missing:
        if parameter not in signature.places:
            advice = f"kwargs={{{parameter!r}: …}} gives it one"
            what = f"the keyword-only parameter {parameter!r} has no value"
            raise SpecError(f"fn: {what}; {advice}")
    if missing or (count > len(signature.places) and signature.rest is None):
        raise _miscounted(fn, count, signature, missing)
    return named + [f"{signature.rest}_{i}" for i in range(count - len(named))]


def _check_keyword(
    fn: Any, signature: _Signature, keyword: str, named: Sequence[str]
) -> None:
    """SpecError where the function takes no such keyword beside the arguments `named` by place."""
    where = f"kwargs[{keyword!r}]"
    if keyword in signature.keywords:
        if keyword in named:
            place = named.index(keyword)
            raise SpecError(f"{where}: specs[{place}] is for this parameter already")
        return
    if signature.takes_any:
        return
    name = shortened(name_of(fn), 60)
    if keyword in signature.places:
        what = f"{name} takes it by place alone"
        raise SpecError(f"{where}: {what}; its entry belongs into specs")
    there = "it takes no keywords"
    if signature.keywords:
        there = f"it has {shortened(', '.join(signature.keywords), 120)}"
    raise SpecError(f"{where}: {name} has no such parameter; {there}")


def _miscounted(
    fn: Any, count: int, signature: _Signature, missing: Sequence[str]
) -> SpecError:
    """The function takes another number of positional arguments than there are specs."""
    least = sum(name in signature.needed for name in signature.places)
    takes = str(least)
    if least != len(signature.places):
        takes += f" to {len(signature.places)}"
    absent = f"; no spec for {missing[0]!r}" if missing else ""
    name = shortened(name_of(fn), 60)
    noun = "argument" if takes == "1" else "arguments"
    return SpecError(
        f"specs: {count} given, {name} takes {takes} positional {noun}{absent}"
    )
