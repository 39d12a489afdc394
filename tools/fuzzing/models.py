"""Models, tokenizers, adapters and checkpoints, small ones, read as a run reads them."""

import functools
import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing import changes, rows
from jaxsft.files import run_names

VOCAB, WIDTH, HEADS, MLP = 24, 8, 2, 16
_LLAMA = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    **{"vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": MLP, "head_dim": 4},
    **{"num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": 1},
    **{"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "dtype": "float32"},
    **{"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2},
}
_LAYER = "model.layers.0."
_SHAPES = {
    "model.embed_tokens.weight": (VOCAB, WIDTH),
    "model.norm.weight": (WIDTH,),
    "lm_head.weight": (VOCAB, WIDTH),
    **{f"{_LAYER}{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")},
    **{f"{_LAYER}self_attn.{name}_proj.weight": (8, WIDTH) for name in ("q",)},
    **{f"{_LAYER}self_attn.{name}_proj.weight": (4, WIDTH) for name in ("k", "v")},
    f"{_LAYER}self_attn.o_proj.weight": (WIDTH, 8),
    **{f"{_LAYER}mlp.{name}_proj.weight": (MLP, WIDTH) for name in ("gate", "up")},
    f"{_LAYER}mlp.down_proj.weight": (WIDTH, MLP),
}
_ADAPTER = {
    **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "../base"},
    **{"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "bias": "none", "use_rslora": False},
    **{"target_modules": ["q_proj", "down_proj"], "modules_to_save": None, "use_dora": False},
    **{"rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None},
    **{"exclude_modules": None, "target_parameters": None, "fan_in_fan_out": False},
}
_OTHERS = [*_LLAMA, *_SHAPES, "../base", "(a|aa)+$", r".*(q|down)_proj", "all-linear", "default"]
TEXT = "Hello é🙂 <|im_start|> 12"


def _weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    values = np.random.default_rng(0)
    return {name: values.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _save_base(folder: Path, num_files: int = 1) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_LLAMA))
    arrays = _weights(_SHAPES)
    if num_files == 1:
        save_file(arrays, folder / "model.safetensors", {"format": "pt"})
        return
    weight_map = {name: f"model-{n % 2 + 1}.safetensors" for n, name in enumerate(arrays)}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for file in set(weight_map.values()):
        held = {name: array for name, array in arrays.items() if weight_map[name] == file}
        save_file(held, folder / file)


def safetensors_seeds(folder: Path) -> None:
    _save_base(folder / "one")
    _save_base(folder / "two", num_files=2)


def change_safetensors(data: bytes, chance: random.Random) -> bytes:
    """The index, the header as it is understood, or bytes of header and data."""
    if data.startswith(b"{"):
        return changes.of_json(data, chance, _OTHERS)
    (size,) = struct.unpack("<Q", data[:8])
    if chance.random() < 0.4:
        head = changes.of_bytes(data[: 8 + size], chance)
        return head + data[8 + size :]
    if chance.random() < 0.2:
        return changes.of_bytes(data, chance)
    header = changes.of_json(data[8 : 8 + size], chance, [*_OTHERS, "BF16", "F8_E4M3", [0, 64]])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def read_weights(folder: Path, name: str = "") -> None:
    """Opens the model and reads its parameters to one device."""
    from jaxsft.convert import pretrained
    from jaxsft.devices import mesh
    from jaxsft.model import state

    base = pretrained.open_pretrained(folder / name)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh.single_device_mesh())
    pretrained.read_params(base, placement)


