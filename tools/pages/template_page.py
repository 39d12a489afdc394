"""What came of trying chat templates, as a page of Markdown."""

from collections.abc import Iterator, Sequence

from pages.template_cases import CASES, SWITCHES
from pages.template_check import TemplateOutcome


def introduction(versions: str, outcomes: Sequence[TemplateOutcome]) -> Iterator[str]:
    """The head of the page: what was tried, how to read it, and the sums."""
    equal, tried = sum(len(o.equal) for o in outcomes), sum(o.tried for o in outcomes)
    refused = sum(len(cases) for o in outcomes for cases in o.refused.values())
    failed = sum(len(cases) for o in outcomes for cases in o.failed.values())
    yield f"""# Chat templates that were tried

Written by tools/check_templates.py: {versions}.
{len(outcomes)} templates, {tried} conversations: {equal} equal to transformers; {refused} that the
template refuses, leaves parts of out or renders otherwise than it prompts; {failed} for which
jaxsft found no way.

- **equal**: conversations whose text and token ids are those of `apply_chat_template`, with every
  answer's span found and every turn's ids beginning with those of its generation prompt; where the
  tokenizer would join that to the answer, the ids are cut there.
  Tried were: {", ".join(case.name for case in CASES)}, and two turns with each
  of {" and ".join(SWITCHES)} on and off where the template has such a variable.
- **split**: of these, those whose history the template rewrites, so that each turn is an example.
- **a turn ends with**: the last token of a span, which the model must write to stop. It is learnt
  by rendering the turn with a user's or a tool's message after it: the last control token that both
  renderings share after the answer. Where they share none, a token that ends the conversation
  (gpt-oss), or else the token that begins the next message (GLM: at inference the model stops by
  writing it); after the last turn it is then appended to the rendering. A token that also stands
  between two tool calls of one turn ends none.
- **tags**: for templates with {{% generation %}} tags, what the tags mark beside our spans. Ours
  begin where the generation prompt ends, since inference supplies that, and stop with the end
  token.
- **injection**: control tokens gained by writing all of them into a user's message, a tool's result
  and a tool's description.
- **notes**: conversations that became no example and why: in the template's own words; "left out"
  where it drops reasoning, tools or tool calls; "rendered otherwise than prompted" where an answer
  as rendered does not go on from the generation prompt, of which that part is shown (the error
  names the option that makes them agree, if there is one). What is in bold is a failure.

Templates without their own tokenizer are tried over another, to which their control tokens are
added."""


def markdown(outcomes: Sequence[TemplateOutcome]) -> Iterator[str]:
    """The lines of a table."""
    titles = (
        "template",
        "sha256",
        "equal",
        "split",
        "a turn ends with",
        "tags",
        "injection",
        "notes",
    )
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for outcome in outcomes:
        notes = [f"{', '.join(cases)}: {_short(why)}" for why, cases in outcome.refused.items()]
        notes += [f"**{', '.join(cases)}: {_short(why)}**" for why, cases in outcome.failed.items()]
        tags = "" if outcome.tags is None else _tags(outcome.tags)
        cells = (
            outcome.name,
            f"`{outcome.sha256}`",
            f"{len(outcome.equal)} of {outcome.tried}",
            str(len(outcome.split) or ""),
            " ".join(map(_code, outcome.ends)),
            tags,
            outcome.injected or "none",
            "<br>".join(map(_escaped, [*notes, *outcome.notes])),
        )
        yield f"| {' | '.join(cells)} |"


def _tags(differences: list[str]) -> str:
    return "agree" if not differences else _escaped("; ".join(map(_short, differences[:3])))


def _short(text: str) -> str:
    return text if len(text) <= 110 else text[:110] + "..."


def _escaped(text: str) -> str:
    for char in "<>|[]_*`\n":
        text = text.replace(char, f"&#{ord(char)};") if char != "*" else text
    return text


def _code(text: str) -> str:
    return f"<code>{_escaped(text)}</code>"
