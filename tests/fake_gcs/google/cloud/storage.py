"""As much of google-cloud-storage as Orbax asks: whether a bucket has real folders."""

import types

import objects


class Client:
    def get_bucket(self, name: str) -> types.SimpleNamespace:
        if not objects.bucket(name).is_dir():
            raise RuntimeError(f"404 GET b/{name}: The specified bucket does not exist.")
        return types.SimpleNamespace(hierarchical_namespace_enabled=False)
