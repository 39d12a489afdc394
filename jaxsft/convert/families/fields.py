"""Typed reading of config.json, which remembers what was read."""

from collections.abc import Mapping
from typing import Any

from jaxsft.errors import ConversionError

_MAX_COUNT = 2**53  # of anything; JSON's integers are exact up to it
_MAX_LAYERS = 10_000  # each is an entry of several lists; published models have up to 126


_MAX_COUNT = 2**53  # of anything; JSON's integers are exact up to it
_MAX_LAYERS = 10_000  # each is an entry of several lists; published models have up to 126


class Fields:
    """An object of config.json; a field that is absent has its default, one that is null has none.

    Each method raises ConversionError, with the field's name and value, where it is missing or
    ill-typed.
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any], where: str):
        self._values, self.where = {**defaults, **values}, where
        self._unread = set(values)
        self._told: dict[str, None] = {}  # each line once, in order

    def raw(self, name: str) -> Any:
        """The value, or None where it is null or absent and has no default."""
        self._unread.discard(name)
        return self._values.get(name)

    def has(self, name: str) -> bool:
        return name in self._values

    def tell(self, line: str) -> None:
        """Keeps a line for the user: of what was found and has no effect, or an unexpected one."""
        self._told[f"{self.where}: {line}"] = None

    def told(self) -> list[str]:
        return list(self._told)

    def unread(self) -> list[str]:
        return sorted(self._unread)

    def refuse(self, name: str, wanted: str) -> ConversionError:
        return ConversionError(f"{self.where}: {name}={self.raw(name)!r} {wanted}")

    def count(self, name: str) -> int:
        value = self._there(name)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self.refuse(name, "is no count; expected a positive integer")
        most = _MAX_LAYERS if name == "num_hidden_layers" else _MAX_COUNT
        if value > most:
            raise self.refuse(name, f"is too large; expected at most {most}")
        return value

    def natural(self, name: str) -> int:
        value = self._there(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.refuse(name, "is negative or no integer; expected 0 or more")
        return value

    def positive(self, name: str) -> float:
        value = self._there(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise self.refuse(name, "is not supported; expected a positive number")
        return float(value)

    def not_negative(self, name: str) -> float:
        """0 or more; null is 0."""
        value = self.raw(name) or 0
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
            raise self.refuse(name, "is not supported; expected a number of 0 or more")
        return float(value)

    def truth(self, name: str) -> bool:
        value = self._there(name)
        if not isinstance(value, bool):
            raise self.refuse(name, "is neither true nor false; expected true or false")
        return value

    def flag(self, name: str) -> bool:
        """True or false; null is false."""
        return self.raw(name) is not None and self.truth(name)

    def maybe_count(self, name: str) -> int | None:
        return None if self.raw(name) is None else self.count(name)

    def maybe_positive(self, name: str) -> float | None:
        return None if self.raw(name) is None else self.positive(name)

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        value = self._there(name)
        if not isinstance(value, list) or len(value) != length:
            raise self.refuse(name, f"is not supported; expected {length} numbers")
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int | float) or not 0 < item < 1e30:
                raise self.refuse(name, f"holds {item!r}; expected positive numbers")
        return tuple(float(item) for item in value)

    def choice(self, name: str, choices: Mapping[str, Any]) -> Any:
        value = self._there(name)
        if not isinstance(value, str) or value not in choices:
            raise self.refuse(name, f"is not supported; {', '.join(choices)} are")
        return choices[value]

    def only(self, name: str, *neutral: Any) -> None:
        """Refuses every value but these; an absent field is fine."""
        value = self.raw(name)
        if value is not None and value not in neutral:
            raise self.refuse(name, f"is not supported; {neutral[0] if neutral else None!r} is")

    def _there(self, name: str) -> Any:
        value = self.raw(name)
        if value is None:
            raise ConversionError(f"{self.where}: has no {name}")
        return value
