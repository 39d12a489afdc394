"""A checkpoint of a run as a Hugging Face directory or .gguf file: `jaxsft export`."""

from jaxsft.cli.programs import export

if __name__ == "__main__":
    export.start()
