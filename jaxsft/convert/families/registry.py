"""The families that can be read, by their model_type; a new one is its file and its line here."""

from jaxsft.convert.families import (
    cohere,
    cohere2,
    gemma,
    gemma2,
    gemma3_text,
    glm4,
    gpt_neox,
    gpt_oss,
    granite,
    llama,
    ministral,
    mistral,
    mixtral,
    olmo2,
    olmo3,
    olmoe,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    smollm3,
    starcoder2,
)
from jaxsft.convert.families.family import Family

# In the order of messages. Where two have one GGUF architecture, its files are read as the first.
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        llama.FAMILY,
        mistral.FAMILY,
        ministral.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
        gemma.FAMILY,
        gemma2.FAMILY,
        gemma3_text.FAMILY,
        phi3.FAMILY,
        olmo2.FAMILY,
        olmo3.FAMILY,
        smollm3.FAMILY,
        granite.FAMILY,
        cohere.FAMILY,
        cohere2.FAMILY,
        glm4.FAMILY,
        starcoder2.FAMILY,
        gpt_neox.FAMILY,
        mixtral.FAMILY,
        qwen2_moe.FAMILY,
        qwen3_moe.FAMILY,
        olmoe.FAMILY,
        gpt_oss.FAMILY,
    )
}
