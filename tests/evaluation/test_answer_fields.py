"""Fields of config.eval that are about answers, and don't fit the others."""

import pytest

from jaxsft.config import Config, Data, Eval, Model, Optim, Source, Train, scorers, validate
from jaxsft.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scorers": ("exact",)}, r"eval.scorers=\('exact',\): config.eval.prompts=0"),
        ({"shots": 2}, "eval.shots=2: config.eval.prompts=0: there are no answers"),
        ({"shots": -1, "prompts": 1}, "eval.shots=-1: must be 0 or more"),
        ({"answer_every_steps": 5, "prompts": 1}, "every_steps=5: nothing is evaluated before"),
        ({"answer_every_steps": 0, "prompts": 1}, "eval.answer_every_steps=0: must be finite"),
        ({"harmful_requests": "f"}, "eval.harmful_requests=f: set refusal=True too"),
        ({"scorers": ("exakt",), "prompts": 1}, r"eval.scorers=\('exakt',\): expected a tuple of"),
        (
            {"scorers": (scorers.Exact(sets="a"),), "prompts": 1},
            r"config.eval.scorers=\(Exact.*|config.eval.scorers\[0\].sets='a': expected a tuple",
        ),
    ],
)
def test_what_fits_no_other_field_is_refused(fields, said):
    source = Source(path="a.jsonl")
    config = Config(
        model=Model(source="m"),
        data=Data(train=(source,), eval=(source,), sequence_length=8),
        optim=Optim(peak_lr=1.0),
        train=Train(batch_size=1, steps=1),
        eval=Eval(**fields),
    )
    with pytest.raises(ConfigError, match=said):
        validate(config)
