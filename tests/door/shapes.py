"""Bodies of every shape that the protocol's own models allow, and nearly so: made from their JSON schemas."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel

Made = st.SearchStrategy[Any]

TEXTS = st.sampled_from(
    ["-f", "-fq", "--forced", "../x", "a/b", "a\nb", "a\0", "", "vm_shaolin", "vg0", "mk1", "mk2", "shaolin", "other"]
) | st.text(max_size=40)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def bodies(model: type[BaseModel]) -> Made:
    """Valid ones as the schema has it; what schemas cannot say may still be wrong in them."""
    schema = model.model_json_schema()
    return _shape(schema, schema.get("$defs", {}))


def _shape(schema: dict[str, Any], known: dict[str, Any]) -> Made:
    if "$ref" in schema:
        return _shape(known[schema["$ref"].rpartition("/")[2]], known)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of(*(_shape(one, known) for one in options))
    match schema.get("type"):
        case "object":
            needed = schema.get("required", ())
            fields = {name: _shape(one, known) for name, one in schema["properties"].items()}
            return st.fixed_dictionaries(
                {name: one for name, one in fields.items() if name in needed},
                optional={name: one for name, one in fields.items() if name not in needed},
            )
        case "array":
            return _array(schema, known)
        case "integer":
            return _number(schema)
        case "number":
            return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
        case "string":
            return _text(schema)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
    raise AssertionError(f"a schema that this does not know: {schema}")


def _array(schema: dict[str, Any], known: dict[str, Any]) -> Made:
    least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
    if "prefixItems" in schema:
        return st.tuples(*(_shape(one, known) for one in schema["prefixItems"])).map(list)
    return st.lists(_shape(schema["items"], known), min_size=least, max_size=most)


def _number(schema: dict[str, Any]) -> Made:
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
    most = schema.get("maximum", schema.get("exclusiveMaximum", 1 << 53) - ("exclusiveMaximum" in schema))
    return st.integers(least, min(most, least + 20)) | st.integers(least, most)


def _text(schema: dict[str, Any]) -> Made:
    if (pattern := schema.get("pattern")) is None:
        return TEXTS
    return st.from_regex(pattern).filter(lambda text: len(text) <= schema.get("maxLength", 300))


@st.composite
def spoilt(draw: st.DrawFn, body: Made) -> Any:
    """One of those with a few of its values exchanged for others, taken away, or added."""
    made = draw(body)
    for _ in range(draw(st.integers(0, 2))):
        holder = _pick(draw, made)
        if isinstance(holder, dict) and holder:
            key = draw(st.sampled_from(sorted(holder)))
            match draw(st.sampled_from(["text", "junk", "gone", "new"])):
                case "text":
                    holder[key] = draw(TEXTS)
                case "junk":
                    holder[key] = draw(JUNK)
                case "gone":
                    del holder[key]
                case _:
                    holder[draw(st.text(max_size=5))] = draw(JUNK)
        elif isinstance(holder, list) and holder:
            holder[draw(st.integers(0, len(holder) - 1))] = draw(JUNK)
    return made


def _pick(draw: st.DrawFn, value: Any) -> Any:
    """A dictionary or list somewhere within."""
    while True:
        inner = [one for one in _parts(value) if isinstance(one, dict | list) and one]
        if not inner or draw(st.booleans()):
            return value
        value = draw(st.sampled_from(inner))


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
