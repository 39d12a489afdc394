"""How far a model's weights are from another's: `jaxsft compare_models`."""

from jaxsft.cli.programs import compare_models

if __name__ == "__main__":
    compare_models.start()
