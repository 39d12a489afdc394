"""Messages as a template reads them, and its text: plain as transformers renders it, and traced."""

import dataclasses
import datetime
import difflib
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateSyntaxError, meta, nodes
from jinja2.runtime import new_context

from jaxsft.data.conversation import Message, RowError
from jaxsft.data.read.strict_json import strings
from jaxsft.data.render.limits import LimitedEnvironment, LimitError, RunawayError
from jaxsft.data.render.prefixes import Seen, Watch
from jaxsft.data.render.provenance import ProvenanceError, Traced, trace
from jaxsft.data.render.sandbox import TracingEnvironment
from jaxsft.errors import DataError

# Where strings come from that are of no message: index and field.
_TOOLS, _OPTIONS = (-1, "tools"), (-1, "options")
# Variables that a rendering gives to every template; they are no options.
_GIVEN = ("messages", "tools", "documents", "add_generation_prompt")
MAX_SOURCE_CHARS = 1_000_000
_COMPARED = 16  # renderings of each process that are compared with transformers' own
_SAID = 300  # characters of a template's own message that are shown
_CHARS_PER_MESSAGE = 50  # that it counts as beside its own, for what a template may compute
_FEW = 8  # messages that no template in order takes long for
_KEPT = 8  # texts of one conversation that are kept for a second use

Option = bool | int | float | str | list[Any] | dict[str, Any]


class TemplateRunsAway(DataError):
    """A template that used up its whole limit on one conversation, as it would on the next."""