def config_seeds(folder: Path) -> None:
    """Those of the recipes' models, and of each family as transformers has them by default."""
    from transformers import CONFIG_MAPPING

    from jaxsft.convert.families.registry import FAMILIES

    found = sorted((rows.ROOT / "configs" / "bench_models").glob("*/config.json"))
    texts = {path.parent.name: path.read_text() for path in found}
    for family in FAMILIES:
        if family in CONFIG_MAPPING:
            texts[family] = json.dumps(CONFIG_MAPPING[family]().to_dict())
    for name, text in texts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(text)
        (folder / name / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')


def read_config(folder: Path) -> None:
    from jaxsft.convert import pretrained
    from jaxsft.model import state

    base = pretrained.open_pretrained(folder, weights=False)
    state.abstract(base.settings, "float32", "none")


def tokenizer_seeds(folder: Path) -> None:
    shutil.copytree(rows.MODEL, folder / "bpe")
    (folder / "bpe" / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')


def change_tokenizer(data: bytes, chance: random.Random) -> bytes:
    words = ["<|im_end|>", "Split", "ByteLevel", "BPE", "WordPiece", "Unigram", "Regex", "(a+)+$"]
    return changes.of_json(data, chance, [*words, {"Regex": "(a+)+$"}, {"type": "ByteLevel"}])


def read_tokenizer(folder: Path) -> None:
    from jaxsft.convert import source
    from jaxsft.data.encode.tokenize import ChatTokenizer

    tokenizer = ChatTokenizer(str(source.tokenizer_directory(rows.MODEL, chosen=folder)))
    _encode(tokenizer)


def _encode(tokenizer: Any) -> None:
    from jaxsft.config import Data
    from jaxsft.data.conversation import RawRow
    from jaxsft.data.encode.outcomes import outcome_of
    from jaxsft.data.read import formats

    said = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
    row = RawRow("rows.jsonl", 1, json.dumps({"messages": said}).encode())
    record = formats.record_of(row, "messages", {})
    if tokenizer.has_template:
        outcome = outcome_of(tokenizer, record, Data(train=(), sequence_length=256), 512)
        for example in outcome.kept:
            tokenizer.decode(list(example.ids))


def gguf_seeds(folder: Path) -> None:
    import gguf

    folder = folder / "llama"
    folder.mkdir(parents=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    numbers = {
        **{"vocab_size": VOCAB, "block_count": 1, "context_length": 64, "embedding_length": WIDTH},
        **{"feed_forward_length": MLP, "attention.head_count": HEADS, "attention.key_length": 4},
        **{"attention.head_count_kv": 1, "rope.dimension_count": 4},
    }
    for name, number in numbers.items():
        writer.add_uint32(f"llama.{name}", number)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    letters = [chr(97 + number) for number in range(VOCAB - 4)]
    writer.add_token_list(["<s>", "</s>", "ab", "abc", *letters])
    writer.add_token_types([3, 3, *[1] * (VOCAB - 2)])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template((rows.MODEL / "chat_template.jinja").read_text())
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    parts |= {f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"}
    parts |= {"self_attn.o_proj": "attn_output"}
    parts |= {f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}
    names |= {f"{_LAYER}{theirs}": f"blk.0.{ours}" for theirs, ours in parts.items()}
    for name, array in _weights(_SHAPES).items():
        writer.add_tensor(f"{names[name.removesuffix('.weight')]}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def change_gguf(data: bytes, chance: random.Random) -> bytes:
    """Mostly its header, which is small here."""
    if chance.random() < 0.1:
        return changes.of_bytes(data, chance)
    size = data.rindex(b".weight") + 64
    return changes.of_bytes(data[:size], chance) + data[size:]


def read_gguf(folder: Path) -> None:
    from jaxsft.convert import source
    from jaxsft.data.encode.tokenize import ChatTokenizer

    read_weights(folder, "model.gguf")
    made = source.tokenizer_directory(folder / "model.gguf", cache_dir=str(folder / "cache"))
    _encode(ChatTokenizer(str(made)))


def adapter_seeds(folder: Path) -> None:
    from safetensors.numpy import save_file

    for name, changed in {"lora": {}, "saved": {"modules_to_save": ["lm_head"]}}.items():
        _save_base(folder / name / "base")
        made = folder / name / "adapter"
        made.mkdir()
        (made / "adapter_config.json").write_text(json.dumps(_ADAPTER | changed))
        shapes: dict[str, tuple[int, ...]] = {}
        for module in ("self_attn.q_proj", "mlp.down_proj"):
            width_out, width_in = _SHAPES[f"{_LAYER}{module}.weight"]
            prefix = f"base_model.model.{_LAYER}{module}"
            shapes[f"{prefix}.lora_A.weight"] = (2, width_in)
            shapes[f"{prefix}.lora_B.weight"] = (width_out, 2)
        if changed:
            shapes["base_model.model.lm_head.weight"] = _SHAPES["lm_head.weight"]
        save_file(_weights(shapes), made / "adapter_model.safetensors")


change_adapter = change_safetensors


def read_adapter(folder: Path) -> None:
    read_weights(folder, "adapter")


def _state() -> Any:
    import jax.numpy as jnp

    return {"params": {"w_AB": jnp.ones((4, 8))}, "step": jnp.int32(3)}


def checkpoint_seeds(folder: Path) -> None:
    from jaxsft.data.cache.manifest import TrainedOn
    from jaxsft.rundir.checkpoint.notes import Best, Notes
    from jaxsft.rundir.checkpoint.store import CheckpointStore

    store = CheckpointStore(folder / "run" / run_names.CHECKPOINTS, keep=2)
    trained_on = TrainedOn("f0", "{{ messages }}", [2])
    store.save(3, _state(), Notes({"config.train.seed": 1}, "2026-01-31", trained_on, Best()))
    store.wait()


def change_checkpoint(data: bytes, chance: random.Random) -> bytes:
    """Where it is JSON, a value too; mostly without the seal that would tell."""
    try:
        values = json.loads(data)
    except ValueError:
        return changes.of_bytes(data, chance)
    if chance.random() < 0.3:
        return changes.of_bytes(data, chance)
    changed = changes.of_values(values, chance)
    if chance.random() < 0.7:
        _unseal(changed)
    return changes.json_text(changed, chance)


def _unseal(values: Any) -> None:
    """Takes the seal away, which an earlier version did not write."""
    if isinstance(values, dict):
        for key in [key for key in values if "seal" in key or "crc" in key]:
            del values[key]
        for inner in values.values():
            _unseal(inner)


@functools.cache
def _without_waiting() -> None:
    from jaxsft.rundir.checkpoint import store

    store.RETRY_SECONDS = ()


def read_checkpoint(folder: Path) -> None:
    import jax

    from jaxsft.errors import CheckpointError
    from jaxsft.rundir import identity
    from jaxsft.rundir.checkpoint.store import CheckpointStore

    _without_waiting()
    store = CheckpointStore(folder / run_names.CHECKPOINTS, keep=2)
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), _state()
    )
    for step in store.steps():
        notes = store.notes(step)
        try:
            identity.refuse_changes(notes.identity, {"config.train.seed": 1}, ())
        except CheckpointError:
            pass
        store.restore(step, wanted)
