"""Compares every family with transformers and writes docs/families.md.

    JAX_PLATFORMS=cpu PYTHONPATH=. python tools/check_families.py

Takes minutes and needs the [test] extra: the models are those of
tests/convert/families/test_families.py.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import transformers
from absl import app, flags

import jaxsft
from jaxsft.convert import pretrained
from tests.convert.families import family_cases, features, multimodal_cases
from tests.convert.families import family_measures as measures

OUTPUT = flags.DEFINE_string("output", "docs/families.md", "the page to write")
ONLY = flags.DEFINE_string("only", "", "cases whose name holds this")
HEAD = """# Families

Written by `tools/check_families.py`; don't edit.

Each row is a tiny random model that transformers {version} made and saved, imported and compared
with it: float32, eager attention, rows of {length} tokens, longer than every window and than the
original length of every scaled rope. *logits*: the greatest difference over a whole row and two
packed ones, each against transformers on that text alone. *gradients*: of the SFT loss over those
rows, the greatest difference of a tensor, relative to its norm. *decoding*: the greatest difference
of a whole row's logits, computed one token after the other with the cache. Import and export change
no bit of any tensor: `tests/convert/families/test_families.py` checks that for the same models, and
fails where logits or gradients differ by more than 1e-4.

| model_type | features | logits | gradients | decoding |
|---|---|---|---|---|
"""
MULTIMODAL = """
## Multimodal checkpoints

Of these the text part is read and trained. The other tensors and files (vision tower, projector,
processor) go into an export bit for bit, under their names. *logits*: as above, against the whole
model in transformers on text alone.

| model_type | text_config | logits |
|---|---|---|
"""


def compare(case: family_cases.Case) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as directory:
        reference = measures.theirs(family_cases.save(case, Path(directory)))
        table = pretrained.open_pretrained(directory).table
        model = jaxsft.load_model(directory)
    computed = measures.ours(model, table)
    logits = measures.greatest_difference(computed.logits, reference.logits)
    relative = measures.relative_differences(computed.gradients, reference.gradients)
    decoded = measures.decoded(model)[:1]
    decoding = measures.greatest_difference(decoded, reference.logits[:1])
    gradients = max(relative.values())
    return (
        f"| {case.family} | {case.features} | {logits:.0e} | {gradients:.0e} | {decoding:.0e} |\n"
    )


def compare_text(kind: str) -> str:
    """A line of the table of multimodal checkpoints."""
    family, _, _ = multimodal_cases.KINDS[kind]
    with tempfile.TemporaryDirectory() as directory:
        reference = multimodal_cases.their_logits(multimodal_cases.save(kind, Path(directory)))
        computed = np.asarray(jaxsft.load_model(directory)(multimodal_cases.IDS))
    logits = measures.greatest_difference([computed], [reference])
    return f"| {kind} | {family} | {logits:.0e} |\n"


def page() -> Iterator[str]:
    yield HEAD.format(version=transformers.__version__, length=features.LENGTH)
    for case in family_cases.CASES:
        if ONLY.value in str(case):
            yield compare(case)
    yield MULTIMODAL
    for kind in multimodal_cases.KINDS:
        if ONLY.value in kind:
            yield compare_text(kind)


def main(_: list[str]) -> None:
    Path(OUTPUT.value).write_text("".join(page()), encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