class Renderer:
    """One template, compiled twice in transformers' environment: as it is, and with tracing.

    Both run under limits, the traced one first. Dates that the template asks for are `today`.

    Raises:
        DataError: the template is not valid Jinja, or an option is none of its variables.
    """

    def __init__(
        self,
        name: str,
        source: str,
        special_tokens: Mapping[str, str],
        options: Mapping[str, Option],
        today: datetime.date,
    ):
        self.name = name
        self.source = source
        self.today = today
        self.special_tokens = dict(special_tokens)
        self.plain, self.traced, tree = _compile(name, source, today)
        self.names = dict(self.plain.globals)  # what templates may call; the same in both
        self.uses_date = any(name.name == "strftime_now" for name in tree.find_all(nodes.Name))
        self.variables = meta.find_undeclared_variables(tree) - {*_GIVEN, *special_tokens}
        unknown = self.unknown_option(options)
        if unknown:
            raise DataError(unknown)
        self.options = dict(options)
        self._left_to_compare = _COMPARED

    def unknown_option(self, options: Mapping[str, Option]) -> str:
        """What is wrong with the first option that is no variable of the template, or ""."""
        for key in sorted(options.keys() - self.variables):
            near = difflib.get_close_matches(key, self.variables, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"it has {sorted(self.variables)}"
            return f"{self.name} has no variable {key!r} (template option); {known}"
        return ""

    def of(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        options: Mapping[str, Option] | None = None,
    ) -> "Rendering":
        """The rendering of a conversation; `options` win over the renderer's own.

        Raises:
            RowError: an option is none of the template's variables.
        """
        unknown = self.unknown_option(options or {})
        if unknown:
            raise RowError("unknown template option", unknown)
        options = {**self.options, **(options or {})}
        rendering = Rendering(self, messages, tools, options)
        if any(message.tool_calls for message in messages) and not rendering.is_possible:
            # Some templates (DeepSeek V3) write a call's arguments as they are: JSON text.
            as_text = Rendering(self, [_with_text_arguments(m) for m in messages], tools, options)
            rendering = as_text if as_text.is_possible else rendering
        return rendering

    def compare(self, text: str, values: Mapping[str, Any]) -> None:
        """Lets transformers itself render the same, a few times.

        Raises:
            RowError: it renders otherwise.
        """
        told = self.today == datetime.date.today() or not self.uses_date
        if not self._left_to_compare or not told:
            return
        from transformers.utils import chat_template_utils

        self._left_to_compare -= 1
        given = {name: value for name, value in values.items() if name != "messages"}
        try:
            rendered, _ = chat_template_utils.render_jinja_template(
                [values["messages"]], chat_template=self.source, **given
            )
        except MemoryError:
            raise
        except Exception as error:  # whatever the template's own code may raise
            self.refuse(error)
        if rendered[0] != text:
            detail = f"{self.name} renders otherwise in transformers"
            raise RowError("template not reproduced", detail)

    def refuse(self, error: Exception) -> NoReturn:
        kind = type(error).__name__
        said = str(error) if kind == "TemplateError" else f"{kind}: {error}"
        said = said if len(said) <= _SAID else said[:_SAID] + "..."
        raise RowError(f"template refused: {said[:80]}", f"{self.name} refused: {said}") from None


def _compile(name: str, source: str, today: datetime.date) -> tuple[Any, Any, nodes.Template]:
    """The template in both environments, and its syntax tree."""
    from transformers.utils import chat_template_utils

    if len(source) > MAX_SOURCE_CHARS:
        raise DataError(f"{name}: {len(source)} characters; at most {MAX_SOURCE_CHARS} are read")
    # Only the environment is transformers': the source itself is compiled under limits.
    reference = chat_template_utils._compile_jinja_template("").environment

    def strftime_now(form: str) -> str:
        return datetime.datetime.combine(today, datetime.time()).strftime(form)

    templates: list[Any] = []
    try:
        for environment in (LimitedEnvironment(reference), TracingEnvironment(reference)):
            environment.globals["strftime_now"] = strftime_now
            templates.append(environment.from_string(source))
        plain, traced = templates
        return plain, traced, plain.environment.parse(source)
    except TemplateSyntaxError as error:
        raise DataError(f"{name}: line {error.lineno}: {error.message}") from None
    except MemoryError:
        raise
    except Exception as error:  # nested too deep for Python, for one
        raise DataError(f"{name}: can't be compiled: {type(error).__name__}: {error}") from None


@dataclasses.dataclass
class Rendering:
    """One conversation under one template; each text of it is rendered once."""

    renderer: Renderer
    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] | None
    options: Mapping[str, Option]

    def __post_init__(self) -> None:
        self._plain: dict[tuple[int, bool], str] = {}
        self._traced: dict[tuple[int, bool], Traced] = {}
        self._seen = Seen((), 0, Watch(0))

    @functools.cached_property
    def users(self) -> list[int]:
        """Indices of the messages of users."""
        return [i for i, message in enumerate(self.messages) if message.role == "user"]

    @property
    def is_possible(self) -> bool:
        """Whether the template takes the messages at all."""
        try:
            self.plain(len(self.messages))
        except RowError:
            return False
        return True

    def plain(self, until: int, prompt: bool = False) -> str:
        """What transformers' apply_chat_template(tokenize=False) renders of the first messages.

        Raises:
            RowError: the template refuses them.
        """
        key = (until, prompt)
        if key not in self._plain:
            given = self._given(self._plain_values, until, prompt)
            text = self._run(self.renderer.plain, given)
            self.renderer.compare(text, given)
            _keep(self._plain, key, text)
        return self._plain[key]

    def traced(self, until: int, prompt: bool = False) -> Traced:
        """The same text with provenance, checked to be the same.

        Raises:
            RowError: the template refuses the messages, or provenance can't be kept.
        """
        key = (until, prompt)
        if key not in self._traced:
            given = self._given(self._traced_values, until, prompt)
            text = self._run(self.renderer.traced, given)
            if text != self.plain(until, prompt):
                detail = f"{self.renderer.name} renders otherwise with provenance"
                raise RowError("template not reproduced", detail)
            _keep(self._traced, key, text)
        return self._traced[key]

    def watched(self, until: int, prompt: bool, model: Watch | None = None) -> Watch:
        """The run that renders the plain text: what it wrote after what it shares with the model.

        Raises:
            RowError: as plain.
        """
        watch, values = Watch(until, model), self._plain_values
        if model is None:
            seen = Seen(values["messages"][:until], 0, watch)
        else:
            seen = self._seen.of_first(values["messages"], until, watch)
            self._seen = seen
        environment = self.renderer.plain.environment
        environment.watch = watch
        try:
            given = {**values, "messages": seen, "add_generation_prompt": prompt}
            self._run(self.renderer.plain, given, watch)
        finally:
            environment.watch = None
        watch.num_steps = environment.num_steps
        return watch

    def prompts(self, turn: int) -> bool:
        """Whether the template writes more where it is asked to prompt for the turn."""
        try:
            return self.plain(turn) != self.plain(turn, True)
        except RowError:
            return True

    def followed_by(self, message: Message, until: int) -> "Rendering":
        """The first messages and one more, to see what follows them."""
        return Rendering(self.renderer, (*self.messages[:until], message), self.tools, self.options)

    @staticmethod
    def _given(values: dict[str, Any], until: int, prompt: bool) -> dict[str, Any]:
        messages = values["messages"][:until]
        return {**values, "messages": messages, "add_generation_prompt": prompt}

    def _run(self, template: Any, given: dict[str, Any], watch: Watch | None = None) -> Any:
        environment = template.environment
        environment.begin(self._num_chars, len(self.messages))
        # As template.new_context, but for a copy of all globals into their own dict each time.
        context = new_context(
            environment, None, template.blocks, given, globals=self.renderer.names
        )
        try:
            pieces = template.root_render_func(context)
            return watch.run(pieces) if watch else environment.concat(pieces)
        except ProvenanceError as error:
            detail = f"{self.renderer.name}: {error}"
            raise RowError("template loses provenance", detail) from None
        except RunawayError as error:
            raise self._runs_away(error) from None
        except LimitError as error:
            raise RowError("template runs away", f"{self.renderer.name} {error}") from None
        except MemoryError:  # the machine's, not the template's
            raise
        except Exception as error:  # whatever the template's own code may raise
            self.renderer.refuse(error)

    def _runs_away(self, error: RunawayError) -> DataError | RowError:
        """The error of a template that a few messages keep as long; else that of this row."""
        said = f"{self.renderer.name} {error}"
        if len(self.messages) <= _FEW:
            return TemplateRunsAway(said)
        few = dataclasses.replace(self, messages=self.messages[:_FEW])
        try:
            few.plain(_FEW)
        except TemplateRunsAway:
            return TemplateRunsAway(said)
        except RowError:
            pass
        return RowError(
            "template runs away", f"{said} for a conversation of {len(self.messages)} messages"
        )

    @functools.cached_property
    def _num_chars(self) -> int:
        said = sum(len(message.content) for message in self.messages)
        others = [(m.reasoning, m.tool_calls, m.fields) for m in self.messages]
        size = said + sum(map(len, strings([others, self.tools])))
        return size + _CHARS_PER_MESSAGE * len(self.messages)

    @functools.cached_property
    def _plain_values(self) -> dict[str, Any]:
        return self._values([_aliased(message_dict(message)) for message in self.messages], None)

    @functools.cached_property
    def _traced_values(self) -> dict[str, Any]:
        messages = self._plain_values["messages"]
        return self._values([_trace_message(m, i) for i, m in enumerate(messages)], trace)

    def _values(
        self, messages: list[dict[str, Any]], tracer: Callable[[Any, int, str], Any] | None
    ) -> dict[str, Any]:
        tools = None if self.tools is None else list(self.tools)
        options = dict(self.options)
        if tracer is not None:
            tools, options = tracer(tools, *_TOOLS), _trace_values(options)
        return {
            "messages": messages,
            "tools": tools,
            "documents": None,
            **self.renderer.special_tokens,
            **options,
        }


