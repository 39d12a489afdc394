"""Tries a chat template on conversations of every shape and says what held: for docs/templates.md.

A template is tried with a tokenizer to which its control tokens are added, against transformers'
own `apply_chat_template`.
"""

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.encode.tokenize import ChatTokenizer, Example
from jaxsft.data.render.template import ChatTemplate, TrainingText
from pages.template_cases import ASK, CALL_LOOK, CASES, LOOK_RESULT, SWITCHES, TELL, TOOLS, Case

# What a special token looks like in the templates of published models.
_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<\|[a-z_]{2,20}>|<[a-z_]{2,20}\|>|<｜[^｜<>]{1,40}｜>"
    r"|<\|[^|<>\s]{1,40}｜>|</?s>|<(?:bos|eos|sop|用户|AI|EOT|sep)>|\[gMASK\]"
    r"|<SPECIAL_\d+>|</?(?:user|assistant|system|role)>|<[a-z]+_of_[a-z]+>|<seed:[a-z_:]+>|\[/?[A-Z][A-Z_]{2,30}\]|\]~b\]|\]~!b\[|\[e~\["
    r"|</?(?:think|tool_call|tool_response|arg_key|arg_value)>"
)
# By what a template writes: its family's names for bos_token and eos_token.
_FAMILIES = (
    ("<|start_header_id|>", "<|begin_of_text|>", "<|eot_id|>"),
    ("<start_of_turn>", "<bos>", "<eos>"),
    ("<|turn>", "<bos>", "<eos>"),
    ("<｜User｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    ("<|START_OF_TURN_TOKEN|>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    ("<|start_of_role|>", "<|end_of_text|>", "<|end_of_text|>"),
    ("<|return|>", "<|startoftext|>", "<|return|>"),
    ("<|im_end|>", "<|startoftext|>", "<|im_end|>"),
    ("<|end|>", "<s>", "<|endoftext|>"),
    ("[gMASK]", "[gMASK]", "<|endoftext|>"),
    ("<seed:", "<seed:bos>", "<seed:eos>"),
    ("", "<s>", "</s>"),
)


_LEFT_OUT = {"tools left out"} | {
    f"template: {what}"
    for what in (
        "message left out",
        "content not rendered",
        "reasoning not rendered",
        "tool call not rendered",
    )
}


@dataclasses.dataclass
class TemplateOutcome:
    """What one template did with all cases."""

    name: str
    sha256: str
    tried: int = 0
    equal: list[str] = dataclasses.field(default_factory=list)  # cases: text and ids
    split: list[str] = dataclasses.field(default_factory=list)
    # Why a case is no example, and the cases: the template's doing.
    refused: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    # What differs from transformers, or can't be established though the template renders it.
    failed: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    ends: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    tags: list[str] | None = None  # how {% generation %} differs; None: there are none
    injected: str = ""  # what went wrong

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def control_tokens(source: str, special: dict[str, str]) -> list[str]:
    """What looks like a control token in the template and in what it renders."""
    texts = [source, *special.values()]
    probe = ChatTemplate(source, special, ())
    for case in CASES:
        for prompt in (False, True):
            try:
                text = probe.render(case.messages, case.tools, prompt)
            except RowError:
                continue
            edges = [0, *[edge for a, b, *_ in text.runs for edge in (a, b)], len(text)]
            plain = str.__getitem__(text, slice(None))
            texts += [plain[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    found = [match.group() for text in texts for match in _CONTROL.finditer(text)]
    return list(dict.fromkeys([*special.values(), *found]))


def special_tokens(source: str) -> dict[str, str]:
    bos, eos = next((bos, eos) for mark, bos, eos in _FAMILIES if mark in source)
    return {"bos_token": bos, "eos_token": eos}


def check_template(name: str, source: str, tokenizer: str) -> TemplateOutcome:
    """All cases of one template over the tokenizer, with its control tokens added."""
    from transformers import AutoTokenizer

    special = special_tokens(source)
    reference = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    reference.add_tokens(control_tokens(source, special), special_tokens=True)
    reference.add_special_tokens(special)
    with tempfile.TemporaryDirectory() as directory:
        reference.save_pretrained(directory)
        path = Path(directory) / "template.jinja"
        path.write_text(source, encoding="utf-8", newline="")
        return _check(name, ChatTokenizer(directory, str(path)), reference)


def check_tokenizer(name: str, directory: str) -> TemplateOutcome:
    """All cases of a tokenizer's own template."""
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return _check(name, ChatTokenizer(directory), reference)


def _check(name: str, chat: ChatTokenizer, reference: Any) -> TemplateOutcome:
    template = chat.template
    outcome = TemplateOutcome(name, template.sha256[:12])
    if re.search(r"\{%-?\s*generation\s*-?%\}", template.source):
        outcome.tags = []
    for case in _cases_for(template):
        outcome.tried += 1
        _check_case(case, chat, reference, outcome)
    if template.uses_date:
        outcome.note("writes the date")
    outcome.injected = _injected(chat)
    return outcome


def _cases_for(template: ChatTemplate) -> Iterator[Case]:
    yield from CASES
    for switch in SWITCHES:
        if switch in template.variables:
            for value in (True, False):
                options = {switch: value}
                yield dataclasses.replace(CASES[1], name=f"{switch}={value}", options=options)


def _check_case(case: Case, chat: ChatTokenizer, reference: Any, outcome: TemplateOutcome) -> None:
    conversation = Conversation(case.messages, case.tools, case.name, 1, case.options)
    transformers = _Transformers(reference, chat.template, case)
    try:
        examples = chat.encode(conversation)
        texts = [_text_of(chat.template, conversation, example) for example in examples]
    except RowError as error:
        _note_error(error, transformers, outcome, case)
        return
    for text, example in zip(texts, examples, strict=True):
        until = example.turns[-1] + 1 if example.is_split else len(case.messages)
        problem = _difference(text, example, transformers, until)
        if problem:
            outcome.failed.setdefault(problem, []).append(case.name)
            return
        outcome.ends += sorted(text.end_of_turn - set(outcome.ends))
        if text.appended:
            outcome.note("a turn ends with the next one's header")
        if text.header:
            outcome.note(f"has no generation prompt: {text.header!r} is trained")
        if text.prefilled.strip():
            outcome.note(f"an answer that begins with {text.prefilled!r} is trained from there")
        elif text.prefilled:
            outcome.note(f"answers are trained after the prompt's {text.prefilled!r}")
    outcome.equal.append(case.name)
    if any(example.is_split for example in examples):
        outcome.split.append(case.name)
    if outcome.tags is not None:
        found = compare_generation(chat.template, conversation)
        outcome.tags += [line for line in found if line not in outcome.tags]


def _text_of(template: ChatTemplate, conversation: Conversation, example: Example) -> TrainingText:
    if example.is_split:
        return template.turn_text(conversation, example.turns[-1])
    ((text,), _) = template.training_texts(conversation)
    return text


def _note_error(
    error: RowError, theirs: "_Transformers", outcome: TemplateOutcome, case: Case
) -> None:
    said = str(error).partition(" ")[2].partition(" ")[2].strip(": ")
    if error.kind in _LEFT_OUT:
        outcome.refused.setdefault("left out", []).append(case.name)
    elif error.kind.startswith("template refused") and theirs.refuses():
        outcome.refused.setdefault(said, []).append(case.name)
    elif error.kind == "template: not a prefix":
        prompt = said.partition(" with ")[2].partition(", but the answer")[0]
        reason = f"rendered otherwise than prompted: {prompt or said}"
        outcome.refused.setdefault(reason, []).append(case.name)
    else:
        outcome.failed.setdefault(said, []).append(case.name)


class _Transformers:
    """One case rendered by transformers."""

    def __init__(self, tokenizer: Any, template: ChatTemplate, case: Case):
        self._tokenizer, self._source, self._case = tokenizer, template.source, case
        self._messages = template.message_dicts(case.messages, case.tools, case.options)

    def render(self, until: int, tokenize: bool = False, prompt: bool = False) -> Any:
        case = self._case
        return self._tokenizer.apply_chat_template(
            self._messages[:until],
            tools=None if case.tools is None else list(case.tools),
            chat_template=self._source,
            tokenize=tokenize,
            add_generation_prompt=prompt,
            **({"return_dict": False} if tokenize else {}),
            **case.options,
        )

    @property
    def tokens(self) -> Sequence[str]:
        return [token for token in self._tokenizer.get_added_vocab() if token.strip()]

    @property
    def said(self) -> list[str]:
        return [message.content for message in self._case.messages]

    def refuses(self) -> bool:
        try:
            self.render(len(self._case.messages))
        except MemoryError:
            raise
        except Exception:  # whatever the template's own code may raise
            return True
        return False


def _difference(text: TrainingText, example: Example, theirs: _Transformers, until: int) -> str:
    """How our text and ids differ from transformers', or ""."""
    ours = text.text[: len(text.text) - len(text.appended)]
    is_harmless = not any(token in said for token in theirs.tokens for said in theirs.said)
    # Each turn goes on from the prompt that it is served after.
    prompts = {
        start: theirs.render(turn, tokenize=True, prompt=True)
        for turn, (start, _) in zip(example.turns, example.spans, strict=True)
        if is_harmless
    }
    if any(example.ids[:start].tolist() != ids for start, ids in prompts.items()):
        return "ids differ from the prompt's"
    if text.prefilled:
        turn = text.spans[0].message
        return "" if ours.startswith(theirs.render(turn, prompt=True)) else "prompt differs"
    if ours != theirs.render(until):
        return "text differs from transformers'"
    ids = theirs.render(until, tokenize=True)
    same = example.ids[: len(ids)].tolist() == ids and (
        text.appended or len(ids) == len(example.ids)
    )
    is_cut = any(ids[: len(prompt)] != prompt for prompt in prompts.values())
    return "ids differ from transformers'" if is_harmless and not same and not is_cut else ""


def compare_generation(template: ChatTemplate, conversation: Conversation) -> list[str]:
    """Where the spans of {% generation %} tags are others than ours: ours and theirs, by turn."""
    from transformers.utils import chat_template_utils

    texts, is_split = template.training_texts(conversation)
    differences = []
    messages = template.message_dicts(
        conversation.messages, conversation.tools, conversation.template_options
    )
    for text in texts:
        until = text.spans[-1].message + 1 if is_split else len(conversation.messages)
        rendered, spans = chat_template_utils.render_jinja_template(
            [messages[:until]],
            tools=None if conversation.tools is None else list(conversation.tools),
            chat_template=template.source,
            return_assistant_tokens_mask=True,
            **template.special_tokens,
            **conversation.template_options,
        )
        spans = [(int(start), int(stop)) for start, stop in spans[0] if start < stop]
        theirs = [rendered[0][start:stop] for start, stop in _merged(spans)]
        ours = [str.__getitem__(text.text, slice(s.start, s.stop)) for s in text.spans]
        differences += _compared(ours, theirs[-1:] if is_split else theirs)
    return differences


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those that touch as one."""
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, stop))
    return merged


def _compared(ours: list[str], theirs: list[str]) -> list[str]:
    if len(ours) != len(theirs):
        return [f"{len(theirs)} spans for {len(ours)} turns"]
    found = []
    for our, their in zip(ours, theirs, strict=True):
        if our == their:
            continue
        before, middle, after = their.partition(our)
        if middle:
            found += [f"{before!r} before"] * bool(before) + [f"{after!r} after"] * bool(after)
        else:
            before, middle, after = our.partition(their)
            lack = f"lack {before!r} before and {after!r} after" if middle else f"{their!r}"
            found.append(f"{lack}, ours {our!r}" if not middle else lack)
    return found


def twin_difference(source: str, twin: str) -> list[str]:
    """The cases in which two templates render otherwise."""
    special = special_tokens(source)
    one, other = ChatTemplate(source, special, ()), ChatTemplate(twin, special, ())
    return [case.name for case in CASES if _rendered(one, case) != _rendered(other, case)]


def _rendered(template: ChatTemplate, case: Case) -> list[str]:
    texts = []
    for prompt in (False, True):
        try:
            texts.append(str.__str__(template.render(case.messages, case.tools, prompt)))
        except RowError:
            texts.append("refused")
    return texts


def _injected(chat: ChatTokenizer) -> str:
    """What goes wrong when a user, a tool and a tool's description hold every control token."""
    evil = "x" + "y".join(chat.control_tokens) + "z"
    counts = []
    for said in ("xyz", evil):
        tools = tuple(json.loads(json.dumps(TOOLS).replace("to look", json.dumps(said)[1:-1])))
        result = dataclasses.replace(LOOK_RESULT, content=said)
        for case in (
            Case("user", (Message("user", said), TELL)),
            Case("tool", (ASK, CALL_LOOK, result, TELL), tools),
        ):
            try:
                examples = chat.encode(Conversation(case.messages, case.tools, "f", 1))
            except RowError as error:
                counts.append(f"{case.name}: {error.kind}")
                continue
            controls = set(chat.control_tokens.values())
            counts.append([i for e in examples for i in e.ids.tolist() if i in controls])
    harmless, hostile = counts[:2], counts[2:]
    return "" if harmless == hostile else "control tokens in a message changed the others"
