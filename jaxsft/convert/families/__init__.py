"""Model families, one file each: how config.json is read, what stands for missing fields, how its
tensors lie in the parameter tree, and what llama.cpp calls them.

`registry` lists them, `family` says what one is. What several share: `shared_fields` and
`moe_fields` (config.json), `shared_rows` and `moe_rows` (tensor tables), `gguf_names`. Beneath them
lie `fields`, `rope` and `tensor_table`; above them `config_json` reads any of them.
"""
