"""Validation rules in CEL that the API server checks, written beside the fields they are about.

A message says what to write instead: people read it in kubectl, Flux and Argo CD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

PRINTABLE = r"[^\x00-\x1f\x7f\"'\\]"
"""What may stand between quotes in xl.cfg(5): no quote, no backslash, no control character."""
PATH = r"(/[^/\x00-\x1f\x7f\"'\\]+)+"
"""An absolute path of such characters, not ending with a slash."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One x-kubernetes-validation. `path` is the field (".memory") that the message is shown at.

    `show` is a CEL expression that makes a message with the numbers in it; `say` stands in the documentation then.
    """

    rule: str
    say: str
    path: str = ""
    show: str = ""
    forbidden: bool = False  # a change that is not allowed, rather than a wrong value

    def as_validation(self) -> dict[str, str]:
        made = {"rule": self.rule, "message": self.say}
        if self.show:
            made["messageExpression"] = self.show
        if self.path:
            made["fieldPath"] = self.path
        if self.forbidden:
            made["reason"] = "FieldValueForbidden"
        return made


def validations(*rules: Rule) -> dict[str, Any]:
    """For `json_schema_extra` of a model's configuration or of a Field."""
    return {"x-kubernetes-validations": [rule.as_validation() for rule in rules]}


def checked(*rules: Rule, extra: dict[str, Any] | None = None, **constraints: Any) -> Any:
    """A Field with rules about its value (`self`); `extra` are more x-kubernetes keywords."""
    return Field(json_schema_extra={**(validations(*rules) if rules else {}), **(extra or {})}, **constraints)


def text(pattern: str, say: str) -> Rule:
    """The value matches the pattern as a whole (RE2). Unlike a schema's `pattern` it can say what to write."""
    return Rule(f"self.matches({cel_string(f'^({pattern})$')})", say)


def immutable(field: str, say: str, *, optional: bool = False) -> Rule:
    """The field of this object cannot be changed; an optional one can be neither added nor removed."""
    rule = f"self.{field} == oldSelf.{field}"
    if optional:
        rule = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {rule})"
    return Rule(rule, say, path=f".{field}", forbidden=True)


def cel_string(value: str) -> str:
    """A CEL string literal."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
