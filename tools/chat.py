"""Talks to a model, with the template of its training: `jaxsft chat`."""

from jaxsft.cli.programs import chat

if __name__ == "__main__":
    chat.start()
