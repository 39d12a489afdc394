"""What users write by hand or are given: flags of a config, and chat templates."""

import dataclasses
import functools
import json
import random
import typing
from pathlib import Path
from typing import Any

from fuzzing import changes, rows
from jaxsft.cli import config_file, flags
from jaxsft.config import Config, optional_section, validate

_WRITTEN = """{%- set ns = namespace(first=true, last=-1) %}
{%- macro shown(text, upper=false) %}{{ text | upper if upper else text | trim }}{% endmacro %}
{%- if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson(indent=2) }}
{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' and not ns.first is defined %}{{ raise_exception('no') }}{% endif %}
{%- if message['content'] is string %}{% set content = message.content %}
{%- else %}{% set content = message.content | default('', true) %}{% endif %}
{{- '<|im_start|>' + message.role + '\\n' + content.split('</think>')[-1].lstrip('\\n') }}
{%- for call in message.tool_calls or [] %}{{ call.function.name ~ call.function.arguments }}
{%- endfor %}{{ '<|im_end|>' + '\\n' }}
{%- set ns.first = loop.last or loop.index0 % 2 == 0 %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
# Pieces of templates: all that Jinja has, and what would run away or get out.
_WORDS = [
    *("{{ ", " }}", "{% ", " %}", "{%- ", "-%}", "{# ", "#}", "{% endfor %}", "{% endif %}", "("),
    *("{% for m in messages %}", "{% for x in range(99999) %}", "{% if true %}", "{% else %}", ")"),
    *("{{ messages }}", "{{ messages | tojson }}", "{{ messages[0] }}", "{{ messages[::-1] }}"),
    *("{{ ''.__class__ }}", "{{ self }}", "{{ namespace.__init__.__globals__ }}", "{{ loop }}"),
    *("{{ cycler('a').next.__globals__ }}", "{{ joiner }}", "{{ lipsum(99) }}", "{{ dict() }}"),
    *("{% set x = 'a' * 100000000 %}", "{{ 10 ** 10 ** 10 }}", "{{ 'a' | center(10 ** 9) }}"),
    *("{% set ns.x = [ns] %}", "{% set x = messages %}", "{{ x | join(x) }}", "{{ 1 / 0 }}"),
    *("{% macro f(a) %}{{ f(a) }}{% endmacro %}", "{{ f(1) }}", "{% call f(1) %}{% endcall %}"),
    *("{% generation %}", "{% endgeneration %}", "{% break %}", "{% continue %}", "{% do x %}"),
    *(
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
        "{% block b %}{% endblock %}",
    ),
    *("{{ raise_exception('x') }}", "{{ strftime_now('%Y' * 99) }}", "{{ '%999999999d' % 1 }}"),
    *("{{ '{:>999999999}'.format(1) }}", "{{ '{0.__class__}'.format(x) }}", "{{ x.y.z }}", "{{"),
    *(
        "{{ messages | map(attribute='content') | list }}",
        "{{ messages | selectattr('x') | first }}",
    ),
    *("{{ messages.append(1) }}", "{{ messages[0].update(a=1) }}", "{{ messages[0].pop('role') }}"),
    *("{% filter upper %}", "{% endfilter %}", "{% raw %}", "{% endraw %}", "{% with a = 1 %}"),
    *(
        "{{ 'a' | replace('', 'b' * 1000) }}",
        "{{ 'x' | indent(9999) }}",
        "{{ 1e999 | int }}",
        "'",
        '"',
    ),
    *("{{ [1, [2]] | sum(start=[]) }}", "{{ x | sort }}", "{{ messages | groupby('role') }}", "\\"),
    *(
        "{{ 'a' is in 'abc' }}",
        "{{ undefined.x }}",
        "{% set add_generation_prompt = 1 %}",
        "{% set ",
    ),
    *("{% for a, b in messages[0].items() %}", "{% for x in x recursive %}", "{{ loop(x) }}", "\0"),
]


def template_seeds(folder: Path) -> None:
    found = sorted((rows.ROOT / "configs" / "templates").glob("*.jinja"))
    written = [_WRITTEN, *(path.read_text() for path in found)]
    for number, text in enumerate(written):
        for form in ("messages", "tools") if number == 0 else ("messages",):
            seed = folder / f"{number} {form}"
            seed.mkdir(parents=True)
            (seed / "chat_template.jinja").write_text(text)
            lines = (json.dumps(row) + "\n" for row in rows.ROWS[form])
            (seed / "rows.jsonl").write_text("".join(lines))


def change_template(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        return changes.of_bytes(data, chance)
    return changes.of_text(data.decode(), _WORDS, chance).encode()


def override_seeds(folder: Path) -> None:
    (folder / "flags").mkdir(parents=True)
    (folder / "flags" / "flags.json").write_text("[]")


def change_overrides(data: bytes, chance: random.Random) -> bytes:
    """One to four fields with values, as the command line gives them."""
    del data
    given = []
    for _ in range(chance.choice((1, 1, 2, 4))):
        path, default = chance.choice(list(_fields(Config)))
        if chance.random() < 0.2:
            path = changes.of_text(
                path, [".", "[0]", "[9]", "[-1]", "=", " ", "é", "__class__"], chance
            )
        value = changes.a_value(chance)
        text = str(default) if chance.random() < 0.3 else str(value)
        if chance.random() < 0.4:
            text = changes.json_text(value, chance).decode("utf-8", "replace")
        if chance.random() < 0.3:
            text = changes.of_text(
                text, ["[", "]", "{", "}", '"', "e", "-", ",", "0", "None"], chance
            )
        given.append([path, text.encode("utf-8", "surrogatepass").hex()])
    return json.dumps(given).encode()


def _fields(section: Any, above: str = "") -> Any:
    """Each field by its dotted path, with its default."""
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        hint, path = hints[field.name], above + field.name
        inner = optional_section(hint) or hint
        parts = [arg for arg in typing.get_args(inner) if dataclasses.is_dataclass(arg)]
        if dataclasses.is_dataclass(inner):
            yield from _fields(inner, f"{path}.")
        elif parts:
            yield from _fields(parts[0], f"{path}[0].")
        yield path, field.default


def read_overrides(folder: Path) -> None:
    config = _config()
    for path, text in json.loads((folder / "flags.json").read_text()):
        value = bytes.fromhex(text).decode("utf-8", "surrogateescape")
        config = flags.override(config, path, value)
    validate(config)


@functools.cache
def _config() -> Config:
    return config_file.load(str(rows.ROOT / "configs" / "debug.py"))
