"""A config.json as published is read like what transformers makes of it, and what has no effect is
told; that models which transformers wrote compute the same is tested in test_families.py.
"""

import copy

import pytest
import torch
import transformers

from jaxsft.convert.families.config_json import ACTIVATION_NAMES, WEIGHTS, settings_from_config
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.registry import FAMILIES
from tests.convert.families import multimodal_cases
from tests.convert.families.family_cases import FILES, WITH_EXPERTS

PUBLISHED = {**multimodal_cases.PUBLISHED}
TOLD = {}
for file in FILES.values():
    PUBLISHED |= file.published
    TOLD |= file.told


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read_as_transformers_completes_it(name):
    published = PUBLISHED[name]
    kind = transformers.CONFIG_MAPPING[published["model_type"]]
    completed = kind.from_dict(copy.deepcopy(published)).to_dict()
    if "use_sliding_window" in published and not completed["sliding_window"]:
        completed["sliding_window"] = None  # which transformers writes as 0 in one family
    completed["architectures"] = None  # transformers looks at its own mapping
    found, told = settings_from_config(published, "config.json")
    assert found == settings_from_config(completed, "config.json")[0]
    for line in TOLD.get(name, []):
        assert sum(line in note for note in told) == 1, told


TINY = {
    **{"vocab_size": 16, "hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "pad_token_id": None},
}
EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_field_that_is_only_told_is_read_by_transformers(name, monkeypatch):
    """So it can't change a logit: transformers' class builds and runs without a look at it."""
    ours, theirs = set(), set()
    tiny = TINY | (EXPERTS if name in WITH_EXPERTS else {})
    raw = Fields.raw
    monkeypatch.setattr(Fields, "raw", lambda self, field: ours.add(field) or raw(self, field))
    settings_from_config({**tiny, "model_type": name}, "config.json")
    config = transformers.CONFIG_MAPPING[name](**tiny)
    get = transformers.PreTrainedConfig.__getattribute__

    def watched(self, field):
        theirs.add(field)
        return get(self, field)

    monkeypatch.setattr(transformers.PreTrainedConfig, "__getattribute__", watched)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model(torch.arange(4)[None])
    assert "hidden_size" in theirs & ours
    told = {*WEIGHTS, *ACTIVATION_NAMES, "pretraining_tp", *FAMILIES[name].harmless}
    assert not theirs & told - ours
