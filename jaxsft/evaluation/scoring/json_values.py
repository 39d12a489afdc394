"""Scores of answers that are to be JSON: the reference's value, or one that a schema allows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxsft.config import scorers
from jaxsft.errors import ConfigError
from jaxsft.evaluation.scoring.case import Case, NotScored, ScoreOne
from jaxsft.evaluation.scoring.texts import compiled, positive, search


def same_value(settings: scorers.JsonValue, where: str) -> ScoreOne:
    def score(case: Case) -> bool:
        try:
            return _spelled(_read(case.answer)) == _spelled(_read(case.reference))
        except (ValueError, RecursionError):  # a number of 4,301 digits is no JSONDecodeError
            return False

    return score


def _read(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")  # which Python reads


def _spelled(value: Any) -> str:
    """The same for equal JSON values; Python's True == 1 and 1 == 1.0 are not equal in JSON."""
    return json.dumps(value, sort_keys=True)


def allowed(settings: scorers.JsonSchema, where: str) -> ScoreOne:
    """
    Raises:
        ConfigError: there is no such file, or it is no schema.
    """
    import referencing.exceptions

    schema = _schema(settings.schema, f"{where}.schema")
    seconds = positive(settings.timeout_seconds, f"{where}.timeout_seconds")
    validator = _validator(schema, seconds, f"{where}.schema")

    def score(case: Case) -> bool:
        try:
            return validator.is_valid(_read(case.answer))
        except (ValueError, RecursionError):
            return False
        except referencing.exceptions.Unresolvable as error:
            raise NotScored(f"the schema has a reference to nothing: {error}") from None

    return score


def _schema(given: str | dict[str, Any], where: str) -> dict[str, Any]:
    if isinstance(given, dict):
        return given
    try:
        value = json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}={given}: can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where}={given}: expected an object, which is a schema")
    return value


def _validator(schema: dict[str, Any], seconds: float, where: str) -> Any:
    """Of the draft that the schema names, or the newest; it fetches nothing from the network, and
    its regular expressions can't run for ever."""
    import jsonschema
    import jsonschema.exceptions
    import jsonschema.validators
    import referencing

    draft = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        draft.check_schema(schema)
    except (jsonschema.exceptions.SchemaError, RecursionError) as error:
        said = error.message if isinstance(error, jsonschema.exceptions.SchemaError) else error
        raise ConfigError(f"{where}: is no JSON schema: {said}") from None
    for pattern in _of_key("pattern", schema):
        if isinstance(pattern, str):  # else it is the name of a property
            compiled(pattern, f"{where}, pattern")
    keyed = [one for one in _of_key("patternProperties", schema) if isinstance(one, dict)]
    for pattern in (pattern for patterns in keyed for pattern in patterns):
        compiled(pattern, f"{where}, patternProperties")
    if keyed and next(_of_key("unevaluatedProperties", schema), None) is not None:
        raise ConfigError(
            f"{where}: patternProperties beside unevaluatedProperties is not supported, as such an"
            " expression could run for ever; additionalProperties is"
        )

    def found(pattern: str, text: str) -> bool:
        return search(compiled(pattern, where), text, seconds) is not None

    def by_pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Any]:
        if isinstance(value, str) and not found(pattern, value):
            yield jsonschema.exceptions.ValidationError(f"{value!r} does not match {pattern!r}")

    def by_key_patterns(owner: Any, patterns: Any, value: Any, _: Any) -> Iterator[Any]:
        for key, part in value.items() if isinstance(value, dict) else ():
            for below in (below for pattern, below in patterns.items() if found(pattern, key)):
                yield from owner.descend(part, below, path=key)

    def of_others(owner: Any, below: Any, value: Any, beside: Any) -> Iterator[Any]:
        known, patterns = beside.get("properties", {}), beside.get("patternProperties", {})
        for key, part in value.items() if isinstance(value, dict) else ():
            if key not in known and not any(found(pattern, key) for pattern in patterns):
                yield from owner.descend(part, below, path=key)

    bounded: Any = jsonschema.validators.extend(
        draft,
        {
            "pattern": by_pattern,
            "patternProperties": by_key_patterns,
            "additionalProperties": of_others,
        },
    )
    return bounded(schema, registry=referencing.Registry())


def _of_key(key: str, schema: Any) -> Iterator[Any]:
    """What stands under a key at any depth."""
    if isinstance(schema, dict) and key in schema:
        yield schema[key]
    parts = schema.values() if isinstance(schema, dict) else schema
    for part in parts if isinstance(schema, dict | list) else ():
        yield from _of_key(key, part)