def message_dict(message: Message) -> dict[str, Any]:
    """The message as it is given to transformers."""
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        result["reasoning_content"] = message.reasoning
    if message.tool_calls:
        result["tool_calls"] = list(message.tool_calls)
    if message.name is not None:
        result["name"] = message.name
    return {**result, **message.fields}


def _with_text_arguments(message: Message) -> Message:
    calls = []
    for call in message.tool_calls:
        function = call.get("function", call)
        text = json.dumps(function["arguments"], ensure_ascii=False)
        function = {**function, "arguments": text}
        calls.append({**call, "function": function} if "function" in call else function)
    return dataclasses.replace(message, tool_calls=tuple(calls))


def _aliased(message: dict[str, Any]) -> dict[str, Any]:
    """With `thinking` too, which gpt-oss reads and transformers fills."""
    if "reasoning_content" not in message:
        return message
    return {"thinking": message["reasoning_content"], **message}


def _trace_message(message: dict[str, Any], index: int) -> dict[str, Any]:
    """The message with every string traced but the role, which is one of four words.

    Templates build control tokens from the role, so its characters count as the template's.
    """
    names = {"reasoning_content": "reasoning", "thinking": "reasoning"}
    return {
        key: value if key == "role" else trace(value, index, names.get(key, key))
        for key, value in message.items()
    }


def _trace_values(values: dict[str, Any]) -> dict[str, Any]:
    return {key: trace(value, *_OPTIONS, key) for key, value in values.items()}


def _keep(texts: dict[tuple[int, bool], Any], key: tuple[int, bool], text: str) -> None:
    """A conversation of many turns is rendered many times: the oldest of the texts goes."""
    while len(texts) >= _KEPT:
        del texts[next(iter(texts))]
    texts[key] = text
