"""The families that can be read, by their model_type; a new one is its file and its line here.

The lines' order is that of messages; where two families have one GGUF architecture, its files are
read as the first. What is imported is what there is, so that no second list can forget a family.
"""

from jaxsft.convert.families.family import Family
from jaxsft.convert.families.llama import FAMILY as LLAMA
from jaxsft.convert.families.mistral import FAMILY as MISTRAL
from jaxsft.convert.families.ministral import FAMILY as MINISTRAL
from jaxsft.convert.families.qwen2 import FAMILY as QWEN2
from jaxsft.convert.families.qwen3 import FAMILY as QWEN3
from jaxsft.convert.families.gemma import FAMILY as GEMMA
from jaxsft.convert.families.gemma2 import FAMILY as GEMMA2
from jaxsft.convert.families.gemma3_text import FAMILY as GEMMA3_TEXT
from jaxsft.convert.families.phi3 import FAMILY as PHI3
from jaxsft.convert.families.olmo2 import FAMILY as OLMO2
from jaxsft.convert.families.olmo3 import FAMILY as OLMO3
from jaxsft.convert.families.smollm3 import FAMILY as SMOLLM3
from jaxsft.convert.families.granite import FAMILY as GRANITE
from jaxsft.convert.families.cohere import FAMILY as COHERE
from jaxsft.convert.families.cohere2 import FAMILY as COHERE2
from jaxsft.convert.families.glm4 import FAMILY as GLM4
from jaxsft.convert.families.starcoder2 import FAMILY as STARCODER2
from jaxsft.convert.families.gpt_neox import FAMILY as GPT_NEOX
from jaxsft.convert.families.mixtral import FAMILY as MIXTRAL
from jaxsft.convert.families.qwen2_moe import FAMILY as QWEN2_MOE
from jaxsft.convert.families.qwen3_moe import FAMILY as QWEN3_MOE
from jaxsft.convert.families.olmoe import FAMILY as OLMOE
from jaxsft.convert.families.gpt_oss import FAMILY as GPT_OSS

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in tuple(globals().values()) if isinstance(family, Family)
}
