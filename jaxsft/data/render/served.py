"""An answer that goes on where its generation prompt leaves off, though rendered it does not.

prompt     <assistant><think>\\n              what the model is served
rendered   <assistant><think></think>Hi      differs in the template's white space alone
trained    <assistant><think>\\n</think>Hi    the prompt, and what goes on after it
"""

import dataclasses
import os.path

from jaxsft.data.conversation import RowError
from jaxsft.data.render.provenance import Traced, trace
from jaxsft.data.render.rendering import Option, Rendering

_SHOWN = 40  # characters of each side of a difference


@dataclasses.dataclass(frozen=True)
class Continued:
    """A generation prompt, the answer that goes on after it, and what the template writes then."""

    prompt: Traced
    answer: Traced
    tail: Traced
    prefill: str  # what of the prompt the rendering lacks


def continued_answer(rendering: Rendering, turn: int) -> Continued | None:
    """The answer of the turn after its prompt; None where more than white space differs."""
    return _respaced(rendering, turn) or _prefilled(rendering, turn)


def _respaced(rendering: Rendering, turn: int) -> Continued | None:
    """With the prompt's white space in place of what the template renders the answer with."""
    prompt, alone = rendering.traced(turn, True), rendering.traced(turn + 1)
    shared = _shared(prompt, alone)
    rest, own = prompt[shared:], [run for run in alone.runs if run[2][0] == turn]
    if rest.strip() or rest.runs or not own or own[0][0] < shared:
        return None
    if any(run[1] > shared for run in alone.runs if run[2][0] != turn):
        return None  # what stood before the answer is rendered otherwise too
    last, lead = own[-1][1], alone[shared : own[0][0]].lstrip()
    return Continued(prompt, lead + alone[own[0][0] : last], alone[last:], str(rest))


def _prefilled(rendering: Rendering, turn: int) -> Continued | None:
    """With the content from where the prompt leaves off.

    For a template that prompts with the beginning of an answer ("<think>\\n") which the content
    has too, but which leaves an answer's reasoning out of a conversation.
    """
    message, prompt = rendering.messages[turn], rendering.traced(turn, True)
    alone = rendering.traced(turn + 1)
    own = [run for run in alone.runs if run[2][0] == turn]
    if not own or any(field != "content" for _, _, (_, field, _), *_ in own):
        return None
    header = len(alone[: own[0][0]])
    prefill = str.__getitem__(prompt, slice(header, None))
    is_header = header > len(rendering.plain(turn)) and prompt.startswith(alone[:header])
    if not is_header or not message.content.startswith(prefill) or message.reasoning:
        return None
    kept = "".join(str.__getitem__(alone, slice(run[0], run[1])) for run in own)
    said = message.content if message.content.endswith(kept) else message.content.rstrip()
    if not said.endswith(kept.rstrip()):
        return None
    answer = trace(said, turn, "content")[len(prefill) :]
    return Continued(prompt, answer, alone[own[-1][1] :], prefill)


def otherwise(rendering: Rendering, turn: int) -> RowError:
    """The error that says how the rendering differs from the prompt, and what would help."""
    prompt, alone = rendering.plain(turn, True), rendering.plain(turn + 1)
    shared = _shared(prompt, alone)
    before = prompt[max(shared - _SHOWN, 0) : shared]
    detail = (
        f"{rendering.renderer.name}: messages[{turn}]: its generation prompt goes on after "
        f"...{before!r} with {_cut(prompt[shared:])}, but the answer, as the template renders it, "
        f"with {_cut(alone[shared:])}: it would not be trained as it is served; "
        f"{_remedy(rendering, turn, prompt[shared:])}"
    )
    return RowError("template: not a prefix", detail)


def _remedy(rendering: Rendering, turn: int, wanted: str) -> str:
    fitting = _fitting_option(rendering, turn)
    keep = "or give the message weight 0 to keep it as context"
    if fitting:
        name, value = fitting
        return (
            f"data.template_options={{{name!r}: {value}}} makes them agree (for this row alone: "
            f'"chat_template_kwargs": {{"{name}": {str(value).lower()}}}), {keep}'
        )
    if "think" in wanted.lower() and not rendering.messages[turn].reasoning:
        return (
            f"give the answer reasoning (reasoning_content), or begin its content with {wanted!r} "
            f"and close it as the model does, {keep}"
        )
    return f"no option of the template makes them agree: name another data.template, {keep}"


def _fitting_option(rendering: Rendering, turn: int) -> tuple[str, Option] | None:
    """A switch of the template with which the rendering begins with the prompt."""
    switches = [name for name in rendering.renderer.variables if _is_switch(name)]
    for name in sorted(switches):
        for value in (False, True):
            options = {**rendering.options, name: value}
            other = dataclasses.replace(rendering, options=options)
            try:
                if other.plain(turn + 1).startswith(other.plain(turn, True)):
                    return name, value
            except RowError:
                continue
    return None


def _is_switch(name: str) -> bool:
    return "think" in name or "reason" in name


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    plain = [str.__getitem__(text, slice(None)) for text in (one, other)]
    return len(os.path.commonprefix(plain))


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
